"""A plugin's settings name themselves, refuse what they do not know, and cannot be changed."""

from typing import Any, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from topwork.interfaces.plugin import Count, PluginConfig, Rate


class LampConfig(PluginConfig):
    """Settings of something."""

    kind: Literal["lamp"] = "lamp"
    watts: Count = 40
    flicker: Rate = 0.0


def test_settings_say_their_kind_even_where_nothing_was_set() -> None:
    assert LampConfig().model_dump(exclude_unset=True) == {"kind": "lamp"}
    assert LampConfig(watts=60).model_dump(exclude_unset=True) == {"kind": "lamp", "watts": 60}
    assert LampConfig.model_validate({"watts": 60}).model_dump(exclude_unset=True) == {"kind": "lamp", "watts": 60}


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="Input should be 'lamp'"):
        LampConfig.model_validate({"kind": "candle"})


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        LampConfig.model_validate({"kind": "lamp", "wats": 60})
    (error,) = caught.value.errors()
    assert (error["type"], error["loc"]) == ("extra_forbidden", ("wats",))


@pytest.mark.parametrize("name", ["kind", "watts", "brightness"])
def test_settings_cannot_be_changed(name: str) -> None:
    lamp = LampConfig()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(lamp, name, 60)
    assert lamp == LampConfig()


def test_equal_settings_are_one_in_a_set() -> None:
    assert len({LampConfig(), LampConfig(watts=40), LampConfig(watts=60)}) == 2


@pytest.mark.parametrize("value", [1, 7, 10**12])
def test_a_count_is_a_whole_number_from_1(value: int) -> None:
    assert LampConfig(watts=value).watts == value


@pytest.mark.parametrize("value", [True, "2", 2.0, 2.5, 0, -1, None, float("inf"), float("nan")], ids=repr)
def test_nothing_else_is_a_count(value: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Count).validate_python(value)


@pytest.mark.parametrize("value", [0, 0.0, 1, 5e-5, 1e300])
def test_a_rate_is_a_finite_number_from_0(value: float) -> None:
    read = LampConfig(flicker=value).flicker
    assert read == value
    assert isinstance(read, float)


@pytest.mark.parametrize("value", [True, False, "0.1", -1, -1e-9, None, float("inf"), float("nan")], ids=repr)
def test_nothing_else_is_a_rate(value: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Rate).validate_python(value)
