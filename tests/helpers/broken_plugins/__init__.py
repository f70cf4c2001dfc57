"""Plugins that break one rule each, in the way that their setting ``broken`` says; without it they are sound."""

from dataclasses import dataclass, field

import topwork


@dataclass(frozen=True)
class Broken:
    """A plugin that one check of its contract refuses.

    Attributes:
        check: the name of that check.
        config: the plugin's settings.
        error: what the check raises.
        also: further checks that cannot but fail too.
    """

    check: str
    config: topwork.PluginConfig
    error: type[Exception] = AssertionError
    also: set[str] = field(default_factory=set)
