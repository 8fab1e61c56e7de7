"""Silence orbax: whatever matters is raised as an exception."""

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence orbax's log, and the tracebacks of reads that it abandons after another one failed.

    These come from tensorstore's threads and may come late, so after an error they stay silenced.
    """
    logger, hook = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = functools.partial(_report, report=hook)
    try:
        yield
        sys.unraisablehook = hook
    finally:
        logger.setLevel(level)


def _report(unraisable: Any, report: Callable[[Any], Any]) -> None:
    """Report everything except the complaint of an abandoned read."""
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)
