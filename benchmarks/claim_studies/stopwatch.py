"""Timing side by side.

In each round every program runs once, so that a machine whose speed drifts slows all of them;
ratios are medians of the rounds' ratios.
"""

import time
from collections.abc import Callable

import jax
import numpy as np


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every call in every round, [rounds] each; all are compiled and warm before."""
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in times.items()}
