"""A backbone: a pretrained encoder as an ordered list of stages."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxtyping import Bool, Float, Int, Shaped
from tokenizers import Tokenizer
from torch import Tensor, nn

from topwork.interfaces.plugin import PluginConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: In which matrix products are computed.
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Stage:
    """One step of a backbone's forward pass.

    Attributes:
        name: what plans and messages call it, such as ``layer.5.ffn``.
        modules: the modules whose parameters and buffers it uses; no two stages share one.
        run: the step itself. The first stage maps token ids (B, T), every other stage hidden states
            (B, T, D), and the mask (B, T), True at real tokens, to hidden states (B, T, D).
        mixes_tokens: whether a token's output depends on more than that token's input: on other tokens of
            its text or, after the first stage, on its position. Attention does, a feed-forward network does not.
        layer: the number of the transformer layer it belongs to, from 0; None outside the layers.
        run_first_token: for a stage that mixes tokens, the same step for the first token's result alone:
            hidden states (B, T, D) and the mask to (B, 1, D). Optional; where the first token is all that
            is needed, it saves most of the last attention. See ``topwork.rowwise``.
    """

    name: str
    modules: tuple[nn.Module, ...]
    run: Callable[[Shaped[Tensor, "B T *D"], Bool[Tensor, "B T"]], Float[Tensor, "B T D"]]
    mixes_tokens: bool
    layer: int | None = None
    run_first_token: Callable[[Float[Tensor, "B T D"], Bool[Tensor, "B T"]], Float[Tensor, "B 1 D"]] | None = None


class Backbone(nn.Module, ABC):
    """A pretrained encoder from token ids to hidden states.

    Attributes:
        width: D, the columns of a hidden state.
        tokenizer: turns texts into token ids. It adds the special tokens and truncates at the maximum
            length that the researcher asked for; the core counts what it truncates.
        prefix: what the core puts before every text, before each of a pair, and as words before those of a text that
            is divided into words, for models that were trained so.
    """

    width: int
    tokenizer: Tokenizer
    prefix: str = ""

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """Return the steps of the forward pass, first to last.

        Together they use every parameter of the backbone. The core runs them in two parts: once up to
        the first stage that trains, every epoch from there on.
        """

    @abstractmethod
    def architecture(self) -> Mapping[str, str | int | float | bool]:
        """Return what decides the stages' results besides their weights, such as the number of attention heads.

        It is part of what stored activations are filed under: two backbones with equal weights and equal
        architecture share them. Leave out names, paths, and what only matters in train mode; put in a number
        that you raise whenever a change of the code changes a bit of a result.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write to ``folder`` what ``BackboneConfig.restore`` needs: architecture and tokenizer, no weights."""

    def to_transformers(self) -> "PreTrainedModel":
        """Return a copy of the encoder as a model of transformers, with its weights as they are, in eval mode.

        Optional; it is what ``topwork export`` needs.

        Raises:
            NotImplementedError: it is no model of transformers.
        """
        raise NotImplementedError

    def forward(self, token_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Fold the stages over ``token_ids`` (B, T) with ``mask`` (B, T); return hidden states (B, T, D)."""
        hidden: Tensor = token_ids
        for stage in self.stages():
            hidden = stage.run(hidden, mask)
        return hidden


class BackboneConfig(PluginConfig, ABC):
    """The settings of a backbone; ``backbone:`` in an experiment file.

    Attributes:
        precision: in which the core runs the stages left of the cut. ``bfloat16`` is mixed precision: matrix products
            are in bfloat16, and what a stage gives is float32.
    """

    precision: Precision = "float32"

    @abstractmethod
    def build(self) -> Backbone:
        """Load the pretrained encoder, in float32.

        Raises:
            ValueError: the weights cannot be found or do not fit; the core adds where the setting stands.
        """

    @abstractmethod
    def restore(self, folder: Path) -> Backbone:
        """Rebuild the encoder from what ``Backbone.save`` wrote; the core fills in the trained weights."""
