"""What is exported gives what the model gives, in the software that it is for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from small_encoders import write_encoder
from topwork.engine.export import export_onnx, export_transformers
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.trained_model import TrainedModel
from topwork.errors import ConfigurationError, PluginError, StorageError
from topwork.interfaces.backbone import Backbone
from topwork.interfaces.labels import Classes, Numbers, WordLabels
from topwork.interfaces.pooling import PoolingConfig
from topwork.testing.tiny import TinyBackbone
from topwork_plugins.backbones.auto import AutoConfig
from topwork_plugins.backbones.distilbert import DistilBertConfig
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.heads.similarity import SimilarityConfig
from topwork_plugins.heads.tagging import TaggingConfig
from topwork_plugins.poolings.attention import AttentionConfig
from topwork_plugins.poolings.last import LastConfig
from topwork_plugins.poolings.layer_mix import LayerMixConfig
from topwork_plugins.poolings.max import MaxConfig
from topwork_plugins.poolings.mean import MeanConfig, MeanPooling

TEXTS = ["a short text", "another that is longer", "it"]
LABELS = {
    "topic": Classes(("x", "y", "z")),
    "alike": Numbers(("score",), (0.0,), (1.0,)),
    "parts": WordLabels(("NOUN", "VERB")),
}


def encoder_of(folder: Path, kind: str) -> Backbone:
    write_encoder(folder, kind)
    config = DistilBertConfig if kind == "distilbert" else AutoConfig
    return config(model=str(folder), max_length=40).build()


def trained_on(backbone: Backbone, pooling: PoolingConfig | None = None) -> TrainedModel:
    """A model with a head for classes, one for pairs of texts, and one for words."""
    torch.manual_seed(0)
    heads = {
        "topic": ClassificationConfig(hidden=(16,)).build(backbone.width, LABELS["topic"]),
        "alike": SimilarityConfig(projection=8).build(backbone.width, LABELS["alike"]),
        "parts": TaggingConfig().build(backbone.width, LABELS["parts"]),
    }
    reads = {"topic": "pooled", "alike": "two pooled", "parts": "words"}
    pool = (pooling or MeanConfig()).build(backbone.width)
    model = MultiTaskModel(backbone, pool, heads, reads)  # type: ignore[arg-type]
    return TrainedModel(model, LABELS, {"backbone": {"kind": "some"}, "data": {}, "tasks": {}}, {})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["distilbert", "bert", "modernbert"])
def test_onnxruntime_gives_the_outputs_of_all_heads(tmp_path: Path, kind: str) -> None:
    import onnxruntime

    trained = trained_on(encoder_of(tmp_path / "encoder", kind))
    assert 0 <= export_onnx(trained, tmp_path / "exported") <= 1e-5
    described = json.loads((tmp_path / "exported" / "topwork.json").read_text())
    assert described["outputs"] == ["pooled", "heads.topic", "heads.alike", "heads.parts"]
    assert described["labels"]["topic"] == ["x", "y", "z"]

    # as a user would: the tokenizer beside the graph, one text at a time, and pairs
    tokenizer = Tokenizer.from_file(str(tmp_path / "exported" / "tokenizer.json"))
    session = onnxruntime.InferenceSession(str(tmp_path / "exported" / "model.onnx"))
    for text, other in zip(TEXTS, TEXTS[::-1], strict=True):
        given = {}
        for name, written in (("", text), ("second_", other)):
            encoding = tokenizer.encode(written)
            given |= {f"{name}input_ids": encoding.ids, f"{name}attention_mask": encoding.attention_mask}
            given |= {f"{name}token_type_ids": encoding.type_ids}
        inputs = {name: np.array([given[name]]) for name in described["inputs"]}
        found = dict(zip(described["outputs"], session.run(described["outputs"], inputs), strict=True))
        vectors = torch.from_numpy(trained.encode([text, other]))
        heads = trained.model.heads
        with torch.no_grad():
            wanted = {"pooled": vectors[:1], "heads.topic": heads["topic"](vectors[:1])}
            wanted["heads.alike"] = heads["alike"](vectors[None])
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values.numpy(), atol=1e-5)
        assert found["heads.parts"].shape == (1, len(given["input_ids"]), 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["distilbert", "modernbert"])
def test_a_pooling_of_several_layers_is_in_the_graph(tmp_path: Path, kind: str) -> None:
    mix = LayerMixConfig(layers=("embeddings", 0, -1), each="mean")
    trained = trained_on(encoder_of(tmp_path / "encoder", kind), mix)
    trained.model.pooling.weights.data = torch.tensor([0.5, 1.0, -1.0])
    assert 0 <= export_onnx(trained, tmp_path / "exported") <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [AttentionConfig(), LastConfig(), MaxConfig()], ids=lambda one: one.kind)
def test_a_pooling_is_in_the_graph_for_any_number_of_texts(tmp_path: Path, pooling: PoolingConfig) -> None:
    trained = trained_on(encoder_of(tmp_path / "encoder", "distilbert"), pooling)
    assert 0 <= export_onnx(trained, tmp_path / "exported") <= 1e-5


class OfTwoTexts(MeanPooling):
    """Counts the texts in Python, so that a graph is of as many as it was made with."""

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return super().forward(hidden, mask)[torch.arange(len(hidden))]


@pytest.mark.slow
def test_a_graph_of_one_number_of_texts_is_no_export(tmp_path: Path) -> None:
    trained = trained_on(encoder_of(tmp_path / "encoder", "distilbert"))
    trained.model.pooling = OfTwoTexts(trained.model.backbone.width)
    with pytest.raises(PluginError, match=r"^onnxruntime does not run what was exported: "):
        export_onnx(trained, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("kind", ["distilbert", "bert", "qwen3"])
def test_transformers_reads_the_encoder_and_its_tokenizer(tmp_path: Path, kind: str) -> None:
    backbone = encoder_of(tmp_path / "encoder", kind)
    with torch.no_grad():
        for parameter in backbone.parameters():  # as training does
            parameter += 0.1 * torch.randn_like(parameter)
    assert export_transformers(trained_on(backbone), tmp_path / "exported") <= 1e-5
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    encoder = AutoModel.from_pretrained(tmp_path / "exported").eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        found, wanted = encoder(**batch).last_hidden_state, backbone(batch["input_ids"], mask)
    torch.testing.assert_close(found[mask], wanted[mask], atol=1e-5, rtol=0)
    pair = tokenizer("a short text", "it", return_tensors="pt")
    ids = pair["input_ids"]
    with torch.no_grad():
        found, wanted = encoder(**pair).last_hidden_state, backbone(ids, torch.ones_like(ids, dtype=torch.bool))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_an_exported_encoder_names_no_code_of_the_original(tmp_path: Path) -> None:
    backbone = encoder_of(tmp_path / "encoder", "bert")
    backbone.config.auto_map = {"AutoModel": "code_of_their_own.Model"}
    export_transformers(trained_on(backbone), tmp_path / "exported")
    assert "auto_map" not in json.loads((tmp_path / "exported" / "config.json").read_text())


@pytest.mark.parametrize("export", [export_onnx, export_transformers])
def test_a_backbone_of_other_software_is_refused(tmp_path: Path, export: object) -> None:
    assert callable(export)
    with pytest.raises(ConfigurationError, match="backbone 'some' is no model of transformers, which is what can be"):
        export(trained_on(TinyBackbone(max_length=16)), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_what_gives_something_else_is_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = encoder_of(tmp_path / "encoder", "distilbert")
    other = backbone.to_transformers()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    monkeypatch.setattr(type(backbone), "to_transformers", lambda self: other)
    with pytest.raises(PluginError, match="what is exported gives other hidden states: they differ by"):
        export_transformers(trained_on(backbone), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    trained = trained_on(encoder_of(tmp_path / "encoder", "distilbert"))
    (tmp_path / "exported").mkdir()
    with pytest.raises(StorageError, match="exists already"):
        export_transformers(trained, tmp_path / "exported")


def test_without_its_packages_onnx_is_refused_by_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    trained = trained_on(encoder_of(tmp_path / "encoder", "distilbert"))
    with pytest.raises(ConfigurationError, match=r"needs further packages: pip install 'topwork\[onnx\]'"):
        export_onnx(trained, tmp_path / "exported")
