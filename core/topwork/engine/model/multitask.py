"""One backbone, one pooling, and a head per task, run in two parts: left and right of the cut."""

from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from topwork.engine.model.prefix import Cut, Prefix, ends_of_layers
from topwork.errors import PluginError
from topwork.interfaces.backbone import Backbone, Stage
from topwork.interfaces.head import Head, Reading
from topwork.interfaces.pooling import Pooling


class HeadModules(nn.ModuleDict):
    """The heads' modules by task name."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        # ModuleDict refuses names that are also attributes of a module, but `type` is a fine name for a task.
        self._modules.update(modules)


class MultiTaskModel(nn.Module):
    """A shared encoder with a head per task.

    ``run_prefix`` runs the stages before the cut: frozen, in eval mode, without gradient. Calling the model runs
    the stages after it, the pooling and the heads.

    Attributes:
        layer_ends: after how many stages each layer ends that heads read pooled; none where they read what the last
            stage gives.
        mixed_stages: how many of the first stages run in mixed precision; None for all that are left of the cut.
    """

    def __init__(
        self,
        backbone: Backbone,
        pooling: Pooling,
        tasks: Mapping[str, Head],
        reads: Mapping[str, Reading] | None = None,
        *,
        mixed_stages: int | None = 0,
    ) -> None:
        super().__init__()
        self.mixed_stages = mixed_stages
        self.backbone = backbone
        self.pooling = pooling
        self.heads = HeadModules({name: head.module for name, head in tasks.items()})
        self.tasks = dict(tasks)
        self.reads: dict[str, Reading] = dict.fromkeys(tasks, "pooled") if reads is None else dict(reads)
        self._ends = ends_of_layers(backbone.stages(), pooling.layers)
        self.layer_ends = self._ends if self.reads_pooled else ()
        self.cut = Cut(0, "token ids")
        self.running: tuple[str, ...] = (
            "backbone",
        )  # the part that ran last, in the experiment's words, for whoever must name it

    def set_trainable(self, names: Collection[str]) -> None:
        """Let the backbone parameters in ``names`` train, freeze the others, and move the cut.

        Raises:
            PluginError: a name is not that of a backbone parameter.
        """
        parameters = {f"backbone.{name}": parameter for name, parameter in self.backbone.named_parameters()}
        unknown = sorted(set(names) - parameters.keys())
        if unknown:
            raise PluginError(f"a freeze strategy must name backbone parameters, but named {', '.join(unknown[:3])}")
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in names)
        self.cut = find_cut(self)

    def train(self, mode: bool = True) -> "MultiTaskModel":
        """Set train mode right of the cut only: whoever calls this, the prefix stays in eval mode."""
        super().train(mode)
        for stage in self.prefix.stages:
            for module in stage.modules:
                module.eval()
        if self.cut.keeps == "pooled":
            self.pooling.eval()
        return self

    @property
    def prefix(self) -> Prefix:
        """The part left of the cut."""
        return self.prefix_of(self.cut)

    def prefix_of(self, cut: Cut) -> Prefix:
        """Return the part left of a cut."""
        ends = self._ends if cut.keeps == "pooled" else self.layer_ends
        mixed = cut.stage if self.mixed_stages is None else self.mixed_stages
        return Prefix(self.backbone, self.pooling, cut, ends, self.reads_pooled, mixed)

    def run_prefix(self, token_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Shaped[Tensor, "B kept *columns"]:
        """Turn token ids (B, T) with mask (B, T) into what the cut keeps."""
        self.running = ("backbone",)
        return self.prefix.run(token_ids, mask)

    def stages(self) -> Sequence[Stage]:
        """Return the stages that run: those behind the last layer that is read do not."""
        stages = self.backbone.stages()
        return stages if self.reads_words or not self.layer_ends else stages[: self.layer_ends[-1]]

    @property
    def reads_pooled(self) -> bool:
        """Whether some head reads a pooled vector."""
        return not self.reads or any(reading != "words" for reading in self.reads.values())

    @property
    def reads_words(self) -> bool:
        """Whether some head reads words."""
        return "words" in self.reads.values()

    def pool(
        self,
        kept: Shaped[Tensor, "B kept *D"],
        mask: Bool[Tensor, "B kept"],
        windows: Int[Tensor, " texts"] | None = None,
    ) -> Float[Tensor, "texts W"]:
        """Turn what the cut keeps, with its mask, into pooled vectors (B, W).

        Args:
            windows: where texts are divided, how many of the B each has; their vectors are averaged.
        """
        pooled = self._pool(*self.run_suffix(kept, mask), mask)
        return pooled if windows is None else _mean_of_windows(pooled, windows)

    def run_suffix(
        self, kept: Shaped[Tensor, "B kept *D"], mask: Bool[Tensor, "B kept"]
    ) -> tuple[Float[Tensor, "B kept columns"], list[Float[Tensor, "B D"]]]:
        """Run the stages right of the cut.

        Returns hidden states in the places of what is kept, and the pooled vectors of the layers that are read.
        """
        if self.cut.keeps == "pooled":
            return kept, []
        before, stages, done = self.cut.layers, self.stages(), self.cut.stage
        layers = list(kept[:, :before].unbind(dim=1))
        hidden, of_tokens = kept[:, before:], mask[:, before:]
        for end in self.layer_ends[before:]:
            hidden, done = self._run(stages[done:end], hidden, of_tokens), end
            layers.append(self._pool_states(hidden, of_tokens))
        hidden = self._run(stages[done:], hidden, of_tokens)
        return torch.cat([kept[:, :before], hidden], dim=1) if before else hidden, layers

    def _pool(
        self,
        states: Float[Tensor, "B kept columns"],
        layers: list[Float[Tensor, "B D"]],
        mask: Bool[Tensor, "B kept"],
    ) -> Float[Tensor, "B W"]:
        """Return the pooled vectors that are kept, or those of layers, combined, or those of hidden states."""
        if self.cut.keeps == "pooled":
            return states[:, 0]
        return self.pooling.combine(torch.stack(layers, dim=1)) if layers else self._pool_states(states, mask)

    def _pool_states(self, hidden: Float[Tensor, "B kept D"], mask: Bool[Tensor, "B kept"]) -> Float[Tensor, "B W"]:
        """Pool the hidden states of what is kept of texts, of which words that heads read may be a part."""
        if self.cut.keeps == "first token":
            hidden, mask = hidden[:, :1], mask[:, :1]
        pooled: Tensor = self.pooling(hidden, mask)
        return pooled

    def _run(
        self, stages: Sequence[Stage], hidden: Shaped[Tensor, "B kept *D"], mask: Bool[Tensor, "B kept"]
    ) -> Float[Tensor, "B kept D"]:
        """Run some stages; where none mixes tokens, on the real tokens alone, without padding."""
        mixes = any(stage.mixes_tokens for stage in stages)
        if stages and self.cut.stage > 0 and not mixes and not mask.all():
            padded, packed = hidden, hidden[mask][None]  # (B, T, D), (1, real tokens, D)
            for stage in stages:
                packed = stage.run(packed, mask[mask][None])
            return torch.zeros_like(padded).masked_scatter(mask[:, :, None], packed)
        for stage in stages:
            hidden = stage.run(hidden, mask)
        return hidden

    def forward(
        self,
        hidden: Shaped[Tensor, "B kept *D"],
        mask: Bool[Tensor, "B kept"],
        inputs: Mapping[str, Int[Tensor, "_L ..."]],
        windows: Int[Tensor, " texts"] | None = None,
    ) -> dict[str, Float[Tensor, "_L ..."]]:
        """Turn what the cut keeps of B texts into the outputs (L, C) of each task, or (L, S, C) of words.

        Args:
            inputs: for each task whose head is to run, the numbers of the texts that it gets: (L,), or (L, 2) for a
                head that reads two apart. For a head that reads words, their places (L, S) among all vectors that are
                kept, counted through: the vector k of text b is b * kept + k. -1 where a text has no further word.
            windows: where texts are divided, how many of the B each has. Heads then read the means of their pooled
                vectors, and ``inputs`` numbers texts.
        """
        self.running = ("pooling",)
        states, layers = self.run_suffix(hidden, mask)
        reads_pooled = any(self.reads[name] != "words" for name in inputs)
        pooled = self._pool(states, layers, mask) if reads_pooled else states[:, 0]
        if windows is not None:
            pooled = _mean_of_windows(pooled, windows)
        outputs = {}
        for name, numbers in inputs.items():
            self.running = ("tasks", name, "head")
            # copies in all cases: what one head writes into them no other sees
            if self.reads[name] == "words":
                places = numbers.to(states.device)
                words = states.flatten(0, 1)[places.clamp(min=0)].masked_fill((places < 0)[:, :, None], 0.0)
                outputs[name] = self.heads[name](words, places >= 0)
            else:
                whole = numbers.shape == (len(pooled),)
                outputs[name] = self.heads[name](pooled.clone() if whole else pooled[numbers.to(pooled.device)])
        return outputs


def head_width(reading: Reading, backbone: Backbone, pooling: Pooling) -> int:
    """Return the columns of the vectors that a head reads: W, or D of words."""
    return backbone.width if reading == "words" else pooling.width


def find_cut(model: MultiTaskModel) -> Cut:
    """Find the first stage that trains and what must be kept before it."""
    stages = model.stages()
    first = next((number for number, stage in enumerate(stages) if trains(*stage.modules)), len(stages))
    if first == 0:
        return Cut(0, "token ids")
    of_one_width = not (model.reads_words and model.reads_pooled) or model.pooling.width == model.backbone.width
    if first == len(stages) and not trains(model.pooling) and of_one_width:
        return Cut(first, "pooled")
    layers = sum(end <= first for end in model.layer_ends)
    if first == len(stages) and model.layer_ends:
        return Cut(first, "layers", layers)
    one_token = (model.pooling.reads_first_token_only or not model.reads_pooled) and not any(
        stage.mixes_tokens for stage in stages[first:]
    )
    return Cut(first, "first token" if one_token else "tokens", layers)


def tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return every parameter and buffer with its name: all that a module's result can depend on."""
    return [*module.named_parameters(), *module.named_buffers()]


def _mean_of_windows(pooled: Float[Tensor, "B W"], windows: Int[Tensor, " texts"]) -> Float[Tensor, "texts W"]:
    """Average the vectors of each text's windows, which stand in a row."""
    return torch.segment_reduce(pooled, "mean", lengths=windows.to(pooled.device), axis=0)


def trains(*modules: nn.Module) -> bool:
    """Whether some parameter of some modules trains."""
    return any(parameter.requires_grad for module in modules for parameter in module.parameters())
