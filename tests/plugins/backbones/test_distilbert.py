"""DistilBERT from a folder in the Hub's layout; the weights are random, the shapes are the real ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, BertConfig, DistilBertModel
from transformers import DistilBertConfig as Architecture

from topwork.engine.model.building import build_backbone
from topwork.engine.model_folder import load_model
from topwork.engine.preparation import prepare
from topwork.errors import ConfigurationError
from topwork.experiment.loading import load_experiment
from topwork.experiment.schema import Experiment
from topwork.lab.runs import train
from topwork_plugins.backbones.distilbert import DistilBertBackbone, DistilBertConfig
from topwork_plugins.backbones.minilm import package_folder

REFERENCE = Path(__file__).parents[3] / "experiments" / "reference.yaml"
SMALL = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 40}


@pytest.mark.parametrize("heads", [4, 12, 32])
@pytest.mark.parametrize("length", [5, 31])
@torch.no_grad()
def test_the_first_token_alone_has_the_same_bits_among_any_number_of_texts(heads: int, length: int) -> None:
    """Whether a vector register holds more numbers than there are heads, or fewer."""
    torch.manual_seed(0)
    model = DistilBertModel(Architecture(dim=384, n_heads=heads, n_layers=1, hidden_dim=64, vocab_size=50)).eval()
    attend = DistilBertBackbone(model, Tokenizer(WordPiece())).stages()[1].run_first_token
    assert attend is not None
    hidden, mask = torch.randn(65, length, 384), torch.ones(65, length, dtype=torch.bool)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        every = attend(hidden, mask)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for count in (13, 64):
                assert torch.equal(attend(hidden[:count], mask[:count]), every[:count]), (threads, count)
    finally:
        torch.set_num_threads(before)


def write_tokenizer(folder: Path, *, special_tokens: bool = True) -> None:
    """Write a WordPiece tokenizer with the vocabulary of BERT."""
    words = (package_folder() / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    if special_tokens:
        marks = [(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def make_folder(folder: Path, architecture: Architecture) -> Path:
    """Write a model with random weights, and its tokenizer."""
    torch.manual_seed(0)
    DistilBertModel(architecture).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def real_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of DistilBERT's real size."""
    return make_folder(tmp_path_factory.mktemp("hub") / "distilbert", Architecture())


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small DistilBERT, for a test to spoil."""
    return make_folder(tmp_path / "small", Architecture(vocab_size=30522, **SMALL))


@pytest.fixture(scope="module")
def reviews_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty lines in the format of the reference data: 2 sentiments, 6 categories."""
    categories = ["books", "camera", "dvd", "health", "music", "software"]
    lines = [
        f"{categories[n % 6]} {('pos', 'neg')[n % 2]} {n}.txt this is review {n} , and it {'rambles ' * (n % 5)}."
        for n in range(40)
    ]
    path = tmp_path_factory.mktemp("data") / "reviews.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def reference(folder: Path, file: Path, *more: str) -> Experiment:
    settings = [f"data.reviews.path={file}", f"backbone.model={folder}", "tracking.enabled=false", *more]
    return load_experiment(REFERENCE, settings)


@pytest.mark.slow
def test_the_reference_experiment_trains_what_the_recipe_says(real_size: Path, reviews_file: Path) -> None:
    prepared = prepare(reference(real_size, reviews_file))
    (phase,) = prepared.plan.phases
    sizes = {group.name: prepared.plan.size(group) for group in phase.groups}
    heads = {name: sum(p.numel() for p in head.parameters()) for name, head in prepared.model.heads.items()}
    assert sizes == {"backbone": 4_723_968, "heads": 82_001 + 82_256}
    assert heads == {"sentiment": 82_001, "category": 82_256}
    assert {group.name: group.learning_rate for group in phase.groups} == {"heads": 1e-3, "backbone": 5e-5}
    assert phase.cut.keeps == "first token"
    assert phase.suffix == ("layer.5.ffn",)
    assert {name: len(split.texts) for name, split in prepared.dataset.splits.items()} == {"train": 32, "test": 8}


@pytest.mark.slow
def test_the_reference_experiment_runs_from_file_to_predictions(
    real_size: Path, reviews_file: Path, tmp_path: Path
) -> None:
    result = train(reference(real_size, reviews_file, "training.epochs=2"), output=tmp_path / "model")
    assert len(result.epochs) == 2
    assert result.split == "test"
    assert {figure.rows for figure in result.estimates.values()} == {8}
    loaded = load_model(tmp_path / "model")
    prediction = loaded.predict(["this is a review"])[0]
    assert prediction["sentiment"].label in ("neg", "pos")
    assert len(prediction["category"].probabilities) == 6
    figures, _ = loaded.evaluate(next(iter(loaded.digests)))
    assert figures == result.estimates


@pytest.mark.slow
def test_the_fold_equals_the_forward_pass_of_transformers(real_size: Path) -> None:
    backbone = DistilBertConfig(model=str(real_size)).build().eval()
    original = DistilBertModel.from_pretrained(real_size).eval()
    encoded = [backbone.tokenizer.encode(text).ids for text in ("a short text", "a text that is a good deal longer")]
    longest = max(map(len, encoded))
    ids = torch.tensor([one + [0] * (longest - len(one)) for one in encoded])
    mask = ids != 0
    with torch.no_grad():
        ours, theirs = backbone(ids, mask), original(ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(ours[mask], theirs[mask], atol=1e-5, rtol=0)


def test_a_folder_is_read_whole(small: Path) -> None:
    backbone = DistilBertConfig(model=str(small), max_length=40).build()
    original = DistilBertModel.from_pretrained(small).state_dict()
    ours = backbone.state_dict()
    assert backbone.width == 32
    assert ours.keys() == original.keys()
    assert all(torch.equal(ours[name], original[name]) for name in original)


def test_half_precision_weights_are_read_as_float32(small: Path) -> None:
    DistilBertModel.from_pretrained(small).half().save_pretrained(small)
    backbone = DistilBertConfig(model=str(small), max_length=40).build()
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}


def test_texts_are_truncated_at_max_length_and_not_padded(small: Path) -> None:
    tokenizer = DistilBertConfig(model=str(small), max_length=7).build().tokenizer
    assert [len(one.ids) for one in tokenizer.encode_batch(["one", "word " * 50])] == [3, 7]


def test_a_relative_folder_is_found(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small.parent)
    assert DistilBertConfig(model="small", max_length=40).build().width == 32


def error_of(model: object, **settings: Any) -> str:
    with pytest.raises(ValueError) as caught:
        DistilBertConfig(model=str(model), **{"max_length": 40} | settings).build()
    return str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert error_of(tmp_path / "nowhere") == f"there is no folder '{tmp_path / 'nowhere'}'"


@pytest.mark.parametrize("model", ["./nowhere", "~/nowhere", "some/relative/folder"])
def test_what_can_only_be_a_folder_is_not_looked_up_on_the_hub(model: str) -> None:
    assert error_of(model) == f"there is no folder '{model}'"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    message = error_of(tmp_path)
    assert message == f"folder '{tmp_path}' holds no config.json; give a folder in the Hub's layout"


def test_a_model_that_is_neither_a_folder_nor_cached_is_refused_offline() -> None:
    assert error_of("distilbert-base-uncased") == (
        "model 'distilbert-base-uncased' is neither a folder nor in the Hub's local cache, and HF_HUB_OFFLINE is set; "
        "download it where there is a network, give a folder, or use {kind: minilm}"
    )


def test_a_model_of_another_type_is_refused(tmp_path: Path) -> None:
    BertConfig(hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path)
    message = error_of(tmp_path)
    assert message == f"model '{tmp_path}' is of type bert; kind distilbert reads distilbert only"


def test_more_tokens_than_the_model_has_positions_are_refused(small: Path) -> None:
    message = error_of(small, max_length=41)
    assert message == f"max_length must be at most 40, the positions of '{small}', but is 41"


def test_missing_weights_are_named_and_counted(small: Path) -> None:
    path = small / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    kept = {name: weight for name, weight in weights.items() if "layer.1.ffn" not in name}
    safetensors.torch.save_file(kept, path, metadata={"format": "pt"})
    message = error_of(small)
    assert message.startswith(f"model '{small}' lacks 4 weights: ")
    assert "transformer.layer.1.ffn.lin1.bias" in message


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_reported_as_a_setting_that_does_not_fit(small: Path, missing: str) -> None:
    (small / missing).unlink()
    message = error_of(small)
    assert str(small) in message
    assert "Traceback" not in message


def test_weights_of_another_shape_are_reported_as_a_setting_that_does_not_fit(small: Path) -> None:
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"hidden_dim": 128}))
    assert str(small) in error_of(small)


def test_a_damaged_file_is_reported_as_a_setting_that_does_not_fit(small: Path) -> None:
    path = small / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert str(small) in error_of(small)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (DistilBertModel, "model '{}' cannot be read: OSError"),
        (
            AutoTokenizer,
            "the tokenizer of model '{}' cannot be read: OSError; save one beside it: "
            "tokenizer.save_pretrained(folder)",
        ),
    ],
    ids=["weights", "tokenizer"],
)
def test_a_library_that_fails_without_a_word_is_quoted_by_its_type(
    small: Path, monkeypatch: pytest.MonkeyPatch, reader: Any, message: str
) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise OSError

    monkeypatch.setattr(reader, "from_pretrained", fail)
    assert error_of(small) == message.format(small)


def test_a_tokenizer_without_special_tokens_is_refused(small: Path) -> None:
    write_tokenizer(small, special_tokens=False)
    message = error_of(small)
    assert message == "the tokenizer must add [CLS] and [SEP]; its tokenizer.json has no post-processor that does"


def test_an_error_is_reported_at_the_backbone_of_the_experiment_file(
    small: Path, reviews_file: Path, write: Callable[..., Path]
) -> None:
    experiment = reference(small, reviews_file, "backbone.max_length=41")
    with pytest.raises(ConfigurationError, match=r"backbone: max_length must be at most 40"):
        build_backbone(experiment.backbone, seed=0, origin=experiment.origin)


def test_a_saved_backbone_is_restored_without_the_folder_it_came_from(small: Path, tmp_path: Path) -> None:
    settings = DistilBertConfig(model=str(small), max_length=40)
    backbone = settings.build().eval()
    (tmp_path / "saved").mkdir()
    backbone.save(tmp_path / "saved")
    restored = DistilBertConfig(model="/nowhere").restore(tmp_path / "saved").eval()
    restored.load_state_dict(backbone.state_dict())
    ids = torch.tensor([restored.tokenizer.encode("word " * 60).ids])
    assert ids.shape == (1, 40)
    mask = torch.ones_like(ids, dtype=torch.bool)
    assert torch.equal(restored(ids, mask), backbone(ids, mask))
