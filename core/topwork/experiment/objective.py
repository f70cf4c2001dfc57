"""What is to be improved: a metric, or an expression over some such as ``mean(a/loss, min(b/loss, c/loss))``."""

import math
import re
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from topwork.errors import did_you_mean, enumerate_names, quote

#: Far more than an objective needs: its characters, and its functions inside each other.
MAX_CHARACTERS, MAX_DEPTH = 10_000, 20

FUNCTIONS: dict[str, Callable[[Sequence[float]], float]] = {"mean": statistics.fmean, "min": min, "max": max}

# A plugin's metric may have spaces inside its name.
_TOKEN = re.compile(r"(?P<mark>[(),])|(?P<word>[^\s(),](?:[^(),]*[^\s(),])?)")


@dataclass(frozen=True)
class Objective:
    """A metric, or a function of objectives.

    Attributes:
        name: of the metric, or of the function.
        parts: what the function is of; empty for a metric.
    """

    name: str
    parts: "tuple[Objective, ...]" = ()

    def evaluate(self, metrics: Mapping[str, float]) -> float:
        """Return the value for ``metrics``; NaN where a metric that it needs is NaN, or is not there."""
        if not self.parts:
            return metrics.get(self.name, math.nan)
        values = [part.evaluate(metrics) for part in self.parts]
        return math.nan if any(map(math.isnan, values)) else FUNCTIONS[self.name](values)

    def metrics(self) -> Iterator[str]:
        """The names of the metrics that it needs, in the order of writing."""
        if not self.parts:
            yield self.name
        for part in self.parts:
            yield from part.metrics()

    def without(self, dropped: Callable[[str], bool]) -> "Objective | None":
        """Return the same of the metrics that are left; None where all of them are dropped."""
        if not self.parts:
            return None if dropped(self.name) else self
        left = [part for part in (part.without(dropped) for part in self.parts) if part is not None]
        return Objective(self.name, tuple(left)) if left else None

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.parts))})" if self.parts else self.name


def parse_objective(text: str) -> Objective:
    """Read an expression over metrics.

    Raises:
        ValueError: it is not one; says where it goes wrong.
    """
    if len(text) > MAX_CHARACTERS:
        raise _not_an_objective(text, f"it has {len(text):,} characters, and may have at most {MAX_CHARACTERS:,}")
    objective, rest = _parse(text, list(_tokens(text)), MAX_DEPTH)
    if rest:
        raise _not_an_objective(text, f"{quote(rest[0])} stands after its end")
    return objective


def greater_is_better(objective: Objective, directions: Mapping[str, bool]) -> bool:
    """Whether a greater value is better, given that for every metric there is.

    Raises:
        ValueError: a metric does not exist, or some of the metrics should rise and others fall.
    """
    names = list(dict.fromkeys(objective.metrics()))
    unknown = [name for name in names if name not in directions]
    if unknown:
        raise ValueError("\n".join(_no_metric(name, directions) for name in unknown))
    maximize = [name for name in names if directions[name]]
    if maximize and len(maximize) < len(names):
        falling = next(name for name in names if not directions[name])
        raise ValueError(
            f"the metrics of one objective must all rise or all fall, but in {objective} {maximize[0]} should rise "
            f"and {falling} should fall"
        )
    return bool(maximize)


def _parse(text: str, tokens: Sequence[str], depth: int) -> tuple[Objective, Sequence[str]]:
    """Read one objective, ``depth`` functions deep, off the front of ``tokens`` and return it with what follows."""
    if not tokens or tokens[0] in "(),":
        found = f"found {tokens[0]!r}" if tokens else "it ends"
        raise _not_an_objective(text, f"{found} where a metric or a function should be")
    name, rest = tokens[0], tokens[1:]
    if not rest or rest[0] != "(":
        return Objective(name), rest
    if name not in FUNCTIONS:
        hint = did_you_mean(name, FUNCTIONS)
        raise _not_an_objective(text, f"there is no function {quote(name)}, only {', '.join(FUNCTIONS)}{hint}")
    if not depth:
        raise _not_an_objective(text, f"functions stand inside each other more than {MAX_DEPTH} deep")
    parts: list[Objective] = []
    while rest and rest[0] in "(,":  # the bracket that opens, then commas
        part, rest = _parse(text, rest[1:], depth - 1)
        parts.append(part)
    if not rest or rest[0] != ")":
        raise _not_an_objective(text, f"found {quote(rest[0])} where , or ) should be" if rest else "a ) is missing")
    return Objective(name, tuple(parts)), rest[1:]


def _tokens(text: str) -> Iterator[str]:
    for token in _TOKEN.finditer(text):
        yield token["mark"] or token["word"]


def _not_an_objective(text: str, why: str) -> ValueError:
    return ValueError(
        f"{quote(text, 100)} is not an objective: {why}; write a metric, or a function of some, such as "
        "mean(one, another)"
    )


def _no_metric(name: str, given: Collection[str]) -> str:
    tail = max((one for one in given if name.endswith(f"/{one}")), key=len, default=name)
    return f"there is no metric {quote(name)}, only {enumerate_names(given)}{did_you_mean(tail, given)}"
