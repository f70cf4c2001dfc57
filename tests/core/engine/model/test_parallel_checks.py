"""Norms over a batch are refused where several processes share it, and dropout that is drawn is seen."""

import pytest
from torch import nn

from topwork.engine.model.parallel_checks import check_norms, draws_dropout
from topwork.errors import ConfigurationError
from topwork.experiment.origin import Origin
from topwork.testing.tiny import tiny_model


def test_a_batch_norm_in_a_head_is_refused_with_several_processes_and_allowed_in_one() -> None:
    model = tiny_model()
    model.heads["mood"] = nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    check_norms(model, model.cut.stage, 1, origin=Origin())
    with pytest.raises(ConfigurationError, match=r"tasks\.mood\.head: BatchNorm1d takes means over a batch"):
        check_norms(model, model.cut.stage, 2, origin=Origin())


def test_a_batch_norm_left_of_the_cut_is_no_reason() -> None:
    model = tiny_model()
    model.backbone.embeddings.add_module("norm", nn.BatchNorm1d(16))
    model.set_trainable([])
    check_norms(model, model.cut.stage, 2, origin=Origin())
    model.set_trainable([f"backbone.{name}" for name, _ in model.backbone.named_parameters()])
    with pytest.raises(ConfigurationError, match="backbone: BatchNorm1d takes means"):
        check_norms(model, model.cut.stage, 2, origin=Origin())


def test_dropout_is_drawn_where_it_trains_alone() -> None:
    model = tiny_model()
    model.set_trainable([])
    assert not draws_dropout(model.train())
    model.set_trainable([f"backbone.{name}" for name, _ in model.backbone.named_parameters()])
    assert draws_dropout(model.train())
    assert not draws_dropout(model.eval())
    assert not draws_dropout(nn.Dropout(0.0))
