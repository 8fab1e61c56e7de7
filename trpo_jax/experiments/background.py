"""Programs that are compiled while others run: compilation does not hold Python's lock."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from trpo_jax.experiments.chunks import compiled


class Background:
    """A thread that compiles one program after another, until it is closed."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compilation")

    def compiled(self, program: Any, *arguments: Any) -> Callable[..., Any]:
        """`compiled(program, *arguments)`, later: the first call waits for it.

        Several processes compile at once, because they must do everything in the same order.
        """
        if jax.process_count() > 1 or not hasattr(program, "lower"):
            return compiled(program, *arguments)
        future = self._thread.submit(compiled, program, *arguments)
        return lambda *given: future.result()(*given)

    def close(self) -> None:
        """Forget what was not begun, and wait for what was."""
        self._thread.shutdown(cancel_futures=True)
