"""Orbax without its noise: whatever matters comes as an exception."""

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hush orbax's log, and the tracebacks of reads that it abandons when another one has failed.

    They come from tensorstore's threads and may come late, so after an error they stay hushed.
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
    """Pass on all but what a read says that finds nobody waiting for it."""
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)
