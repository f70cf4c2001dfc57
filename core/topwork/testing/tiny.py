"""A transformer small enough to build in a millisecond, for testing other plugins against."""

import string
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from topwork.building_blocks import class_metrics, decode_logits, mlp
from topwork.engine.model.multitask import MultiTaskModel
from topwork.interfaces.backbone import Backbone, BackboneConfig, Stage
from topwork.interfaces.head import Head
from topwork.interfaces.labels import Classes
from topwork.interfaces.pooling import Pooling

WIDTH = 16
LAYERS = 2
POSITIONS = 64


class TinyLayer(nn.Module):
    """Attention and a feed-forward network, each with its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, num_heads=2, batch_first=True)
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.ffn = mlp(WIDTH, WIDTH, hidden=[4 * WIDTH], dropout=0.1)
        self.output_layer_norm = nn.LayerNorm(WIDTH)

    def attend(self, hidden: Tensor, mask: Tensor) -> Tensor:
        attended, _ = self.attention(hidden, hidden, hidden, key_padding_mask=~mask, need_weights=False)
        return self.attention_norm(hidden + attended)  # type: ignore[no-any-return]  # torch types modules as Any

    def feed_forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return self.output_layer_norm(hidden + self.ffn(hidden))  # type: ignore[no-any-return]  # as above


class TinyBackbone(Backbone):
    """Two layers of width 16 that read texts letter by letter; weights are random."""

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.width = WIDTH
        self.tokenizer = letter_tokenizer(max_length)
        self.embeddings = nn.Embedding(self.tokenizer.get_vocab_size(), WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.layer = nn.ModuleList(TinyLayer() for _ in range(LAYERS))

    def stages(self) -> Sequence[Stage]:
        stages = [Stage("embeddings", (self.embeddings, self.positions), self._embed, mixes_tokens=False)]
        for number, layer in enumerate(self.layer):
            assert isinstance(layer, TinyLayer)
            attention, ffn = (layer.attention, layer.attention_norm), (layer.ffn, layer.output_layer_norm)
            stages += [
                Stage(f"layer.{number}.attention", attention, partial(_attend, layer), True, number),
                Stage(f"layer.{number}.ffn", ffn, partial(_feed_forward, layer), False, number),
            ]
        return stages

    def architecture(self) -> Mapping[str, str | int | float | bool]:
        return {"heads": 2}

    def save(self, folder: Path) -> None:
        self.tokenizer.save(str(folder / "tokenizer.json"))

    def _embed(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        embedded: Tensor = self.embeddings(token_ids) + self.positions(torch.arange(token_ids.shape[1]))
        return embedded


def _attend(layer: TinyLayer, hidden: Tensor, mask: Tensor) -> Tensor:
    return layer.attend(hidden, mask)


def _feed_forward(layer: TinyLayer, hidden: Tensor, mask: Tensor) -> Tensor:
    return layer.feed_forward(hidden, mask)


class TinyBackboneConfig(BackboneConfig):
    """Settings of the tiny backbone, which is not registered as a plugin."""

    kind: Literal["tiny"] = "tiny"
    max_length: int = 32

    def build(self) -> Backbone:
        return TinyBackbone(self.max_length)

    def restore(self, folder: Path) -> Backbone:
        return TinyBackbone(self.max_length)


def letter_tokenizer(max_length: int) -> Tokenizer:
    """Build a tokenizer whose tokens are single characters."""
    vocabulary = {token: number for number, token in enumerate(["[UNK]", "[CLS]", "[SEP]", *string.printable])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.enable_truncation(max_length)
    return tokenizer


class FirstToken(Pooling):
    """Takes the first token, and may keep it a secret that it needs no other."""

    def __init__(self, width: int = WIDTH, *, reads_first_token_only: bool = True) -> None:
        super().__init__()
        self.width = width
        self.reads_first_token_only = reads_first_token_only

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[:, 0]


class WeightedMean(Pooling):
    """Weighs tokens by a linear score: a pooling that has something to learn."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.width = width
        self.score = nn.Linear(width, 1)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        hidden = hidden.masked_fill(~mask[:, :, None], 0.0)
        scores = self.score(hidden).masked_fill(~mask[:, :, None], -torch.inf)  # (B, T, 1)
        pooled: Tensor = (scores.softmax(dim=1) * hidden).sum(dim=1)
        return pooled


def tiny_model(pooling: Pooling | None = None) -> MultiTaskModel:
    """Build a tiny model with two linear heads, ``animal`` and ``mood``, of two classes each."""
    pooling = pooling or FirstToken()
    return MultiTaskModel(
        TinyBackbone(max_length=32), pooling, {name: _head(pooling.width) for name in ("animal", "mood")}
    )


def _head(width: int) -> Head:
    labels = Classes(("no", "yes"))
    return Head(nn.Linear(width, 2), nn.functional.cross_entropy, decode_logits(labels), class_metrics(2))


def snapshot(model: MultiTaskModel) -> tuple[bool, dict[str, tuple[bool, list[float]]]]:
    """Return whether a model is in train mode, and for each parameter whether it trains, and its numbers."""
    return model.training, {name: (p.requires_grad, p.flatten().tolist()) for name, p in model.named_parameters()}
