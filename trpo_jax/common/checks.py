"""Checks of plain arguments. A mistake is a `ValueError` with its name and value."""

import numbers
from typing import Any


def is_whole_number(value: Any) -> bool:
    """Whether a value is a Python or NumPy integer, and not a bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a Python or NumPy number, and not a bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def require_whole_number(name: str, value: Any, smallest: int = 1) -> None:
    """Raise `ValueError` unless `value` is a whole number >= `smallest`."""
    if not is_whole_number(value) or value < smallest:
        raise ValueError(f"{name}={value!r} must be a whole number >= {smallest}")
