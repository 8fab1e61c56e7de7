"""Checks of plain arguments: a mistake is a `ValueError` with the name and the value."""

import numbers
from typing import Any


def is_whole_number(value: Any) -> bool:
    """Whether a value is an integer of Python or NumPy, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def require_whole_number(name: str, value: Any, smallest: int = 1) -> None:
    """Raise `ValueError` unless `value` is a whole number, at least the smallest allowed."""
    if not is_whole_number(value) or value < smallest:
        raise ValueError(f"{name}={value!r} must be a whole number >= {smallest}")
