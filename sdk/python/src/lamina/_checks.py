"""Whether what a caller gave is what it must be, so that who gave something else is told which argument it is.

Types are for those who check them; these are for the others, before anything is sent.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import InvalidArgument

# Whole numbers of the wire.
INT_MAX = (1 << 63) - 1


def wrong(what: str, must: str, given: Any) -> InvalidArgument:
    """The error for an argument of another type. Its value may be a secret."""
    return InvalidArgument(f"{what} must be {must}, not {type(given).__name__}")


def kind(what: str, given: object, kinds: type | tuple[type, ...], must: str) -> None:
    """Something of these types."""
    if not isinstance(given, kinds):
        raise wrong(what, must, given)


def text(what: str, given: object) -> None:
    """A string."""
    kind(what, given, str, "text")


def whole(what: str, given: Any, least: int) -> int:
    """A whole number that is not less."""
    try:
        number = operator.index(given)
    except TypeError:
        raise wrong(what, "a whole number", given) from None
    if not least <= number <= INT_MAX:
        raise InvalidArgument(f"{what} must be at least {least}, not {number}" if number < least else f"{what} is too large")
    return number


def milliseconds(what: str, given: Any, *, zero: bool = False) -> int:
    """Seconds, as the wire has them; 0 for None. More than none, unless `zero` says that none will do."""
    if given is None:
        return 0
    kind(what, given, numbers.Real, "a number of seconds")
    if zero and given == 0:
        return 0
    if not (0 < given < math.inf):
        raise InvalidArgument(f"{what} must be more than 0 seconds, not {given}")
    return min(INT_MAX, max(1, round(float(given) * 1000)))


def mapping(what: str, given: Any) -> Mapping[Any, Any]:
    """A dictionary, or one with nothing in it for None."""
    if given is None:
        return {}
    kind(what, given, Mapping, "a dictionary")
    return given  # type: ignore[no-any-return]


def words(what: str, given: Any, must: str) -> list[str]:
    """A list of strings; one string is none."""
    kind(what, given, Iterable, must)
    if isinstance(given, str | bytes | Mapping):
        raise wrong(what, must, given)  # pyright: ignore[reportUnknownArgumentType]
    found: list[Any] = list(given)
    for number, word in enumerate(found):
        text(f"{what}[{number}]", word)
    return found
