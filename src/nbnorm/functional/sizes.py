"""Checks of counts, and of arguments that are one for both axes of an image or one for each."""

from __future__ import annotations

from typing import Any

from nbnorm import checks

# No axis is as long, and no product of two such numbers is beyond what kernels count with.
MOST = 2**31 - 1


def size(function: str, name: str, value: Any, *, least: int = 1, most: int = MOST) -> int:
    """Return an int of `least` or more, and not above `most`, which is a power of 2 less 1."""
    expected = f"an int of {least} or more"
    if not checks.is_int(value):
        raise checks.wrong_type(function, name, value, expected)
    if value < least:
        raise checks.wrong_value(function, name, value, expected)
    if value > most:
        expected = f"{expected}, below 2**{most.bit_length()}"
        raise checks.wrong_value(function, name, value, expected)
    return int(value)


def pair(function: str, name: str, value: Any, *, least: int = 1) -> tuple[int, int]:
    """Return an int for each axis, vertical first, from a pair or from one int for both."""
    if not isinstance(value, (tuple, list)):
        value = (value, value)
    if len(value) != 2:
        raise checks.wrong_value(function, name, value, "an int or a pair of ints")
    vertical, horizontal = (size(function, name, one, least=least) for one in value)
    return vertical, horizontal
