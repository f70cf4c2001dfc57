"""One backbone, one pooling, and a head per task, run in two parts: left and right of the cut."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from topwork.building_blocks import rowwise
from topwork.errors import PluginError
from topwork.interfaces.backbone import Backbone, Stage
from topwork.interfaces.head import Head, Reading
from topwork.interfaces.pooling import Pooling


@dataclass(frozen=True)
class Cut:
    """The boundary before the first stage that trains.

    Attributes:
        stage: how many stages are left of it, in the prefix.
        keeps: what the prefix gives for a text: its ``token ids`` where the prefix is empty, the hidden
            state of its ``first token``, those of all ``tokens``, or its ``pooled`` vector.
    """

    stage: int
    keeps: Literal["token ids", "first token", "tokens", "pooled"]


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
    """

    def __init__(
        self,
        backbone: Backbone,
        pooling: Pooling,
        tasks: Mapping[str, Head],
        reads: Mapping[str, Reading] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.heads = HeadModules({name: head.module for name, head in tasks.items()})
        self.tasks = dict(tasks)
        self.reads: dict[str, Reading] = dict.fromkeys(tasks, "pooled") if reads is None else dict(reads)
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
        for stage in self.backbone.stages()[: self.cut.stage]:
            for module in stage.modules:
                module.eval()
        if self.cut.keeps == "pooled":
            self.pooling.eval()
        return self

    @torch.no_grad()
    def run_prefix_on_words(
        self, token_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B vectors columns"]:
        """Turn token ids into what the cut keeps of a text, and behind it the hidden states of all of its tokens.

        Where the cut keeps the first token, or the pooled vector, that gives (B, 1 + T, D).
        """
        self.running = ("backbone",)
        hidden = token_ids
        for stage in self.backbone.stages()[: self.cut.stage]:
            hidden = stage.run(hidden, mask)
        whole = (
            self.pooling(hidden, mask)[:, None] if self.cut.keeps == "pooled" and self.reads_pooled else hidden[:, :1]
        )
        return torch.cat([whole, hidden], dim=1)

    @torch.no_grad()
    def run_prefix(self, token_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Shaped[Tensor, "B kept *columns"]:
        """Turn token ids (B, T) with mask (B, T) into what the cut keeps: (B, T), (B, 1, D), (B, T, D) or (B, 1, W).

        Where the first token is all that is needed, the last stage that mixes tokens computes no other, and
        the stages behind it see no other.
        """
        self.running = ("backbone",)
        hidden = token_ids
        for number, stage in enumerate(self.backbone.stages()[: self.cut.stage]):
            if self.first_token_stage is None or number < self.first_token_stage:
                hidden = stage.run(hidden, mask)
            elif number == self.first_token_stage:
                hidden = (stage.run_first_token or stage.run)(hidden, mask)[:, :1]
                mask = mask[:, :1]
            else:
                hidden = rowwise(partial(_run_on_one_token, stage), hidden)
        if self.cut.keeps == "pooled":
            pooled: Tensor = self.pooling(hidden, mask)
            return pooled[:, None]
        return hidden

    @property
    def first_token_stage(self) -> int | None:
        """The number of the stage in the prefix that computes the first token alone; None where all are needed."""
        first_token_only = self.cut.keeps == "first token" or (
            self.cut.keeps == "pooled" and self.pooling.reads_first_token_only
        )
        if not first_token_only:
            return None
        stages = self.backbone.stages()[: self.cut.stage]
        return max((number for number, stage in enumerate(stages) if stage.mixes_tokens), default=0)

    @property
    def reads_pooled(self) -> bool:
        """Whether some head reads a pooled vector."""
        return not self.reads or any(reading != "words" for reading in self.reads.values())

    @property
    def reads_words(self) -> bool:
        """Whether some head reads words."""
        return "words" in self.reads.values()

    @property
    def kept_width(self) -> int:
        """The columns of what the cut keeps, D or W."""
        return self.pooling.width if self.cut.keeps == "pooled" and self.reads_pooled else self.backbone.width

    def pool(self, hidden: Shaped[Tensor, "B kept *D"], mask: Bool[Tensor, "B kept"]) -> Float[Tensor, "B W"]:
        """Turn what the cut keeps, with its mask (B, T) or (B, 1), into pooled vectors (B, W)."""
        return self._pool(self._run_suffix(hidden, mask), mask)

    def _pool(self, states: Float[Tensor, "B kept D"], mask: Bool[Tensor, "B kept"]) -> Float[Tensor, "B W"]:
        """Pool the hidden states of what is kept of texts, of which words that heads read may be a part."""
        if self.cut.keeps == "pooled":
            return states[:, 0]
        if self.cut.keeps == "first token":
            states, mask = states[:, :1], mask[:, :1]
        pooled: Tensor = self.pooling(states, mask)
        return pooled

    def _run_suffix(
        self, hidden: Shaped[Tensor, "B kept *D"], mask: Bool[Tensor, "B kept"]
    ) -> Float[Tensor, "B kept columns"]:
        """Run the stages right of the cut; where none mixes tokens, on the real tokens alone, without padding."""
        stages = self.backbone.stages()[self.cut.stage :]
        if self.cut.keeps == "pooled":
            return hidden
        packable = self.cut.stage > 0 and not any(stage.mixes_tokens for stage in stages) and not mask.all()
        if packable:
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
    ) -> dict[str, Float[Tensor, "_L ..."]]:
        """Turn what the cut keeps of B texts into the outputs (L, C) of each task, or (L, S, C) of words.

        Args:
            inputs: for each task whose head is to run, the numbers of the texts that it gets: (L,), or (L, 2) for a
                head that reads two apart. For a head that reads words, their places (L, S) among all vectors that are
                kept, counted through: the vector k of text b is b * kept + k. -1 where a text has no further word.
        """
        self.running = ("pooling",)
        states = self._run_suffix(hidden, mask)
        pooled = self._pool(states, mask) if any(self.reads[name] != "words" for name in inputs) else states[:, 0]
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
    stages = model.backbone.stages()
    first = next((number for number, stage in enumerate(stages) if _trains(*stage.modules)), len(stages))
    if first == 0:
        return Cut(0, "token ids")
    of_one_width = not (model.reads_words and model.reads_pooled) or model.pooling.width == model.backbone.width
    if first == len(stages) and not _trains(model.pooling) and of_one_width:
        return Cut(first, "pooled")
    one_token = (model.pooling.reads_first_token_only or not model.reads_pooled) and not any(
        stage.mixes_tokens for stage in stages[first:]
    )
    return Cut(first, "first token" if one_token else "tokens")


def tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return every parameter and buffer with its name: all that a module's result can depend on."""
    return [*module.named_parameters(), *module.named_buffers()]


def _run_on_one_token(stage: Stage, hidden: Float[Tensor, "B 1 D"]) -> Float[Tensor, "B 1 D"]:
    """Run a stage on the hidden states (B, 1, D) of one token of each text."""
    return stage.run(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device))


def _trains(*modules: nn.Module) -> bool:
    return any(parameter.requires_grad for module in modules for parameter in module.parameters())
