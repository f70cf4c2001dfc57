"""A model runs layer by layer as by its own forward pass, or it is said why not."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from topwork_plugins.backbones.layered import LayeredModel, Placeholder, find_layers


class Layer(nn.Module):
    kind = "full"

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden_states: Tensor, bias: Tensor) -> Tensor:
        return hidden_states + torch.tanh(self.linear(hidden_states)) + bias


class Model(nn.Module):
    """A model of which the layers are handed a bias that depends on the lengths of the texts."""

    def __init__(self, way: str = "plain") -> None:
        super().__init__()
        self.way = way
        self.embeddings = nn.Embedding(30, 4)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.unread = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        if way == "a parameter beside the layers":
            self.scale = nn.Parameter(torch.ones(4))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        hidden = self.embeddings(input_ids)
        for number, layer in enumerate(self.layers):
            assert layer.kind == "full"
            hidden = layer(hidden, bias=attention_mask.sum(1)[:, None, None] / 10 + number)
            if self.way == "more between layers" and number == 1:
                hidden = hidden * 2 + self.embeddings(input_ids)
        if self.way == "twice":
            hidden = self.layers[0](hidden, bias=torch.zeros(4))
        if self.way == "averages":
            hidden = hidden + hidden.mean(1, keepdim=True)
        return SimpleNamespace(last_hidden_state=self.norm(hidden))


def test_layers_get_what_the_model_hands_them_and_what_follows_runs_last() -> None:
    torch.manual_seed(0)
    model = Model()
    layered = LayeredModel(model, [7, 8, 9])
    assert (layered.before, layered.after) == ([model.embeddings], [model.norm])
    ids, mask = torch.randint(0, 30, (3, 9)), torch.ones(3, 9, dtype=torch.bool)
    hidden = layered.embed(ids, mask)
    for number in range(3):
        hidden = layered.run_layer(number, hidden, mask)
    assert torch.equal(layered.finish(hidden, mask), model(ids, mask.long()).last_hidden_state)


def test_what_has_no_part_in_the_result_is_left_out() -> None:
    model = Model()
    LayeredModel(model, [7, 8, 9])
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"embeddings", "layers", "norm"}


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("more between layers", "its layers, run one by one, give something else than its forward pass, by "),
        ("twice", "its layers run several times in one forward pass"),
        ("averages", "a text gives something else when it is padded"),
        ("a parameter beside the layers", "scale lies beside its layers, in no module of its own"),
    ],
)
def test_a_model_that_does_not_run_layer_by_layer_is_refused(way: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}"):
        LayeredModel(Model(way), [7, 8, 9])


def test_the_layers_are_the_list_that_weighs_most() -> None:
    model = Model()
    model.other = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    assert find_layers(model)[1:] == ("layers", model.layers)
    with pytest.raises(ValueError, match="it has no list of several layers"):
        find_layers(nn.Linear(2, 2))


def test_a_placeholder_has_the_attributes_of_its_layer_and_none_of_its_parameters() -> None:
    placeholder = Placeholder(Layer(), extra=2)
    assert placeholder.kind == "full"
    assert list(placeholder.parameters()) == []
    hidden = torch.ones(2, 3, 4)
    assert placeholder(hidden_states=hidden, bias=None) == (hidden, None, None)
