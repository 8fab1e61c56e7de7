"""When the host interrupts the device, and how a run is asked to stop."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

_SECONDS_PER_CHUNK = 1.0


class Pace:
    """Choose the number of updates per chunk, for chunks of about a second."""

    def __init__(self, longest: int):
        self._longest = longest
        self._seconds_per_update: float | None = None

    @property
    def rate(self) -> float | None:
        """Updates per second; None before the first chunk."""
        return self._seconds_per_update and 1 / self._seconds_per_update

    def chunk(self, limit: int) -> int:
        """Updates in the next chunk: one at first, then as many as fit in a second."""
        if self._seconds_per_update is None:
            return 1
        wanted = int(_SECONDS_PER_CHUNK / self._seconds_per_update)
        return max(1, min(wanted, limit, self._longest))

    @contextlib.contextmanager
    def timing(self, count: int) -> Iterator[None]:
        """Measure a chunk."""
        started = time.perf_counter()
        yield
        self._seconds_per_update = (time.perf_counter() - started) / count


class Interruptions:
    """Records Ctrl-C and SIGTERM instead of stopping at once; a second signal stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruptions":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._restore()

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
