"""Patterns that name parameters, in whole dotted segments."""

from collections.abc import Sequence

import topwork


def matches(pattern: str, name: str) -> bool:
    """Whether the dotted segments of ``pattern`` occur in a row among those of ``name``; ``*`` is any one segment."""
    wanted = pattern.split(".")
    return any(
        all(want in ("*", have) for want, have in zip(wanted, window, strict=True))
        for window in _windows(name, len(wanted))
    )


def near_miss(pattern: str, names: Sequence[str]) -> str:
    """Suggest what in ``names`` the researcher may have meant by ``pattern``."""
    length = pattern.count(".") + 1
    return topwork.did_you_mean(pattern, {".".join(window) for name in names for window in _windows(name, length)})


def _windows(name: str, length: int) -> list[list[str]]:
    segments = name.split(".")
    return [segments[start : start + length] for start in range(len(segments) - length + 1)]
