"""Who is timed when: peers take turns, round after round, so that a drift meets them all."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stillness import STILL, Timing


class Pace(NamedTuple):
    """How long is measured, and when that may begin."""

    budget: float
    """Seconds of timing, all rounds together."""
    rounds: int = 3
    """So many are made in any case."""
    at_least: float = 0.5
    """Seconds of one timing, in which a shorter call is repeated: the kernel counts CPU time in
    hundredths of a second, which must be few per cent of it."""
    gate: Path | None = None
    """A file to wait for once everything is prepared, so that a shared machine need be still only
    while something is timed."""

    @property
    def patience(self) -> float:
        """Seconds that a timing waits for a still machine."""
        return self.budget / 100

    def wait(self) -> None:
        """Until the gate is there."""
        while self.gate is not None and not self.gate.exists():
            time.sleep(0.2)


def interleave(calls: dict[Any, Callable[[], Timing]], pace: Pace) -> dict[Any, dict[str, Any]]:
    """Time the calls one after the other, round after round, until the budget is spent.

    Reported is the median wall time of those timings during which the machine was still, or, where
    they are fewer than `pace.rounds`, of so many least disturbed ones; and the median CPU time of
    all, which depends little on what else is running.
    """
    made: list[dict[Any, Timing]] = []
    pace.wait()
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
