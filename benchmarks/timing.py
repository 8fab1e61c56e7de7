"""What programs cost: seconds, side by side, and memory.

Absolute times drift on a shared machine, so calls take turns; ratios are medians over the turns.
"""

import functools
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import numpy as np

Call = Callable[[], Any]
Times = dict[Any, np.ndarray]


def without_cache() -> None:
    """Compile every program of this process, to see what that takes; read none from disk."""
    jax.config.update("jax_enable_compilation_cache", False)


def compiled(fn: Callable, *arguments) -> Call:
    """`fn`, compiled for these arguments and bound to them."""
    return functools.partial(jax.jit(fn).lower(*arguments).compile(), *arguments)


def working_memory(fn: Callable, *arguments) -> int:
    """Bytes of temporary buffers that the compiled program asks for; nothing is run."""
    program = jax.jit(fn).lower(*arguments).compile()
    return program.memory_analysis().temp_size_in_bytes


def seconds(call: Call) -> float:
    """How long one call takes, its results included."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def interleaved(calls: Mapping[Hashable, Call], rounds: int, at_least: float = 0.0) -> Times:
    """Seconds of every call, [rounds] each, after one call to compile; a round runs each in turn.

    A call shorter than `at_least` is repeated within its turn until that has passed, and its mean
    counts.
    """
    repeats = {}
    for name, call in calls.items():
        seconds(call)
        repeats[name] = max(1, round(at_least / seconds(call))) if at_least else 1
    rows: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken = [seconds(call) for _ in range(repeats[name])]
            rows[name].append(float(np.mean(taken)))
    return {name: np.array(row) for name, row in rows.items()}


def best(times: Times) -> dict[Any, float]:
    """The least of the seconds of each call: what the machine can do when nobody interferes."""
    return {name: float(row.min()) for name, row in times.items()}


def best_of(call: Call, rounds: int) -> float:
    """The least of one call's seconds, after one to compile."""
    return best(interleaved({"": call}, rounds))[""]


def ratio(times: Times, name: Hashable, base: Hashable) -> float:
    """A call's time as a multiple of another's: the median over the rounds."""
    return float(np.median(times[name] / times[base]))
