"""The frozen part in bfloat16: the same bits wherever activations come from, and refused where nothing is frozen."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from topwork.engine.encoding.encoder import encode
from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.encoding.store.key import make_key
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.export import export_onnx
from topwork.engine.model.mixed_precision import (
    BLOCK_ROWS,
    bfloat16_instructions,
    cores,
    precision_of_stage,
)
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model_folder import load_model, save_model
from topwork.engine.model_manifest import read_model_manifest
from topwork.engine.trained_model import TrainedModel
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.interfaces.pooling import PoolingConfig
from topwork.registry import discover
from topwork.testing import tiny_model
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig
from topwork_plugins.freeze_strategies.gradual import GradualConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.mean import MeanConfig

Make = Callable[..., Experiment]

CPU = torch.device("cpu")


def mixed_model(
    trains: str, pooling: PoolingConfig | None = None, *, mixed_stages: int | None = None
) -> MultiTaskModel:
    """A tiny model whose frozen part is in mixed precision, and which is frozen but for some parameters."""
    torch.manual_seed(0)
    tiny = tiny_model((pooling or ClsConfig()).build(16))
    model = MultiTaskModel(tiny.backbone, tiny.pooling, tiny.tasks, mixed_stages=mixed_stages)
    model.set_trainable([f"backbone.{name}" for name, _ in model.backbone.named_parameters() if trains in name])
    return model.eval()


@pytest.mark.parametrize("pooling", [ClsConfig(), MeanConfig()])
@pytest.mark.parametrize("trains", ["no such parameter", "layer.1.ffn", "layer.1"])
def test_a_text_has_the_same_bits_whatever_is_encoded_with_it(
    random_ids: Callable[..., Ragged], trains: str, pooling: PoolingConfig
) -> None:
    model = mixed_model(trains, pooling)
    lengths = [3] * 33 + [7] * 13 + [40, 40]
    sequences = Sequences.of_texts(random_ids(lengths, vocabulary=50))
    together = encode(model.prefix, sequences, device=CPU)
    for text in (0, 32, 33, 40, 47):
        (alone, _), (found, _) = (
            encode(model.prefix, sequences.take(torch.tensor([text])), device=CPU).batch(torch.tensor([0])),
            together.batch(torch.tensor([text])),
        )
        assert torch.equal(alone, found)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [ClsConfig(), MeanConfig()])
@pytest.mark.parametrize("trains", ["no such parameter", "layer.5.ffn"])
def test_minilm_gives_a_text_the_same_bits_among_any_number_of_others(
    random_ids: Callable[..., Ragged], trains: str, pooling: PoolingConfig
) -> None:
    model = MultiTaskModel(MiniLmConfig(max_length=128).build(), pooling.build(384), {}, mixed_stages=None).eval()
    model.set_trainable([f"backbone.{name}" for name, _ in model.backbone.named_parameters() if trains in name])
    for length in (1, 9, 33, 100):
        sequences = Sequences.of_texts(random_ids([length] * 33, vocabulary=30_000))
        together = encode(model.prefix, sequences, device=CPU)
        for count in (1, 2, 5, 16, 32):
            some = torch.arange(33 - count, 33)
            found = encode(model.prefix, sequences.take(some), device=CPU)
            assert torch.equal(found.values, together.take(some).values)


@pytest.mark.parametrize("trains", ["no such parameter", "layer.1.ffn", "layer.1"])
def test_it_gives_float32_near_what_float32_gives(trains: str) -> None:
    ids, mask = torch.randint(3, 50, (8, 12)), torch.ones(8, 12, dtype=torch.bool)
    exact, mixed = (mixed_model(trains, mixed_stages=stages).run_prefix(ids, mask) for stages in (0, None))
    assert mixed.dtype == torch.float32
    assert 0 < float((mixed - exact).abs().max()) < 0.05


def test_float32_stays_so_within_mixed_precision() -> None:
    model = mixed_model("no such parameter", mixed_stages=0)
    ids, mask = torch.randint(3, 50, (8, 12)), torch.ones(8, 12, dtype=torch.bool)
    exact = model.run_prefix(ids, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.run_prefix(ids, mask), exact)


def test_it_is_part_of_the_key() -> None:
    keys = [
        make_key(mixed_model("-", mixed_stages=stages).prefix, ClsConfig(), dtype=torch.float32, device=CPU)
        for stages in (0, None)
    ]
    assert keys[0].digest != keys[1].digest
    assert "bfloat16" not in keys[0].description  # as before there was a choice
    assert keys[1].description["bfloat16"] == {
        "stages": 5,
        "instructions": bfloat16_instructions(),
        "cores": cores(),
        "rows": BLOCK_ROWS,
    }


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [ClsConfig(), MeanConfig()])
@pytest.mark.parametrize("freeze", [GradualConfig(every=2), AllExceptConfig(patterns=("layer.5.ffn",))])
def test_training_gives_the_same_bits_wherever_activations_come_from(
    make: Make, train: Callable[..., Any], pooling: Any, freeze: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)
    backbone = MiniLmConfig(max_length=16, precision="bfloat16")
    settings: dict[str, Any] = {"pooling": pooling, "freeze": freeze, "backbone": backbone}
    off, auto = (make(**settings, training={"epochs": 4, "store": store}) for store in ("off", "auto"))
    runs = [train(off), train(auto), train(auto)]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    runs.append(train(off))
    assert [trained.reports[0].where for trained in runs] == ["memory", "store", "store", "recomputed"]
    assert runs[2].reports[0].found == 60
    for other in runs[1:]:
        assert [epoch.metrics for epoch in other.fit.epochs] == [epoch.metrics for epoch in runs[0].fit.epochs]
    plain = train(make(**settings | {"backbone": MiniLmConfig(max_length=16)}, training={"epochs": 4}))
    assert [epoch.metrics for epoch in plain.fit.epochs] != [epoch.metrics for epoch in runs[0].fit.epochs]


def test_a_saved_model_runs_in_bfloat16_what_was_frozen_and_nothing_else(
    make: Make, train: Callable[..., Any], tmp_path: Path
) -> None:
    trained = train(make(backbone=MiniLmConfig(max_length=16, precision="bfloat16"), pooling=MeanConfig()))
    outputs = outputs_of(trained.model, trained.data["test"], device=CPU)
    labels, experiment = trained.prepared.dataset.labels, trained.prepared.experiment.dump()
    whole = TrainedModel(trained.model, labels, experiment, {})
    assert whole.model.prefix.mixed_stages == trained.model.prefix.mixed_stages
    examples = whole._examples(trained.prepared.dataset.splits["test"])
    again = outputs_of(whole.model, examples, device=CPU)
    for task in outputs:
        torch.testing.assert_close(again[task], outputs[task], atol=1e-5, rtol=0)
    with pytest.raises(ConfigurationError) as caught:
        export_onnx(whole, tmp_path / "onnx")
    assert str(caught.value) == (
        "the frozen part runs in bfloat16, and a graph would give other numbers in float32; train it without "
        "backbone.precision, or export its encoder alone: --format transformers"
    )


@pytest.mark.slow
def test_a_saved_minilm_gives_what_the_trained_one_gives(make: Make, train: Callable[..., Any], tmp_path: Path) -> None:
    trained = train(
        make(
            backbone=MiniLmConfig(max_length=16, precision="bfloat16"),
            freeze=AllExceptConfig(patterns=("layer.5.ffn",)),
        )
    )
    whole = TrainedModel(trained.model, trained.prepared.dataset.labels, trained.prepared.experiment.dump(), {})
    save_model(tmp_path / "model", whole, discover())
    loaded, texts = load_model(tmp_path / "model"), trained.prepared.dataset.splits["test"].texts
    assert read_model_manifest(tmp_path / "model").mixed_stages == loaded.model.mixed_stages == 12
    assert loaded.predict(texts) == whole.predict(texts)
    assert (loaded.encode(texts) == whole.encode(texts)).all()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("columns", "outputs"), [(384, 1536), (1536, 384), (3072, 768)])
def test_a_linear_layer_gives_a_row_the_same_bits_whatever_is_beside_it(
    columns: int, outputs: int, threads: Callable[[int], None]
) -> None:
    layer, rows = torch.nn.Linear(columns, outputs).requires_grad_(False), torch.randn(1000, columns)
    found = []
    for number in (1, 2, 3, 1):
        threads(number)
        for count in (1, 64, 300, 1000):
            with precision_of_stage(CPU, mixed=True):
                found.append(layer(rows[-count:])[-1])
        assert torch.get_num_threads() == number
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_linear_layer_follows_its_weights() -> None:
    layer, rows = torch.nn.Linear(8, 4).requires_grad_(False), torch.randn(2, 3, 8)
    with precision_of_stage(CPU, mixed=True):
        before = layer(rows)
        layer.weight.mul_(2)
        layer.bias = None
        after = layer(rows)
    assert before.shape == (2, 3, 4)
    torch.testing.assert_close(after.float(), rows @ layer.weight.T, atol=0.05, rtol=0.05)


def test_encoding_sees_weights_that_were_changed_past_autograd(random_ids: Callable[..., Ragged]) -> None:
    model, sequences = mixed_model("no such parameter"), Sequences.of_texts(random_ids([5] * 4, vocabulary=50))
    before = encode(model.prefix, sequences, device=CPU)
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data.mul_(2)
    after = encode(model.prefix, sequences, device=CPU)
    assert not torch.equal(before.values, after.values)
    assert torch.equal(after.values, encode(model.prefix, sequences, device=CPU).values)
