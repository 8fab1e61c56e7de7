"""Who is timed when, and which timings count.

Peers take turns, round after round, so that a drift meets them all. A program whose threads wait
for each other, as PyTorch's do, can take ten times as long beside another busy program: so every
timing comes with the share of the cores that others took meanwhile, asked of the kernel, on Linux.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

STILL = 0.1
"""Timings during which others took more than this share of the cores are kept only in need."""
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Timing(NamedTuple):
    """Seconds, CPU seconds, and the share of all cores that others took meanwhile."""

    seconds: float
    cpu: float
    others: float


class Usage(NamedTuple):
    """CPU seconds up to now: of the whole machine, of some processes; and the clock."""

    machine: float
    own: float
    clock: float

    @classmethod
    def now(cls, *pids: int) -> "Usage":
        """Read it; zeros where the kernel does not tell."""
        try:
            words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        except OSError:
            return cls(0.0, 0.0, time.perf_counter())
        ticks = [int(word) for word in words]
        machine = sum(ticks[:3]) + sum(ticks[5:8])  # less idle and waiting for input
        own = sum(process_seconds(pid) for pid in (*pids, os.getpid()))
        return cls(machine / _TICK, own, time.perf_counter())


def others_share(before: Usage, after: Usage) -> float:
    """Share of the cores that went to other processes in between, in [0, 1]."""
    span = (after.clock - before.clock) * (os.cpu_count() or 1)
    others = (after.machine - before.machine) - (after.own - before.own)
    return min(1.0, max(0.0, others / span)) if span > 0 else 0.0


def process_seconds(pid: int) -> float:
    """CPU seconds of a process up to now, all threads together; 0 if the kernel does not tell."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / _TICK


class Pace(NamedTuple):
    """How long is measured."""

    budget: float
    """Seconds of timing, all rounds together."""
    rounds: int = 3
    """So many are made in any case."""
    at_least: float = 0.5
    """Seconds of one timing, in which a shorter call is repeated: the kernel counts CPU time in
    hundredths of a second, which must be few per cent of it."""


def interleave(calls: dict[Any, Callable[[], Timing]], pace: Pace) -> dict[Any, dict[str, Any]]:
    """Time the calls one after the other, round after round, until the budget is spent.

    Reported is the median wall time of those timings during which the machine was still, or, where
    they are fewer than `pace.rounds`, of so many least disturbed ones; and the median CPU time of
    all, which depends little on what else is running.
    """
    made: list[dict[Any, Timing]] = []
    end = time.perf_counter() + pace.budget
    while len(made) < pace.rounds or time.perf_counter() < end:
        made.append({name: call() for name, call in calls.items()})
    return {name: _summary([timings[name] for timings in made], pace.rounds) for name in calls}


def _summary(values: list[Timing], fewest: int) -> dict[str, Any]:
    ranked = sorted(values, key=lambda timing: timing.others)
    still = [timing for timing in ranked if timing.others <= STILL]
    used = still if len(still) >= fewest else ranked[:fewest]
    return {
        "seconds": statistics.median(timing.seconds for timing in used),
        "cpu_seconds": statistics.median(timing.cpu for timing in values),
        "others": max(timing.others for timing in used),
        "used": len(used),
        "of": len(values),
    }
