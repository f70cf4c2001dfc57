"""What is left of a cut: which layers a pooling reads of it, and several cuts that are filled by one pass."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from model_helpers import pooled_by_whole
from topwork.engine.encoding.encoder import encode_batches
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.prefix import Prefix, ends_of_layers, run_stages
from topwork.interfaces.pooling import Layer, Pooling
from topwork.testing import tiny_model
from topwork_plugins.poolings.cls import ClsPooling
from topwork_plugins.poolings.concat_layers import ConcatLayersPooling
from topwork_plugins.poolings.layer_mix import LayerMixPooling
from topwork_plugins.poolings.mean import MeanPooling

WIDTH = 16
STAGES = tiny_model().backbone.stages()


@pytest.mark.parametrize(
    ("layers", "ends"),
    [
        ((), ()),
        (("embeddings",), (1,)),
        ((0,), (3,)),
        ((1,), (5,)),
        ((-1,), (5,)),
        ((-2,), (3,)),
        (("embeddings", 0, -1), (1, 3, 5)),
    ],
)
def test_a_layer_ends_behind_the_last_of_its_stages(layers: tuple[Layer, ...], ends: tuple[int, ...]) -> None:
    assert ends_of_layers(STAGES, layers) == ends


@pytest.mark.parametrize("layer", [2, -3])
def test_a_layer_that_is_not_there_is_refused(layer: int) -> None:
    with pytest.raises(ValueError, match=f"^the backbone has layers 0 to 1, or -2 to -1 from the last, not {layer}$"):
        ends_of_layers(STAGES, (layer,))


@pytest.mark.parametrize("layers", [(1, 0), (0, 0), (-1, 1), (0, "embeddings")])
def test_layers_that_do_not_rise_are_refused(layers: tuple[Layer, ...]) -> None:
    named = ", ".join(map(str, layers))
    with pytest.raises(ValueError, match=f"^layers must rise, each named once, got {named}$"):
        ends_of_layers(STAGES, layers)


def of_layers(each: Pooling, *layers: Layer) -> LayerMixPooling:
    """A mix that weighs layers differently."""
    mix = LayerMixPooling(each, layers)
    mix.weights.data = torch.arange(len(layers)).float()
    mix.scale.data = torch.tensor(1.5)
    return mix


def cls(width: int = WIDTH, *layers: Layer) -> ClsPooling:
    return ClsPooling(width, layers)


POOLINGS = [
    cls(),
    MeanPooling(WIDTH),
    cls(WIDTH, "embeddings"),
    cls(WIDTH, 0),
    MeanPooling(WIDTH, (0,)),
    cls(WIDTH, 1),
    of_layers(cls(), "embeddings", 0, 1),
    of_layers(MeanPooling(WIDTH), "embeddings", -1),
    ConcatLayersPooling(cls(), (0, 1)),
    ConcatLayersPooling(MeanPooling(WIDTH), ("embeddings", 0)),
]
PATTERNS = ["no such parameter", "layer.1.ffn", "layer.1", "layer.0.ffn", "layer.0", ""]


def cut_model(pooling: Pooling, trains: str) -> MultiTaskModel:
    """A tiny model, frozen but for some parameters; of those behind the last layer that is read, none trains."""
    torch.manual_seed(0)
    model = tiny_model(pooling)
    read = {id(p) for stage in model.stages() for module in stage.modules for p in module.parameters()}
    named = model.backbone.named_parameters()
    model.set_trainable([f"backbone.{name}" for name, p in named if trains in f"{name}" and id(p) in read])
    return model.eval()


@pytest.mark.parametrize("trains", PATTERNS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_prefix_and_suffix_pool_what_the_whole_encoder_gives(pooling: Pooling, trains: str) -> None:
    model = cut_model(pooling, trains)
    ids, mask = torch.randint(3, 50, (4, 9)), torch.arange(9) < torch.tensor([[9], [4], [9], [7]])
    pooled = model.pool(model.run_prefix(ids, mask), model.cut.mask(mask))
    torch.testing.assert_close(pooled, pooled_by_whole(model, ids, mask), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("pooling", "trains", "cut"),
    [
        (cls(WIDTH, 0), "-", (3, "pooled", 0)),
        (cls(WIDTH, "embeddings"), "-", (1, "pooled", 0)),
        (cls(WIDTH, 0), "layer.0.ffn", (2, "first token", 0)),
        (ConcatLayersPooling(cls(), (0, 1)), "-", (5, "pooled", 0)),
        (of_layers(cls(), 0, 1), "-", (5, "layers", 2)),
        (of_layers(cls(), "embeddings", 0), "-", (3, "layers", 2)),
        (of_layers(cls(), 0, 1), "layer.1.ffn", (4, "first token", 1)),
        (of_layers(MeanPooling(WIDTH), 0, 1), "layer.1.ffn", (4, "tokens", 1)),
        (of_layers(cls(), "embeddings", 0, 1), "layer.1", (3, "tokens", 2)),
        (of_layers(cls(), 0, 1), "", (0, "token ids", 0)),
    ],
)
def test_of_frozen_layers_one_vector_each_is_kept(pooling: Pooling, trains: str, cut: tuple[int, str, int]) -> None:
    found = cut_model(pooling, trains).cut
    assert (found.stage, found.keeps, found.layers) == cut


def texts(*lengths: int) -> Sequences:
    """Texts of some tokens, of which heads read words where there are three tokens or more."""
    counts = torch.tensor([2 if length > 2 else 0 for length in lengths])
    return Sequences(
        Ragged(torch.randint(3, 50, (sum(lengths),)), offsets_of(torch.tensor(lengths))),
        torch.arange(len(lengths)) % 3 < 2,
        Ragged(torch.tensor([1, 2]).repeat(int(counts.sum()) // 2), offsets_of(counts)),
    )


def encoded(prefixes: Sequence[Prefix], sequences: Sequences) -> list[dict[int, Tensor]]:
    """What each cut keeps of each text."""
    found: list[dict[int, Tensor]] = [{} for _ in prefixes]
    device = torch.device("cpu")
    for number, rows, kept in encode_batches(prefixes, sequences, device=device, dtype=torch.float32):
        found[number] |= zip(rows.tolist(), kept, strict=True)
    return found


def test_several_cuts_in_one_pass_keep_the_bits_that_each_keeps_alone() -> None:
    sequences = texts(2, 2, 5, 5, 9, 40, 41, 41, 5, 9)
    of = [cut_model(pooling, trains) for pooling in POOLINGS for trains in PATTERNS[:-1] if pooling.width == WIDTH]
    backbone = of[0].backbone
    prefixes = [
        Prefix(backbone, model.pooling, model.cut, model.layer_ends, model.reads_pooled)
        for model in of
        if model.cut.stage
    ]
    assert {prefix.cut.keeps for prefix in prefixes} == {"pooled", "layers", "first token", "tokens"}
    together = encoded(prefixes, sequences)
    for prefix, found in zip(prefixes, together, strict=True):
        (alone,) = encoded([prefix], sequences)
        assert found.keys() == alone.keys() == set(range(10))
        assert all(torch.equal(found[text], alone[text]) for text in alone), prefix.cut
        counts = sequences.vectors_kept(prefix.cut).tolist()
        assert [len(alone[text]) for text in range(10)] == counts


def test_one_pass_runs_each_stage_once_but_for_what_the_first_token_is_computed_by() -> None:
    runs: list[str] = []
    model = cut_model(cls(WIDTH, 0), "-")
    stages = list(model.backbone.stages())
    for number, stage in enumerate(stages):
        run = stage.run
        noting = lambda hidden, mask, run=run, name=stage.name: runs.append(name) or run(hidden, mask)  # noqa: E731
        stages[number] = type(stage)(stage.name, stage.modules, noting, stage.mixes_tokens, stage.layer)
    model.backbone.stages = lambda: stages  # type: ignore[method-assign]
    prefixes = [
        model.prefix,
        *(Prefix(model.backbone, one.pooling, one.cut) for one in [cut_model(MeanPooling(WIDTH), "-")]),
    ]
    encoded(prefixes, Sequences.of_texts(texts(5, 5).token_ids))
    assert runs == [
        "embeddings", "layer.0.attention", "layer.0.ffn", "layer.1.attention", "layer.1.ffn",
        "layer.0.attention", "layer.0.ffn",
    ]  # fmt: skip


def test_eval_mode_within_leaves_each_module_in_its_own() -> None:
    model = cut_model(MeanPooling(WIDTH), "layer.1.ffn").train()
    before = {name: module.training for name, module in model.named_modules()}
    assert set(before.values()) == {True, False}
    with model.prefix.in_eval_mode():
        assert not any(module.training for module in model.backbone.modules())
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.mark.parametrize("pooling", POOLINGS)
def test_where_heads_read_words_alone_a_text_is_pooled_all_the_same(pooling: Pooling) -> None:
    torch.manual_seed(0)
    head = tiny_model(pooling).tasks["mood"]
    model = MultiTaskModel(tiny_model(pooling).backbone, pooling, {"tag": head}, {"tag": "words"}).eval()
    model.requires_grad_(False)
    model.set_trainable([])
    ids, mask = torch.randint(3, 50, (3, 7)), torch.ones(3, 7, dtype=torch.bool)
    states = run_stages(model.backbone.stages(), ids, mask, range(6))
    ends = ends_of_layers(model.backbone.stages(), pooling.layers)
    of_layers = [pooling(states[end], mask) for end in ends]
    wanted = pooling.combine(torch.stack(of_layers, dim=1)) if ends else pooling(states[5], mask)
    torch.testing.assert_close(model.pool(model.run_prefix(ids, mask), model.cut.mask(mask)), wanted, atol=1e-6, rtol=0)
