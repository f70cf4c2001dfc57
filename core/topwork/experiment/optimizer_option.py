"""A setting of an optimizer, as torch names it."""

import math
from typing import Annotated

from pydantic import PlainValidator

from topwork.errors import quote


def _an_option(value: object) -> object:
    numbers: list[object] = [one for one in value if one is not None] if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, bool | int | float) and math.isfinite(one) for one in numbers):
        raise ValueError(f"an option is a finite number, true or false, or a list of numbers, got {quote(value)}")
    return tuple(numbers) if isinstance(value, list) else value


OptimizerOption = Annotated[bool | int | float | tuple[float | None, ...], PlainValidator(_an_option)]
