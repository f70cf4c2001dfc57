"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108), from the Hugging Face Hub or a folder."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from pydantic import Field
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor

import topwork
from topwork_plugins.backbones.pretrained import (
    LOADING,
    check_vocabulary,
    check_weights,
    is_local,
    prepare_tokenizer,
    read_tokenizer,
    why_not_read,
)

if TYPE_CHECKING:  # transformers takes seconds to import, so the code below does it where a model is built
    from transformers import DistilBertModel
    from transformers.models.distilbert.modeling_distilbert import TransformerBlock


class DistilBertBackbone(topwork.Backbone):
    """The encoder of a ``DistilBertModel``, each layer split into its attention and its feed-forward half.

    Parameter names are those of transformers: ``transformer.layer.5.ffn.lin1.weight``.
    """

    def __init__(self, model: "DistilBertModel", tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = model.config
        self.width = model.config.dim
        self.embeddings = model.embeddings
        self.transformer = model.transformer
        self.tokenizer = tokenizer

    def stages(self) -> Sequence[topwork.Stage]:
        stages = [topwork.Stage("embeddings", (self.embeddings,), self._embed, mixes_tokens=False)]
        for number, block in enumerate(cast("Sequence[TransformerBlock]", self.transformer.layer)):
            attention = (block.attention, block.sa_layer_norm)
            feed_forward = (block.ffn, block.output_layer_norm)
            stages += [
                topwork.Stage(
                    f"layer.{number}.attention",
                    attention,
                    partial(_attend, block),
                    mixes_tokens=True,
                    layer=number,
                    run_first_token=partial(_attend_from_first_token, block),
                ),
                topwork.Stage(
                    f"layer.{number}.ffn", feed_forward, partial(_feed_forward, block), mixes_tokens=False, layer=number
                ),
            ]
        return stages

    def architecture(self) -> Mapping[str, str | int | float | bool]:
        import transformers

        return {
            "numerics": 1,  # the version of the code below; transformers' has its own
            "transformers": transformers.__version__,
            "heads": self.config.n_heads,
            "activation": self.config.activation,
            "attention": self.config._attn_implementation,
        }

    def save(self, folder: Path) -> None:
        self.config.save_pretrained(folder)
        self.tokenizer.save(str(folder / "tokenizer.json"))

    def to_transformers(self) -> "DistilBertModel":
        import transformers
        from transformers.initialization import no_init_weights

        with no_init_weights():
            model = transformers.DistilBertModel(self.config)
        model.load_state_dict(self.state_dict())
        model.eval()
        return model

    @classmethod
    def restore(cls, folder: Path) -> "DistilBertBackbone":
        """Rebuild a backbone from what ``save`` wrote, with weights that are yet to be filled in.

        Raises:
            ValueError: a file is missing.
        """
        import transformers
        from transformers.initialization import no_init_weights

        for name in ("config.json", "tokenizer.json"):  # without its config transformers would take its default
            if not (folder / name).is_file():
                raise ValueError(f"{name} is missing")
        config = transformers.DistilBertConfig.from_pretrained(folder)
        with no_init_weights():  # drawing them takes longer than all else here
            model = transformers.DistilBertModel(config)
        return cls(model, Tokenizer.from_file(str(folder / "tokenizer.json")))

    def _embed(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        embedded: Tensor = self.embeddings(token_ids)
        return embedded


def _attend(block: "TransformerBlock", hidden: Tensor, mask: Tensor) -> Tensor:
    # Without padding no mask is passed, which lets torch take its fastest kernel.
    attention_mask = None if mask.all() else mask[:, None, None, :]
    attended, _ = block.attention(hidden, attention_mask=attention_mask)
    normed: Tensor = block.sa_layer_norm(attended + hidden)
    return normed


def _attend_from_first_token(block: "TransformerBlock", hidden: Tensor, mask: Tensor) -> Tensor:
    """Do what ``_attend`` does for the first token alone: all keys and values, one query.

    Sums are written out, because torch's attention kernels split a single query among threads by the batch size. So
    does its softmax, number by number, where several columns lie side by side; here each column is a matrix of its own.
    """
    attention, first = block.attention, hidden[:, :1]
    texts, heads = len(hidden), attention.n_heads
    by_head = (texts, -1, heads, attention.attention_head_size)
    query = topwork.rowwise(attention.q_lin, first).view(by_head)  # (B, 1, heads, D / heads)
    key, value = attention.k_lin(hidden).view(by_head), attention.v_lin(hidden).view(by_head)  # (B, T, heads, ...)
    scores = (attention.scaling * query * key).sum(-1).masked_fill(~mask[:, :, None], -torch.inf)  # (B, T, heads)
    weights = scores.transpose(1, 2).reshape(texts * heads, -1, 1).softmax(1).view(texts, heads, -1)
    weights = weights.transpose(1, 2).contiguous()  # (B, T, heads)
    attended = (weights[..., None] * value).sum(1, keepdim=True)  # (B, 1, heads, D / heads)
    projected = topwork.rowwise(attention.out_lin, attended.flatten(2))
    normed: Tensor = block.sa_layer_norm(projected + first)
    return normed


def _feed_forward(block: "TransformerBlock", hidden: Tensor, mask: Tensor) -> Tensor:
    normed: Tensor = block.output_layer_norm(block.ffn(hidden) + hidden)
    return normed


class DistilBertConfig(topwork.BackboneConfig):
    """Settings of the backbone ``distilbert``.

    Attributes:
        model: a name on the Hub, looked up in the local cache first, or a folder in the Hub's layout.
        revision: a branch, tag or commit on the Hub.
        max_length: tokens per text, special tokens included; longer texts are truncated and counted.
    """

    kind: Literal["distilbert"] = "distilbert"
    model: str = "distilbert-base-uncased"
    revision: str = "main"
    max_length: int = Field(default=512, strict=True, ge=3)

    def build(self) -> topwork.Backbone:
        local = is_local(self.model, self.revision)
        try:
            with topwork.quiet_transformers():
                model, tokenizer = self._load(local)
        except (OSError, RuntimeError, SafetensorError) as error:
            where = "" if local else f"there is no folder {self.model!r}, and on the Hub "
            raise ValueError(f"{where}model {self.model!r} cannot be read: {why_not_read(error)}") from error
        check_vocabulary(self.model, tokenizer, model)
        prepare_tokenizer(tokenizer, self.max_length)
        return DistilBertBackbone(model, tokenizer)

    def _load(self, local: bool) -> "tuple[DistilBertModel, Tokenizer]":
        from transformers import AutoConfig, DistilBertModel

        found = AutoConfig.from_pretrained(self.model, revision=self.revision, local_files_only=local)
        if found.model_type != "distilbert":
            raise ValueError(
                f"model {self.model!r} is of type {found.model_type}; kind distilbert reads distilbert only"
            )
        if self.max_length > found.max_position_embeddings:
            raise ValueError(
                f"max_length must be at most {found.max_position_embeddings}, the positions of {self.model!r}, "
                f"but is {self.max_length}"
            )
        loaded = DistilBertModel.from_pretrained(
            self.model, revision=self.revision, local_files_only=local, dtype=torch.float32, **LOADING
        )
        model, report = cast("tuple[DistilBertModel, dict[str, Any]]", loaded)
        check_weights(self.model, model, report)
        return model, read_tokenizer(self.model, self.model, self.revision, local=local)

    def restore(self, folder: Path) -> topwork.Backbone:
        return DistilBertBackbone.restore(folder)


@topwork.hookimpl
def register_backbones(register: topwork.Register[topwork.BackboneConfig]) -> None:
    register(DistilBertConfig)
