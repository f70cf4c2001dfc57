"""What activations are filed under changes with all that decides their bits, and with nothing else."""

import dataclasses
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from encoding_helpers import EVERY_TOKEN, corpus_of, digests_of
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.encoding.store import key as key_module
from topwork.engine.encoding.store.key import Key, make_key
from topwork.engine.model.multitask import MultiTaskModel
from topwork.interfaces.backbone import Backbone
from topwork.interfaces.pooling import Pooling, PoolingConfig
from topwork.testing import tiny_model
from topwork.testing.tiny import WIDTH, FirstToken, letter_tokenizer
from topwork_plugins.backbones.distilbert import DistilBertConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.mean import MeanConfig, MeanPooling

CPU = torch.device("cpu")
LAST_FFN = (".layer.1.ffn.", ".layer.1.output_layer_norm.")

#: What trains, from the last half layer to the first, and nothing at all.
CUTS = [".layer.1.ffn.", ".layer.1.attention.", ".layer.0.ffn.", ".layer.0.attention.", "-"]

#: Prints the key of a tiny model; the seed is that of the models here.
PRINT_KEY = """
import torch
from topwork.engine.encoding.store.key import make_key
from topwork.testing import tiny_model
from topwork_plugins.poolings.cls import ClsConfig

torch.manual_seed(0)
model = tiny_model()
model.set_trainable([name for name, _ in model.named_parameters() if ".layer.1.ffn." in name])
print(make_key(model.prefix, ClsConfig(), dtype=torch.float32, device=torch.device("cpu")).digest)
"""


class PowerMean(Pooling):
    """The mean of powers."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.width = WIDTH
        self.power = power

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden.pow(self.power).masked_fill(~mask[:, :, None], 0.0).mean(1)


class PowerMeanConfig(PoolingConfig):
    """Settings of the mean of powers."""

    kind: Literal["power_mean"] = "power_mean"
    power: float = 1.0

    def build(self, width: int) -> Pooling:
        return PowerMean(self.power)


class Projection(FirstToken):
    """The first token through frozen random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(WIDTH, WIDTH).requires_grad_(False)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return self.projection(super().forward(hidden, mask))


def cut_model(*trains: str, pooling: Pooling | None = None) -> MultiTaskModel:
    """A tiny model, always with the same weights, of which the parameters train whose names contain a pattern."""
    torch.manual_seed(0)
    model = tiny_model(pooling)
    names = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    model.set_trainable([name for name in names if any(pattern in name for pattern in trains)])
    return model


def key_of(model: MultiTaskModel, pooling: PoolingConfig | None = None, *, dtype: torch.dtype = torch.float32) -> Key:
    return make_key(model.prefix, pooling or ClsConfig(), dtype=dtype, device=CPU)


def parameters_in_prefix(model: MultiTaskModel) -> dict[str, Tensor]:
    stages = model.backbone.stages()[: model.cut.stage]
    left = {id(parameter) for stage in stages for module in stage.modules for parameter in module.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in left}


@torch.no_grad()
def nudge(parameter: Tensor, element: int, towards: float) -> None:
    """Move one number by one unit in the last place."""
    flat = parameter.view(-1)
    flat[element] = torch.nextafter(flat[element], torch.tensor(towards))


@pytest.mark.slow
@given(data=st.data(), trains=st.sampled_from(CUTS), towards=st.sampled_from([-torch.inf, torch.inf]))
@pytest.mark.reliability("B29")
def test_one_bit_of_any_weight_left_of_the_cut_changes_the_key(
    data: st.DataObject, trains: str, towards: float
) -> None:
    model = cut_model(trains)
    before, parameters = key_of(model).digest, parameters_in_prefix(model)
    parameter = parameters[data.draw(st.sampled_from(sorted(parameters)))]
    nudge(parameter, data.draw(st.integers(0, parameter.numel() - 1)), towards)
    assert key_of(model).digest != before


@pytest.mark.slow
@given(data=st.data(), trains=st.sampled_from(CUTS), towards=st.sampled_from([-torch.inf, torch.inf]))
def test_no_weight_right_of_the_cut_changes_the_key(data: st.DataObject, trains: str, towards: float) -> None:
    model = cut_model(trains)
    before, left = key_of(model).digest, parameters_in_prefix(model)
    right = {name: parameter for name, parameter in model.named_parameters() if name not in left}
    parameter = right[data.draw(st.sampled_from(sorted(right)))]
    nudge(parameter, data.draw(st.integers(0, parameter.numel() - 1)), towards)
    assert key_of(model).digest == before


def test_a_weight_that_is_exchanged_with_another_of_its_shape_changes_the_key() -> None:
    model = cut_model(*LAST_FFN)
    before, layer = key_of(model).digest, model.backbone.layer[0]
    first, second = layer.attention_norm, layer.output_layer_norm
    with torch.no_grad():
        first.bias += 1
    moved = key_of(model).digest
    with torch.no_grad():
        first.bias -= 1
        second.bias += 1
    assert len({before, moved, key_of(model).digest}) == 3


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (torch.tensor(3), torch.tensor(4)),
        (torch.tensor([True, False]), torch.tensor([False, True])),
        (torch.ones(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.bfloat16)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(0), torch.zeros(0, 1)),
    ],
)
def test_a_buffer_left_of_the_cut_is_part_of_the_key(value: Tensor, other: Tensor) -> None:
    model = cut_model(*LAST_FFN)
    norm = model.backbone.layer[0].attention_norm
    without = key_of(model).digest
    norm.register_buffer("extra", value)
    given_value = key_of(model).digest
    norm.extra = other
    assert len({without, given_value, key_of(model).digest}) == 3


def test_the_memory_layout_of_a_weight_is_not_part_of_the_key() -> None:
    model = cut_model(*LAST_FFN)
    before, weight = key_of(model).digest, model.backbone.layer[0].attention.in_proj_weight
    weight.data = weight.data.T.contiguous().T
    assert not weight.is_contiguous()
    assert key_of(model).digest == before


def test_the_frozen_weights_of_the_pooling_count_where_the_cut_is_behind_it() -> None:
    model = cut_model("-", pooling=Projection())
    assert model.cut.keeps == "pooled"
    before = key_of(model).digest
    nudge(model.pooling.projection.weight, 0, torch.inf)
    assert key_of(model).digest != before


@pytest.mark.reliability("B29")
def test_every_cut_has_a_key_of_its_own() -> None:
    models = [cut_model(trains) for trains in CUTS]
    assert {model.cut.keeps for model in models} == {"first token", "tokens", "pooled"}
    assert len({key_of(model).digest for model in models}) == len(CUTS)


@pytest.mark.reliability("B29")
def test_every_type_has_a_key_of_its_own() -> None:
    model = cut_model(*LAST_FFN)
    assert len({key_of(model, dtype=dtype).digest for dtype in (torch.float32, torch.float16, torch.bfloat16)}) == 3


def test_what_is_kept_is_part_of_the_key() -> None:
    first, mean = cut_model(*LAST_FFN), cut_model(*LAST_FFN, pooling=MeanPooling(WIDTH))
    assert (first.cut.stage, first.cut.keeps) == (4, "first token")
    assert (mean.cut.stage, mean.cut.keeps) == (4, "tokens")
    assert key_of(first).digest != key_of(mean, MeanConfig()).digest


@pytest.mark.parametrize(
    "architecture", [{}, {"heads": 4}, {"heads": "2"}, {"heads": 2.0}, {"heads": 2, "norm": "first"}, {"layers": 2}]
)
@pytest.mark.reliability("B29")
def test_architecture_is_part_of_the_key(architecture: dict[str, Any]) -> None:
    model = cut_model(*LAST_FFN)
    before = key_of(model).digest
    model.backbone.architecture = lambda: architecture
    assert key_of(model).digest != before


def test_the_order_in_which_architecture_is_told_is_not_part_of_the_key() -> None:
    model = cut_model(*LAST_FFN)
    model.backbone.architecture = lambda: {"heads": 2, "norm": "first"}
    before = key_of(model).digest
    model.backbone.architecture = lambda: {"norm": "first", "heads": 2}
    assert key_of(model).digest == before


def test_the_poolings_settings_count_where_the_cut_is_behind_the_pooling() -> None:
    behind = cut_model("-", pooling=PowerMean(1.0))
    assert key_of(behind, PowerMeanConfig()).digest != key_of(behind, PowerMeanConfig(power=2.0)).digest


@pytest.mark.parametrize("trains", CUTS[:-1])
def test_the_poolings_settings_do_not_count_where_the_cut_is_before_the_pooling(trains: str) -> None:
    before = cut_model(trains, pooling=PowerMean(1.0))
    assert key_of(before, PowerMeanConfig()).digest == key_of(before, PowerMeanConfig(power=2.0)).digest
    assert key_of(before, PowerMeanConfig()).digest == key_of(before, MeanConfig()).digest


def test_the_version_of_the_arithmetic_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cut_model(*LAST_FFN)
    before = key_of(model).digest
    monkeypatch.setattr(key_module, "NUMERICS", key_module.NUMERICS + 1)
    assert key_of(model).digest != before


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(torch, "__version__", "2.0.1"), (torch.backends.cpu, "get_cpu_capability", lambda: "OTHER")],
)
@pytest.mark.reliability("B38")
def test_torch_and_the_processor_are_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, value: Any
) -> None:
    model = cut_model(*LAST_FFN)
    before = key_of(model).digest
    monkeypatch.setattr(module, name, value)
    assert key_of(model).digest != before


def with_first_token_query(model: MultiTaskModel, number: int) -> MultiTaskModel:
    """Give stage ``number`` a step for the first token alone."""
    stages = list(model.backbone.stages())
    stages[number] = dataclasses.replace(stages[number], run_first_token=lambda hidden, mask: hidden[:, :1])
    model.backbone.stages = lambda: stages
    return model


@pytest.mark.parametrize("trains", [".layer.1.ffn.", "-"])
def test_a_first_token_query_that_is_used_is_part_of_the_key(trains: str) -> None:
    model = cut_model(trains)
    before = key_of(model).digest
    assert model.prefix.first_token_stage == 3
    assert key_of(with_first_token_query(model, 3)).digest != before


@pytest.mark.parametrize(("pooling", "number"), [(FirstToken(), 1), (MeanPooling(WIDTH), 3)])
def test_a_first_token_query_that_is_not_used_is_not_part_of_the_key(pooling: Pooling, number: int) -> None:
    model = cut_model(*LAST_FFN, pooling=pooling)
    before = key_of(model).digest
    assert key_of(with_first_token_query(model, number)).digest == before


def test_neither_mode_nor_gradients_are_part_of_the_key() -> None:
    model = cut_model(*LAST_FFN)
    keys = {key_of(model.train()).digest, key_of(model.eval()).digest}
    sum(parameter.sum() for parameter in model.parameters() if parameter.requires_grad).backward()
    assert keys == {key_of(model).digest}


def test_other_heads_are_not_part_of_the_key() -> None:
    model, other = cut_model(*LAST_FFN), cut_model(*LAST_FFN)
    other.heads = nn.ModuleDict({"another": nn.Linear(WIDTH, 7)})
    assert key_of(other).digest == key_of(model).digest


@pytest.mark.reliability("B30")
def test_having_tokenized_is_not_part_of_the_key() -> None:
    model = cut_model(*LAST_FFN)
    before = key_of(model).digest
    corpus_of(model.backbone.tokenizer, ["some text", "some more"])
    assert key_of(model).digest == before


@pytest.mark.slow
@pytest.mark.reliability("B30")
def test_a_key_is_the_same_in_any_process_and_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    printed = subprocess.run(
        [sys.executable, "-c", PRINT_KEY],
        cwd=elsewhere,
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == key_of(cut_model(".layer.1.ffn.")).digest


def test_a_key_is_json_and_names_no_folder(tmp_path: Path, make_distilbert: Callable[..., Path]) -> None:
    description = distilbert_key(make_distilbert(tmp_path / "model")).description
    assert json.loads(json.dumps(description)) == description
    assert str(tmp_path) not in json.dumps(description)


def distilbert_key(folder: str | Path) -> Key:
    backbone = DistilBertConfig(model=str(folder), max_length=16).build()
    model = MultiTaskModel(backbone, ClsConfig().build(backbone.width), {})
    model.set_trainable([f"backbone.{name}" for name, _ in backbone.named_parameters() if ".layer.1.ffn." in name])
    return key_of(model)


@pytest.mark.reliability("B30")
def test_a_model_folder_may_be_copied_renamed_and_reached_by_any_path(
    tmp_path: Path, make_distilbert: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = make_distilbert(tmp_path / "original")
    first = distilbert_key(original)
    copy = shutil.copytree(original, tmp_path / "elsewhere" / "copy")
    assert distilbert_key(copy) == first
    monkeypatch.chdir(copy.parent)
    assert distilbert_key("copy") == first
    assert distilbert_key("./copy") == first
    original.rename(tmp_path / "renamed")
    assert distilbert_key(tmp_path / "renamed") == first
    (tmp_path / "link").symlink_to(copy)
    assert distilbert_key(tmp_path / "link") == first


def test_a_restored_backbone_has_the_key_of_the_one_that_was_saved(
    tmp_path: Path, make_distilbert: Callable[..., Path]
) -> None:
    settings = DistilBertConfig(model=str(make_distilbert(tmp_path / "model")), max_length=16)
    built = settings.build()
    (tmp_path / "saved").mkdir()
    built.save(tmp_path / "saved")
    restored = settings.restore(tmp_path / "saved")
    restored.load_state_dict(built.state_dict())
    models = [MultiTaskModel(backbone, ClsConfig().build(32), {}) for backbone in (built, restored)]
    for model in models:
        model.set_trainable([])
    assert key_of(models[0]) == key_of(models[1])


def minilm_key(backbone: Backbone) -> Key:
    model = MultiTaskModel(backbone, MeanConfig().build(backbone.width), {})
    model.set_trainable([f"backbone.{name}" for name, _ in backbone.named_parameters() if ".layer.5.ffn." in name])
    return key_of(model, MeanConfig())


def test_minilm_in_a_distilbert_folder_has_the_key_and_the_entries_of_minilm(minilm: Backbone, tmp_path: Path) -> None:
    minilm.save(tmp_path)
    safetensors.torch.save_file(minilm.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    other = DistilBertConfig(model=str(tmp_path), max_length=512).build()
    assert minilm_key(other) == minilm_key(minilm)
    texts = ["A short one.", "Ünïcödé, and a good many words more " * 30]
    assert list(digests_of(corpus_of(other.tokenizer, texts))) == list(digests_of(corpus_of(minilm.tokenizer, texts)))


def test_a_space_that_alters_no_token_alters_neither_key_nor_entry(minilm: Backbone) -> None:
    before = minilm_key(minilm)
    texts = ["the saw is fine", " the saw  is fine ", "the saw is\tfine\n", "The saw is fine"]
    corpora = [corpus_of(minilm.tokenizer, [text]) for text in texts]
    assert len({digests_of(corpus)[0] for corpus in corpora}) == 1
    assert list(digests_of(corpus_of(minilm.tokenizer, texts))) == list(digests_of(corpora[0]))
    assert list(digests_of(corpus_of(minilm.tokenizer, ["the sawis fine"]))) != list(digests_of(corpora[0]))
    assert minilm_key(minilm) == before


Ids = st.lists(st.integers(0, 2**40), min_size=1, max_size=8)


def digests_of_ids(sequences: list[list[int]]) -> list[bytes]:
    values = torch.tensor([number for sequence in sequences for number in sequence])
    token_ids = Ragged(values, offsets_of(torch.tensor([len(sequence) for sequence in sequences])))
    return list(Sequences.of_texts(token_ids).digests(EVERY_TOKEN))


@given(Ids)
def test_an_entrys_digest_is_the_sha256_of_its_token_ids(ids: list[int]) -> None:
    assert digests_of_ids([ids]) == [hashlib.sha256(struct.pack(f"<{len(ids)}q", *ids)).digest()]


@given(ids=Ids, data=st.data(), other=st.integers(0, 2**40))
@pytest.mark.reliability("B29")
def test_one_token_changes_an_entrys_digest_and_no_other(ids: list[int], data: st.DataObject, other: int) -> None:
    place = data.draw(st.integers(0, len(ids) - 1))
    changed = [*ids[:place], other, *ids[place + 1 :]]
    digests = digests_of_ids([[1, 2], changed, [3]])
    before = digests_of_ids([[1, 2], ids, [3]])
    assert (digests[1] == before[1]) == (changed == ids)
    assert digests[::2] == before[::2]


@given(st.lists(Ids, min_size=1, max_size=6, unique_by=tuple))
def test_different_sequences_have_different_digests_wherever_they_stand(sequences: list[list[int]]) -> None:
    digests = digests_of_ids(sequences)
    assert len(set(digests)) == len(sequences)
    assert digests_of_ids(sequences[::-1]) == digests[::-1]


@pytest.mark.parametrize(("letters", "same"), [(1, True), (14, True), (15, False), (40, False)])
@pytest.mark.reliability("B29")
def test_max_length_changes_the_digests_of_texts_that_it_truncates(letters: int, same: bool) -> None:
    texts = ["abc" * 20, "x" * letters]
    short, long = (corpus_of(letter_tokenizer(length), texts) for length in (16, 32))
    assert (digests_of(short)[1] == digests_of(long)[1]) is same


def test_texts_that_differ_behind_max_length_share_an_entry() -> None:
    corpus = corpus_of(letter_tokenizer(16), ["x" * 14 + "a", "x" * 14 + "b"])
    assert len(digests_of(corpus)) == 1
