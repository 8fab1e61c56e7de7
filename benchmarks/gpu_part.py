"""What the parts of `gpu.py` share: sizes, a record with a clock, compilation."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from synthetic import Shape


class Settings(NamedTuple):
    """Sizes; the first of each come first, so that the rest is what a small budget leaves out."""

    num_envs: tuple[int, ...]
    lanes: tuple[int, ...]
    shapes: tuple[Shape, ...]
    memory_shape: Shape
    memory_chunk: int
    matrix: int
    repeats: int
    hidden_sizes: tuple[int, ...]
    classic: tuple[int, int]
    """Environments × steps of a lane of the sweep."""
    ant: tuple[str, int, int]
    """Environment to train, number of environments, steps."""
    ant_updates: int
    steps: int
    replace: dict[str, str]
    """Environments to take instead of others."""


FULL = Settings(
    num_envs=(256, 16384, 1024, 4096),
    lanes=(64, 2048, 256, 1024),
    shapes=(
        Shape(8192, 87, 8, (256, 256)),
        Shape(32768, 17, 6, (256, 256)),
        Shape(131072, 87, 8, (256, 256)),
        Shape(2048, 17, 6, (256, 256)),
    ),
    memory_shape=Shape(131072, 87, 8, (256, 256)),
    memory_chunk=8192,
    matrix=4096,
    repeats=10,
    hidden_sizes=(256, 256),
    classic=(8, 128),
    ant=("brax/ant", 2048, 32),
    ant_updates=1000,
    steps=16,
    replace={},
)
QUICK = Settings(
    num_envs=(2,),
    lanes=(2,),
    shapes=(Shape(64, 3, 2, (8,)),),
    memory_shape=Shape(64, 3, 2, (8,)),
    memory_chunk=16,
    matrix=64,
    repeats=2,
    hidden_sizes=(8,),
    classic=(2, 8),
    ant=("CartPole-v1", 2, 8),
    ant_updates=2,
    steps=8,
    replace={"brax/ant": "CartPole-v1", "brax/hopper": "CartPole-v1"},
)


class Part:
    """The record of one part, on disk after every line, and its clock."""

    def __init__(self, name: str, limit: float, store: Path):
        self.record: dict[str, Any] = {"rows": [], "checks": {}, "skipped": []}
        self._end, self._store = time.monotonic() + limit, store
        self.name = name

    def row(self, **values) -> None:
        """A line of the table."""
        self.record["rows"].append(values)
        self.finish()

    def check(self, name: str, passed: Any) -> None:
        """Something that must hold; it does if it does every time."""
        self.record["checks"][name] = bool(passed) and self.record["checks"].get(name, True)
        self.finish()

    def finish(self) -> None:
        """Write what there is."""
        self._store.write_text(json.dumps(self.record, indent=1) + "\n")

    def left(self) -> float:
        """Seconds of the share that are left."""
        return self._end - time.monotonic()

    def affordable(self, items: Sequence) -> Any:
        """The items one by one, as long as another as long as the longest so far fits."""
        longest = 0.0
        for item in items:
            if self.left() < longest:
                self.record["skipped"].append(f"{self.name} {item}")
                continue
            start = time.monotonic()
            yield item
            longest = max(longest, time.monotonic() - start)


def compile_all(programs: Sequence[tuple[Callable, tuple]]) -> list[Callable]:
    """Compiled programs for these arguments: traced in turn, compiled side by side."""
    lowered = [jax.jit(program).lower(*arguments) for program, arguments in programs]
    with ThreadPoolExecutor(len(lowered)) as pool:
        return list(pool.map(lambda program: program.compile(), lowered))


def peak_memory() -> float | None:
    """MiB that this process has had on the device at most; None where that is not counted."""
    statistics = jax.devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return None if peak is None else peak / 2**20


def within_bound(kl: Any, bound: float) -> bool:
    """Whether every KL is finite and at most the bound, but for rounding."""
    kl = np.asarray(kl)
    return bool(np.isfinite(kl).all() and (kl <= bound * (1 + 1e-5)).all())
