"""A text's activation is the same to the last bit, whatever it is encoded with."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from encoding_helpers import pieces
from topwork.building_blocks import MIN_ROWS
from topwork.engine.encoding.encoder import TOKENS_PER_BATCH, RecomputedActivations, encode
from topwork.engine.encoding.examples import Activations
from topwork.engine.encoding.ragged import Ragged
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.model.multitask import MultiTaskModel
from topwork.errors import ConfigurationError
from topwork.experiment.schema import Experiment
from topwork.interfaces.backbone import Backbone, Stage
from topwork.interfaces.pooling import Pooling, PoolingConfig
from topwork.testing.tiny import FirstToken, TinyBackbone, tiny_model
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig
from topwork_plugins.poolings.cls import ClsConfig, ClsPooling
from topwork_plugins.poolings.mean import MeanConfig, MeanPooling

CPU = torch.device("cpu")


def encoded(model: MultiTaskModel, token_ids: Ragged, **options: Any) -> Ragged:
    """Encode texts of which heads read the pooled vector."""
    return encode(model.prefix, Sequences.of_texts(token_ids), device=CPU, **options)


MINILM = 384
RECIPE = ("layer.5.ffn", "layer.5.output_layer_norm")

#: A cut of MiniLM for each thing that can be kept: pooling, what trains, and the name of what is kept.
CUTS = [
    pytest.param(ClsPooling(MINILM), RECIPE, id="first token"),
    pytest.param(MeanPooling(MINILM), RECIPE, id="tokens"),
    pytest.param(MeanPooling(MINILM), ("nothing",), id="pooled"),
]
CutMiniLm = Callable[[Pooling, tuple[str, ...]], MultiTaskModel]
RandomIds = Callable[..., Ragged]


def assert_same_alone_together_reordered_and_repeated(model: MultiTaskModel, ids: Ragged) -> None:
    count = len(ids.lengths)
    together = pieces(encoded(model, ids))
    order = torch.arange(count).flip(0).repeat(2)
    for row, piece in zip(order.tolist(), pieces(encoded(model, ids.take(order))), strict=True):
        assert torch.equal(piece, together[row]), f"length {ids.lengths[row]}, reordered and repeated"
    for row in range(count):
        alone = encoded(model, ids.take(torch.tensor([row])))
        assert torch.equal(alone.values, together[row]), f"length {ids.lengths[row]}, alone"


@pytest.fixture(params=[pytest.param(1, id="one thread"), pytest.param(2, id="two threads", marks=pytest.mark.slow)])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Compute with one thread, then with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("pooling", "trains"), CUTS)
def test_an_activation_does_not_depend_on_the_company(
    cut_minilm: CutMiniLm, random_ids: RandomIds, pooling: Pooling, trains: tuple[str, ...]
) -> None:
    lengths = [3, 4, 17, 31, 64, 65, 200]
    assert_same_alone_together_reordered_and_repeated(cut_minilm(pooling, trains), random_ids(lengths + lengths[:4]))


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "trains"), CUTS)
def test_an_activation_does_not_depend_on_the_company_at_any_length(
    cut_minilm: CutMiniLm, random_ids: RandomIds, pooling: Pooling, trains: tuple[str, ...]
) -> None:
    lengths = [*range(3, 70, 6), 63, 64, 65, 127, 128, 129, 200]
    assert_same_alone_together_reordered_and_repeated(cut_minilm(pooling, trains), random_ids(lengths * 2))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [2, 7, 22, 40, 300])
def test_the_number_of_short_texts_changes_nothing(cut_minilm: CutMiniLm, random_ids: RandomIds, count: int) -> None:
    model = cut_minilm(ClsPooling(MINILM), RECIPE)
    ids = random_ids([5] * count)
    first = encoded(model, ids.take(torch.tensor([0])))
    assert torch.equal(encoded(model, ids).values[:1], first.values)


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "trains"), CUTS)
@pytest.mark.parametrize(("length", "counts"), [(5, (1, 2, 3, 8, 64, 65)), (31, (1, 3, 8, 33)), (128, (1, 3, 9))])
def test_two_threads_give_the_bits_of_one_for_any_number_of_texts(
    cut_minilm: CutMiniLm,
    random_ids: RandomIds,
    pooling: Pooling,
    trains: tuple[str, ...],
    length: int,
    counts: tuple[int, ...],
) -> None:
    model, ids = cut_minilm(pooling, trains), random_ids([length] * max(counts))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    one = pieces(encoded(model, ids))
    torch.set_num_threads(2)
    try:
        for count in counts:
            rows = torch.arange(count)
            for row, piece in enumerate(pieces(encoded(model, ids.take(rows)))):
                assert torch.equal(piece, one[row]), f"{count} texts, number {row}"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("pooling", "trains"), CUTS)
def test_prefix_and_suffix_equal_the_whole_forward_of_a_padded_batch(
    cut_minilm: CutMiniLm, random_ids: RandomIds, minilm: Backbone, pooling: Pooling, trains: tuple[str, ...]
) -> None:
    ids = random_ids([5, 30, 12])
    padded, mask = ids.batch(torch.arange(3))
    with torch.no_grad():
        whole = pooling(minilm(padded, mask), mask)
        model = cut_minilm(pooling, trains)
        cut = model.pool(*encoded(model, ids).batch(torch.arange(3)))
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("pooling", "trains"), CUTS)
def test_recomputed_activations_equal_kept_ones(
    cut_minilm: CutMiniLm, random_ids: RandomIds, pooling: Pooling, trains: tuple[str, ...]
) -> None:
    model, ids = cut_minilm(pooling, trains), random_ids([9, 40, 3, 40, 22])
    rows = torch.tensor([4, 1, 2, 1])
    kept, kept_mask = encoded(model, ids).batch(rows)
    again, again_mask = RecomputedActivations(model.prefix, Sequences.of_texts(ids), CPU).batch(rows)
    assert torch.equal(again_mask, kept_mask)
    assert torch.equal(again[again_mask], kept[kept_mask])


def distinct_of(trained: Any) -> Activations:
    """The activations of the distinct texts that a run trained on."""
    activations: Activations = trained.data["train"].activations
    return activations


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [ClsConfig(), MeanConfig()])
def test_training_from_recomputed_activations_gives_the_same_weights(
    make: Callable[..., Experiment],
    train: Callable[..., Any],
    pooling: PoolingConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    freeze = AllExceptConfig(patterns=("layer.5.ffn", "layer.5.output_layer_norm"))
    training = {"store": "off"}
    experiment = make(backbone=MiniLmConfig(max_length=16), pooling=pooling, freeze=freeze, training=training)
    kept = train(experiment)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    recomputed = train(experiment)
    assert isinstance(distinct_of(kept), Ragged)
    assert isinstance(distinct_of(recomputed), RecomputedActivations)
    weights, again = kept.model.state_dict(), recomputed.model.state_dict()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


@pytest.mark.parametrize("training", [True, False])
def test_recomputing_leaves_the_mode_of_the_model(random_ids: RandomIds, training: bool) -> None:
    model = tiny_model()
    model.set_trainable([])
    model.train(training)
    RecomputedActivations(model.prefix, Sequences.of_texts(random_ids([4, 5], vocabulary=50)), CPU).batch(
        torch.tensor([1])
    )
    assert model.training == training
    assert model.heads.training == training


@pytest.mark.parametrize(("pooling", "trains"), CUTS)
def test_encoding_touches_neither_requires_grad_nor_the_generator(
    cut_minilm: CutMiniLm, random_ids: RandomIds, pooling: Pooling, trains: tuple[str, ...]
) -> None:
    model = cut_minilm(pooling, trains).train()
    requires_grad = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.get_rng_state()
    activations = encoded(model, random_ids([6, 12]))
    assert torch.equal(torch.get_rng_state(), state)
    assert [parameter.requires_grad for parameter in model.parameters()] == requires_grad
    assert not activations.values.requires_grad


@pytest.mark.reliability("B34")
def test_encoding_in_train_mode_uses_no_dropout(random_ids: RandomIds) -> None:
    model = tiny_model()
    ids = random_ids([6, 12], vocabulary=50)
    model.set_trainable([name for name, _ in model.named_parameters() if ".layer.1.ffn" in name])
    assert torch.equal(
        encoded(model.train(), ids).values,
        encoded(model.eval(), ids).values,
    )


def test_with_an_empty_prefix_the_token_ids_are_kept(random_ids: RandomIds) -> None:
    model = tiny_model()
    model.set_trainable([f"backbone.{name}" for name, _ in model.backbone.named_parameters()])
    ids = random_ids([6, 12], vocabulary=50)
    assert encoded(model, ids) is ids


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([3], [(22, 3)]),
        ([3] * 30, [(30, 3)]),
        ([63], [(2, 63)]),
        ([64], [(1, 64)]),
        ([16, 8, 16], [(8, 8), (4, 16)]),
        ([60] * 70, [(TOKENS_PER_BATCH // 60, 60), (70 - TOKENS_PER_BATCH // 60, 60)]),
        ([60] * (TOKENS_PER_BATCH // 60 + 1), [(TOKENS_PER_BATCH // 60, 60), (2, 60)]),
    ],
)
def test_batches_hold_texts_of_one_length_and_at_least_64_token_rows(
    random_ids: RandomIds, lengths: list[int], batches: list[tuple[int, int]]
) -> None:
    model = tiny_model()
    model.set_trainable([])
    seen: list[tuple[int, ...]] = []
    model.backbone.embeddings.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    encoded(model, random_ids(lengths, vocabulary=50))
    assert seen == batches
    assert all(rows * length >= MIN_ROWS for rows, length in seen)


@pytest.mark.parametrize(
    ("pooling", "trains", "shape"),
    [
        (FirstToken(), ".layer.1.ffn", (3, 16)),
        (MeanPooling(16), ".layer.1.ffn", (12, 16)),
        (FirstToken(), "-", (3, 16)),
    ],
)
def test_there_is_one_vector_for_each_text_or_for_each_token(
    random_ids: RandomIds, pooling: Pooling, trains: str, shape: tuple[int, int]
) -> None:
    model = tiny_model(pooling)
    model.set_trainable([name for name, _ in model.named_parameters() if trains in name])
    activations = encoded(model, random_ids([3, 5, 4], vocabulary=50))
    assert activations.values.shape == shape
    assert activations.values.dtype == torch.float32


def test_progress_counts_every_token_once(random_ids: RandomIds) -> None:
    model = tiny_model()
    model.set_trainable([])
    done: list[int] = []
    encode(
        model.prefix,
        Sequences.of_texts(random_ids([3, 9, 3, 40, 40, 40], vocabulary=50)),
        device=CPU,
        progress=done.append,
    )
    assert sum(done) == 3 + 9 + 3 + 40 + 40 + 40


# the first token alone


@pytest.mark.slow
@pytest.mark.parametrize("trains", [RECIPE, ("layer.3.ffn", "layer.5.ffn"), ("nothing",)])
@pytest.mark.parametrize("count", [1, 5, 70])
def test_the_first_token_alone_is_what_it_is_among_the_others(
    cut_minilm: CutMiniLm, random_ids: RandomIds, trains: tuple[str, ...], count: int
) -> None:
    model = cut_minilm(ClsPooling(MINILM), trains)
    ids, mask = random_ids([3 + row % 30 for row in range(count)]).batch(torch.arange(count))
    hidden = ids
    with torch.no_grad():
        for stage in model.backbone.stages()[: model.cut.stage]:
            hidden = stage.run(hidden, mask)
    kept = model.run_prefix(ids, mask)
    if model.cut.keeps == "tokens":
        torch.testing.assert_close(kept[mask], hidden[mask], atol=0, rtol=0)
    else:
        torch.testing.assert_close(kept, hidden[:, :1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", range(6))
def test_the_attention_from_the_first_token_is_that_of_the_first_token(
    minilm: Backbone, random_ids: RandomIds, layer: int
) -> None:
    ids, mask = random_ids([4, 20, 9]).batch(torch.arange(3))
    *before, attention = minilm.stages()[: 2 + 2 * layer]
    assert attention.run_first_token is not None
    with torch.no_grad():
        hidden = ids
        for stage in before:
            hidden = stage.run(hidden, mask)
        alone, among = attention.run_first_token(hidden, mask), attention.run(hidden, mask)[:, :1]
    assert alone.shape == (3, 1, MINILM)
    torch.testing.assert_close(alone, among, atol=1e-5, rtol=0)


class Recording(TinyBackbone):
    """Notes the name of each stage that runs, and the hidden states or token ids and the mask that it sees."""

    def __init__(self, *, narrow: bool) -> None:
        super().__init__(max_length=32)
        self.narrow = narrow
        self.seen: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []

    def stages(self) -> Sequence[Stage]:
        return [
            replace(
                stage,
                run=self._noting(stage.name, stage.run),
                run_first_token=self._noting(f"{stage.name}, first token", self._first(stage.run))
                if self.narrow and stage.mixes_tokens
                else None,
            )
            for stage in super().stages()
        ]

    def _noting(self, name: str, run: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def noting(hidden: Tensor, mask: Tensor) -> Tensor:
            self.seen.append((name, tuple(hidden.shape[:2]), tuple(mask.shape)))
            return run(hidden, mask)

        return noting

    def _first(self, run: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda hidden, mask: run(hidden, mask)[:, :1]


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("texts", [3, 70])
def test_stages_behind_the_last_that_mixes_tokens_see_one_token(narrow: bool, texts: int) -> None:
    backbone = Recording(narrow=narrow)
    model = MultiTaskModel(backbone, FirstToken(), {})
    model.set_trainable([])
    kept = model.eval().run_prefix(torch.randint(3, 50, (texts, 9)), torch.ones(texts, 9, dtype=torch.bool))
    assert kept.shape == (texts, 1, 16)
    whole, one = (texts, 9), (max(texts, MIN_ROWS), 1)
    last = "layer.1.attention, first token" if narrow else "layer.1.attention"
    assert backbone.seen == [
        ("embeddings", whole, whole),
        ("layer.0.attention", whole, whole),
        ("layer.0.ffn", whole, whole),
        (last, whole, whole),
        ("layer.1.ffn", one, one),
    ]


@pytest.mark.parametrize(
    ("pooling", "trains"),
    [(MeanPooling(16), "-"), (MeanPooling(16), ".layer.1.ffn"), (FirstToken(), ".layer.1.attention")],
)
def test_where_other_tokens_are_needed_all_are_computed(pooling: Pooling, trains: str) -> None:
    backbone = Recording(narrow=True)
    model = MultiTaskModel(backbone, pooling, {})
    model.set_trainable([name for name, _ in model.named_parameters() if trains in name])
    model.eval().run_prefix(torch.randint(3, 50, (3, 9)), torch.ones(3, 9, dtype=torch.bool))
    assert model.prefix.first_token_stage is None
    assert len(backbone.seen) == model.cut.stage
    assert {shape for _, shape, _ in backbone.seen} == {(3, 9)}
    assert not any("first token" in name for name, _, _ in backbone.seen)


def test_what_float16_cannot_hold_is_told(random_ids: RandomIds) -> None:
    model = tiny_model()
    model.set_trainable([])
    with torch.no_grad():
        model.backbone.layer[-1].output_layer_norm.weight *= 1e6
    ids = random_ids([6, 12], vocabulary=50)
    with pytest.raises(ConfigurationError, match=r"float16 holds numbers up to 65,504, but activations reach [\d,]{9}"):
        encoded(model, ids, dtype=torch.float16)
    assert encoded(model, ids, dtype=torch.bfloat16).values.isfinite().all()
