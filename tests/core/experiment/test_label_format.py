"""How labels are written is checked when the experiment is read."""

import pytest
from pydantic import ValidationError

from topwork.experiment.label_format import AS_WRITTEN, LabelFormat


@pytest.mark.parametrize("order", [[], ["only"], ["a", "b", "a"]], ids=repr)
def test_an_order_names_two_or_more_classes_each_once(order: list[str]) -> None:
    with pytest.raises(ValidationError, match="give the names of two or more classes, each once"):
        LabelFormat.model_validate({"order": order})


@pytest.mark.parametrize(
    "settings", [{"separator": ""}, {"rename": ["a"]}, {"rename": {"a": 1}}, {"split": ","}], ids=repr
)
def test_what_does_not_fit_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LabelFormat.model_validate(settings)


def test_labels_as_they_are_written_keep_every_spelling() -> None:
    assert (AS_WRITTEN.strip, AS_WRITTEN.casefold, AS_WRITTEN.normalize) == (False, False, None)
