"""A freeze strategy answers with names for an epoch."""

from topwork.interfaces.freeze_strategy import FreezeStrategyConfig


def test_the_settings_of_a_freeze_strategy_name_what_trains() -> None:
    assert FreezeStrategyConfig.__abstractmethods__ == {"trainable"}
