"""Lanes in slices that fit in memory: one compiled program for any number of lanes."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from trpo_jax.config import HParams
from trpo_jax.experiments.checkpoints import from_host, to_host
from trpo_jax.experiments.chunks import (
    MAX_CHUNK,
    first_updates,
    init_lanes,
    is_on_host,
    make_advance,
    metrics_spec,
    setting_lanes,
)
from trpo_jax.experiments.evaluation import evaluation_key, evaluation_program
from trpo_jax.learner.monitoring import UpdateMetrics
from trpo_jax.learner.sharding import shard_state, state_shardings
from trpo_jax.learner.trpo import Agent
from trpo_jax.learner.types import TrainState

_MOST_LANES = {"cpu": 8}
"""More at once overflow the caches and cost more per lane (python benchmarks/lanes.py train)."""
_MEMORY_SHARE = {"cpu": 0.5, "gpu": 0.85, "tpu": 0.85}


class Progress(NamedTuple):
    """The progress of a sweep, on the host; stored between slices."""

    states: Any
    """Leaves [L, ...]; random keys as their data."""
    history: UpdateMetrics
    """Leaves [L, updates, ...]."""
    updates_done: np.ndarray
    """int32 [L]."""


class Slices:
    """Lanes in slices of equal width, so that one program serves all of them."""

    def __init__(
        self,
        agent: Agent,
        hparams: HParams,
        num_updates: int,
        max_parallel: int | None,
        report: Callable[[int], None],
        mesh: Mesh | None = None,
    ):
        self._agent, self._hparams, self._num_updates = agent, hparams, num_updates
        self._update = setting_lanes(agent)
        self._advance = make_advance(agent, self._update)
        self._width, self._mesh = max_parallel, mesh
        self._report = report
        self.like = agent.init(jax.random.key(0))

    def begin(self, seeds: Sequence[int]) -> Progress:
        """All lanes before their first update."""
        everyone = np.arange(len(seeds))
        metrics = metrics_spec(self._agent, self._shapes(len(seeds)), self._hparams)
        history = jax.tree.map(
            lambda leaf: np.zeros((leaf.shape[0], self._num_updates, *leaf.shape[1:]), leaf.dtype),
            metrics,
        )
        like = to_host(self.like)
        states = jax.tree.map(lambda leaf: np.zeros((len(seeds), *leaf.shape), leaf.dtype), like)
        for lanes in in_slices(everyone, self.width(everyone)):
            some = init_lanes(self._agent, np.asarray(seeds, np.int32)[lanes])
            jax.tree.map(writer(lanes), states, to_host(some))
        return Progress(states, history, np.zeros(len(seeds), np.int32))

    def width(self, lanes: np.ndarray) -> int:
        """How many of these lanes train in parallel."""
        if self._width is None:
            self._width = self._widest(lanes)
        return self._equal_parts(min(self._width, len(lanes)))

    def advance(self, progress: Progress, lanes: np.ndarray, until: int) -> None:
        """Train some lanes up to an update, and write their part of `progress`."""
        states, hparams = self._states(progress, lanes), _take(self._hparams, lanes)
        done = int(progress.updates_done[lanes].min())
        while done < until:
            count = min(MAX_CHUNK, until - done)
            states, history = self._advance(states, hparams, jnp.int32(count))
            part = first_updates(jax.device_get(history), count)
            jax.tree.map(writer((lanes, slice(done, done + count))), progress.history, part)
            done += count
            progress.updates_done[lanes] = done
            self.report(progress)
        jax.tree.map(writer(lanes), progress.states, to_host(states))

    def report(self, progress: Progress) -> None:
        """Report the number of updates done, over all lanes."""
        self._report(int(progress.updates_done.sum()))

    def evaluate(self, progress: Progress, num_episodes: int) -> tuple[np.ndarray, np.ndarray]:
        """[L] each: mean return and cost of each lane, all from the same initial states.

        Costs are NaN if the environment has none.
        """
        program = evaluation_program(self._agent, num_episodes, lanes=True)
        everyone = np.arange(len(progress.updates_done))
        returns, costs = np.zeros(len(everyone)), np.full(len(everyone), np.nan)
        for lanes in in_slices(everyone, self.width(everyone)):
            stats = program(self._states(progress, lanes), evaluation_key())
            returns[lanes] = np.asarray(stats.returns).mean(axis=1, dtype=np.float64)
            if stats.costs is not None:
                costs[lanes] = np.asarray(stats.costs).mean(axis=1, dtype=np.float64)
        return returns, costs

    def _states(self, progress: Progress, lanes: np.ndarray) -> TrainState:
        states = from_host(_take(progress.states, lanes), self.like)
        return shard_state(states, self._mesh) if self._mesh else states

    def _shapes(self, width: int) -> TrainState:
        """The shapes of the states of `width` lanes."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((width, *leaf.shape), leaf.dtype), self.like
        )

    def _placed(self, shapes: TrainState) -> TrainState:
        """The shapes, with their placement on the devices."""
        if self._mesh is None:
            return shapes
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            state_shardings(shapes, self._mesh),
        )

    def _widest(self, lanes: np.ndarray) -> int:
        """As many lanes as fit in the device's memory, according to the compiler.

        On a CPU, no more than fit in its caches. Simulators on the host bound it likewise.
        """
        lanes = lanes[: _MOST_LANES.get(jax.devices()[0].platform)]
        if is_on_host(self._agent):
            return len(lanes)
        lanes = _filled(lanes, self._equal_parts(len(lanes)))
        states, hparams = self._placed(self._shapes(len(lanes))), _take(self._hparams, lanes)
        needed = _bytes_of(self._advance.lower(states, hparams, jnp.int32(1)).compile())
        available = _available_memory(self._num_devices)
        share = min(1.0, available / needed) if needed else 1.0
        return max(1, int(len(lanes) * share))

    @property
    def _num_devices(self) -> int:
        return self._mesh.size if self._mesh else 1

    def _equal_parts(self, width: int) -> int:
        """The width rounded up to a multiple of the number of devices."""
        return -(-width // self._num_devices) * self._num_devices


def _filled(lanes: np.ndarray, width: int) -> np.ndarray:
    return np.pad(lanes, (0, width - len(lanes)), mode="edge")


def in_slices(lanes: np.ndarray, width: int) -> list[np.ndarray]:
    """Slices of equal width; the last one is padded with its own last lane."""
    slices = [lanes[i : i + width] for i in range(0, len(lanes), width)]
    return [_filled(each, width) for each in slices]


def writer(where: Any) -> Callable[[np.ndarray, np.ndarray], None]:
    """A function (whole, part) that writes a part into some rows of the whole."""

    def write(whole: np.ndarray, part: np.ndarray) -> None:
        whole[where] = part

    return write


def _bytes_of(program: Any) -> int:
    analysis = program.memory_analysis()
    if analysis is None:
        return 0
    return (
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
    )


def _available_memory(num_devices: int) -> float:
    """Bytes that a program may use on each device; devices of a CPU share its memory."""
    device = jax.devices()[0]
    share = _MEMORY_SHARE.get(device.platform, 0.5)
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return share * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return share * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / num_devices


def _take(tree: Any, lanes: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[lanes], tree)
