"""Small encoders with random weights, of any type that transformers has, as folders in the Hub's layout."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

WORDS = [
    "a", "short", "text", "another", "that", "is", "longer", "too", "long", "of", "some", "more", "words", "it", "they",
    "were", "good", "bad",
]  # fmt: skip

#: What makes a model small, by the names of many types.
SMALL: dict[str, Any] = {
    "hidden_size": 32, "dim": 32, "d_model": 32, "embedding_size": 32, "num_hidden_layers": 3, "n_layers": 3,
    "num_attention_heads": 4, "n_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 48,
    "hidden_dim": 48, "vocab_size": 40, "max_position_embeddings": 80, "pad_token_id": 1, "bos_token_id": 2,
    "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3,
}  # fmt: skip

#: What some types need besides, so that what is special of them takes part.
SPECIAL: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 3},
}


def write_encoder(folder: Path, kind: str, **settings: Any) -> Path:
    """Write a model of some type, and a tokenizer of some words, to a folder."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(kind, **SMALL | SPECIAL.get(kind, {}) | settings)
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # so that norms and biases take part
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path, *, special_tokens: bool = True) -> None:
    """Write a tokenizer that knows some words."""
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if special_tokens:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
