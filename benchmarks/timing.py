"""Timing side by side: absolute times drift on a shared machine, so calls take turns."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

Calls = Mapping[str, Callable[[], object]]


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes, its results included."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def interleaved(calls: Calls, rounds: int, at_least: float = 0.0) -> dict[str, np.ndarray]:
    """Seconds of every call, [rounds] each, after one call to compile; a round runs each in turn.

    A call shorter than `at_least` is repeated within its turn until that has passed, and its mean
    counts.
    """
    repeats = {}
    for name, call in calls.items():
        seconds(call)
        repeats[name] = max(1, round(at_least / seconds(call)))
    rows: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken = [seconds(call) for _ in range(repeats[name])]
            rows[name].append(float(np.mean(taken)))
    return {name: np.array(row) for name, row in rows.items()}


def best(times: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The least of the seconds of each call: what the machine can do when nobody interferes."""
    return {name: float(row.min()) for name, row in times.items()}
