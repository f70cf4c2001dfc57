"""The frozen part of an encoder: from token ids to what the cut keeps of a text."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, takewhile
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from topwork.building_blocks import rowwise
from topwork.engine.model.mixed_precision import forget_casts, precision_of_stage
from topwork.interfaces.backbone import Backbone, Stage
from topwork.interfaces.pooling import Layer, Pooling


@dataclass(frozen=True)
class Cut:
    """The boundary before the first stage that trains.

    Attributes:
        stage: how many stages are left of it, in the prefix.
        keeps: what the prefix gives for a text: its ``token ids`` where the prefix is empty, the hidden
            state of its ``first token``, those of all ``tokens``, the pooled vectors of its ``layers`` alone, or its
            ``pooled`` vector.
        layers: how many layers' pooled vectors stand first in what is kept of a text.
    """

    stage: int
    keeps: Literal["token ids", "first token", "tokens", "layers", "pooled"]
    layers: int = 0

    @property
    def keeps_every_token(self) -> bool:
        """Whether something of each token is kept."""
        return self.keeps in ("token ids", "tokens")

    @property
    def leading(self) -> int:
        """How many vectors are kept of a text before those of its tokens or words."""
        return self.layers + (self.keeps in ("first token", "pooled"))

    def mask(self, mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B kept"]:
        """Return the mask of what is kept of texts of which no head reads words."""
        leading = mask.new_ones(len(mask), self.leading)
        return torch.cat([leading, mask], dim=1) if self.keeps_every_token else leading


@dataclass(frozen=True)
class Prefix:
    """Runs the stages left of a cut, frozen, without gradient.

    Attributes:
        backbone: of which the stages are.
        pooling: what pools what they give, where the cut is behind it.
        cut: the boundary.
        ends: after how many stages each layer ends that the pooling reads; none where it reads what the last gives.
        pools: whether some head reads a pooled vector.
        mixed_stages: how many of the first stages run in mixed precision, with matrix products in bfloat16.
    """

    backbone: Backbone
    pooling: Pooling
    cut: Cut
    ends: tuple[int, ...] = ()
    pools: bool = True
    mixed_stages: int = 0

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages left of the cut."""
        return self.backbone.stages()[: self.cut.stage]

    @property
    def width(self) -> int:
        """The columns of what is kept, D or W."""
        return self.pooling.width if self.cut.keeps == "pooled" and self.pools else self.backbone.width

    @property
    def first_token_stage(self) -> int | None:
        """The number of the stage that computes the first token alone; None where all tokens are needed."""
        of_first_token = self.cut.keeps in ("pooled", "layers") and self.pooling.reads_first_token_only
        if not of_first_token and self.cut.keeps != "first token":
            return None
        return max((number for number, stage in enumerate(self.stages) if stage.mixes_tokens), default=0)

    def needs(self, every_token: bool = False) -> tuple[int, ...]:
        """Return after how many stages the hidden states of all tokens are needed, in rising order.

        Args:
            every_token: whether those behind the last stage are to be returned too.
        """
        first_token_stage = None if every_token else self.first_token_stage
        last = self.cut.stage if first_token_stage is None else first_token_stage
        return (*(end for end in self._inner_ends if end < last), last)

    def run(self, token_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Shaped[Tensor, "B kept *columns"]:
        """Turn token ids (B, T) with mask (B, T) into what the cut keeps, such as (B, T, D), (B, 1, D) or (B, 1, W)."""
        return self.finish(run_stages(self.stages, token_ids, mask, self.needs(), mixed=self.mixed_stages), mask)

    @torch.no_grad()
    def finish(
        self, states: Mapping[int, Shaped[Tensor, "B T *D"]], mask: Bool[Tensor, "B T"], every_token: bool = False
    ) -> Shaped[Tensor, "B vectors *columns"]:
        """Make what the cut keeps of the hidden states (B, T, D) after so many stages as ``needs`` says.

        Where the first token is all that is needed, the last stage that mixes tokens computes no other, and
        the stages behind it see no other.

        Args:
            every_token: whether the hidden states of all tokens are to stand behind it.
        """
        stages, last = self.stages, self.needs(every_token)[-1]
        hidden = states[last]
        layers = [self.pooling(states[end], mask) for end in self._inner_ends if end <= last]
        for number in range(last, self.cut.stage):
            stage = stages[number]
            with precision_of_stage(hidden.device, mixed=number < self.mixed_stages):
                if number == last:
                    hidden, mask = (stage.run_first_token or stage.run)(hidden, mask)[:, :1], mask[:, :1]
                else:
                    hidden = rowwise(partial(_run_on_one_token, stage), hidden)
            hidden = hidden.float() if number < self.mixed_stages else hidden
            if number + 1 in self._inner_ends:
                layers.append(self.pooling(hidden, mask))
        if self.cut.keeps_every_token:
            return torch.cat([*_as_columns(layers), hidden], dim=1) if layers else hidden
        if self.cut.keeps == "pooled" and every_token and not self.pools:
            return torch.cat([hidden[:, :1], hidden], dim=1)  # heads read words alone
        whole = self._whole(hidden, mask, layers)
        return torch.cat([whole, hidden], dim=1) if every_token else whole

    @contextmanager
    def in_eval_mode(self) -> Iterator[None]:
        """Set eval mode within the block."""
        forget_casts()
        training = [module for part in (self.backbone, self.pooling) for module in part.modules() if module.training]
        self.backbone.eval()
        self.pooling.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True

    @property
    def _inner_ends(self) -> tuple[int, ...]:
        """The ends of the layers that are pooled left of the cut."""
        return self.ends if self.cut.keeps == "pooled" else self.ends[: self.cut.layers]

    def _whole(
        self, hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], layers: list[Float[Tensor, "B D"]]
    ) -> Float[Tensor, "B leading columns"]:
        """Return what is kept of texts as a whole."""
        if self.cut.keeps == "pooled":
            pooled: Tensor = self.pooling.combine(torch.stack(layers, dim=1)) if layers else self.pooling(hidden, mask)
            return pooled[:, None]
        if self.cut.keeps == "layers":
            return torch.stack(layers, dim=1)
        return torch.cat([*_as_columns(layers), hidden[:, :1]], dim=1)


@torch.no_grad()
def run_stages(
    stages: Sequence[Stage],
    token_ids: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    needs: Collection[int],
    *,
    mixed: int = 0,
) -> dict[int, Shaped[Tensor, "B T *D"]]:
    """Fold stages over token ids (B, T), and return the hidden states (B, T, D) after so many of them as asked for.

    Args:
        mixed: how many of the first stages run in mixed precision.
    """
    hidden, states = token_ids, {0: token_ids}
    for number, stage in enumerate(stages[: max(needs)], 1):
        with precision_of_stage(hidden.device, mixed=number <= mixed):
            hidden = stage.run(hidden, mask)
        hidden = hidden.float() if number <= mixed else hidden
        if number in needs:
            states[number] = hidden
    return states


def ends_of_layers(stages: Sequence[Stage], layers: Sequence[Layer]) -> tuple[int, ...]:
    """Return after how many stages each of some layers ends.

    What follows the last layer, such as a norm, is part of it.

    Raises:
        ValueError: there is no such layer, or they do not rise.
    """
    of_stages = [stage.layer for stage in stages]
    count = len({layer for layer in of_stages if layer is not None})
    if wrong := [layer for layer in layers if layer != "embeddings" and not -count <= layer < count]:
        raise ValueError(f"the backbone has layers 0 to {count - 1}, or -{count} to -1 from the last, not {wrong[0]}")
    ends = []
    for layer in layers:
        if layer == "embeddings":
            ends.append(len(list(takewhile(lambda of_stage: of_stage is None, of_stages))))
        elif layer in (-1, count - 1):
            ends.append(len(stages))
        else:
            ends.append(max(number for number, found in enumerate(of_stages, 1) if found == layer % count))
    if any(later <= earlier for earlier, later in pairwise(ends)):
        raise ValueError(f"layers must rise, each named once, got {', '.join(map(str, layers))}")
    return tuple(ends)


def _as_columns(layers: list[Float[Tensor, "B D"]]) -> list[Float[Tensor, "B 1 D"]]:
    return [layer[:, None] for layer in layers]


def _run_on_one_token(stage: Stage, hidden: Float[Tensor, "B 1 D"]) -> Float[Tensor, "B 1 D"]:
    """Run a stage on the hidden states (B, 1, D) of one token of each text."""
    return stage.run(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device))
