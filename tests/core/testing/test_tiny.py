"""The tiny model is a small but whole one: plugins that work on it work on a large one."""

import pytest
import torch

from topwork.testing import BackboneContract, TinyBackboneConfig, tiny_model
from topwork.testing.tiny import POSITIONS, WIDTH, FirstToken, WeightedMean, letter_tokenizer, snapshot

MASK = torch.tensor([[True, True, False], [True, True, True]])

#: One text, for both heads.
EVERY_TASK = dict.fromkeys(("animal", "mood"), torch.tensor([0]))


@pytest.mark.usefixtures("installed")
class TestTinyBackbone(BackboneContract):
    """The tiny backbone keeps the contract that it is there to help others with."""

    config = TinyBackboneConfig()


def read(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([letter_tokenizer(32).encode(text).ids])
    return ids, torch.ones_like(ids, dtype=torch.bool)


def test_texts_are_read_letter_by_letter_between_the_special_tokens() -> None:
    assert letter_tokenizer(32).encode("Ab 1").tokens == ["[CLS]", "A", "b", " ", "1", "[SEP]"]
    assert letter_tokenizer(32).encode("é").tokens == ["[CLS]", "[UNK]", "[SEP]"]


@pytest.mark.parametrize("length", [3, 10, POSITIONS])
def test_texts_are_truncated_at_max_length(length: int) -> None:
    backbone = TinyBackboneConfig(max_length=length).build()
    encoding = backbone.tokenizer.encode("x" * 100)
    assert (len(encoding.ids), encoding.tokens[-1]) == (length, "[SEP]")
    ids = torch.tensor([encoding.ids])
    assert backbone(ids, torch.ones_like(ids, dtype=torch.bool)).shape == (1, length, WIDTH)


def test_the_model_has_two_layers_of_two_stages() -> None:
    stages = tiny_model().backbone.stages()
    assert [(stage.name, stage.layer, stage.mixes_tokens) for stage in stages] == [
        ("embeddings", None, False),
        ("layer.0.attention", 0, True),
        ("layer.0.ffn", 0, False),
        ("layer.1.attention", 1, True),
        ("layer.1.ffn", 1, False),
    ]


def test_the_model_gives_outputs_for_two_tasks_of_two_classes() -> None:
    outputs = tiny_model()(*read("some text"), EVERY_TASK)
    assert {task: tuple(of_task.shape) for task, of_task in outputs.items()} == {"animal": (1, 2), "mood": (1, 2)}


def test_the_model_has_dropout_in_train_mode_and_none_in_eval_mode() -> None:
    model, (ids, mask) = tiny_model(), read("some text")
    assert not torch.equal(model(ids, mask, EVERY_TASK)["mood"], model(ids, mask, EVERY_TASK)["mood"])
    model.eval()
    assert torch.equal(model(ids, mask, EVERY_TASK)["mood"], model(ids, mask, EVERY_TASK)["mood"])


def test_the_seed_decides_the_weights() -> None:
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(snapshot(tiny_model()))
    assert models[0] == models[1] != models[2]


def test_the_first_token_says_or_hides_that_it_is_all_that_is_read() -> None:
    hidden = torch.randn(2, 3, WIDTH)
    assert torch.equal(FirstToken()(hidden, MASK), hidden[:, 0])
    assert FirstToken().reads_first_token_only
    assert not FirstToken(reads_first_token_only=False).reads_first_token_only


def test_the_weighted_mean_lies_among_the_real_tokens_and_learns() -> None:
    pooling, hidden = WeightedMean(), torch.randn(2, 3, WIDTH)
    real = hidden.masked_fill(~MASK[:, :, None], float("nan"))
    pooled = pooling(real, MASK)
    assert (pooled >= hidden.masked_fill(~MASK[:, :, None], torch.inf).amin(dim=1)).all()
    assert (pooled <= hidden.masked_fill(~MASK[:, :, None], -torch.inf).amax(dim=1)).all()
    assert {name for name, _ in tiny_model(pooling).pooling.named_parameters()} == {"score.weight", "score.bias"}


@pytest.mark.parametrize("change", ["a weight", "what trains", "the mode"])
def test_a_snapshot_shows_every_change(change: str) -> None:
    model = tiny_model()
    before = snapshot(model)
    assert snapshot(model) == before
    if change == "a weight":
        with torch.no_grad():
            model.heads["mood"].bias[1] += 1
    elif change == "what trains":
        next(model.backbone.parameters()).requires_grad_(False)
    else:
        model.eval()
    assert snapshot(model) != before
