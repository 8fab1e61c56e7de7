"""Many trainings side by side: settings × seeds, vmapped, in slices that fit the memory."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.envs.base import Environment
from trpo_jax.experiments.checkpoints import from_host, to_host
from trpo_jax.experiments.chunks import MAX_CHUNK, first_updates, make_advance, setting_lanes
from trpo_jax.experiments.evaluation import bootstrap_interval, evaluation_key
from trpo_jax.learner.monitoring import UpdateMetrics
from trpo_jax.learner.trpo import Agent, make_trpo
from trpo_jax.learner.types import TrainState

Setting = dict[str, float]
"""Fields of `HParams` that differ from the defaults."""

_LATE = 0.1
"""Share of the updates whose mean return says how good a lane is while it trains."""
_MEMORY_SHARE = {"cpu": 0.5, "gpu": 0.85, "tpu": 0.85}
_LOG_SCALE = ("max_kl", "cg_damping", "cg_tol", "entropy_coef", "value_learning_rate")
"""What random search draws on a logarithmic scale."""


class Row(NamedTuple):
    """What a setting came to, over its seeds."""

    number: int
    setting: Setting
    mean: float
    """Mean evaluation return over seeds."""
    interquartile_mean: float
    low: float
    """Lower end of the 95 % bootstrap interval of the mean."""
    high: float
    updates: int
    """Updates done; fewer than asked for if successive halving dropped it."""


class SweepResult(NamedTuple):
    """All lanes of a sweep. L = settings × seeds; lane i is setting i // seeds, seed i % seeds."""

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    hparams: HParams
    """Fields [L]."""
    states: TrainState
    """Leaves [L, ...]."""
    history: UpdateMetrics
    """Leaves [L, updates, ...]; what was not done is zero."""
    updates_done: np.ndarray
    """int [L]."""
    returns: np.ndarray
    """[L]: mean return of the evaluation at the end, from the same initial states for all."""

    def lane(self, setting: int, seed: int) -> int:
        """Number of the lane of a setting and a seed."""
        if not 0 <= setting < len(self.settings):
            raise ValueError(f"setting={setting} must be in [0, {len(self.settings)})")
        if seed not in self.seeds:
            raise ValueError(f"seed={seed} is not one of {self.seeds}")
        return setting * len(self.seeds) + self.seeds.index(seed)

    def select(self, setting: int, seed: int | None = None) -> TrainState:
        """The state of a setting, of its best seed unless one is named; it trains on like any."""
        if seed is None:
            seed = self.best_seed(setting)
        lane = self.lane(setting, seed)
        return jax.tree.map(lambda leaf: leaf[lane], self.states)

    def best_seed(self, setting: int) -> int:
        """The seed of a setting with the highest return."""
        first = self.lane(setting, self.seeds[0])
        return self.seeds[int(np.argmax(self.returns[first : first + len(self.seeds)]))]

    def table(self) -> list[Row]:
        """One row per setting, the best first; those that were trained for longer come first."""
        return sorted(
            (self._row(index) for index in range(len(self.settings))),
            key=lambda row: (row.updates, row.mean),
            reverse=True,
        )

    def _row(self, index: int) -> Row:
        from scipy.stats import trim_mean

        lanes = slice(index * len(self.seeds), (index + 1) * len(self.seeds))
        returns = self.returns[lanes]
        low, high = bootstrap_interval(returns)
        return Row(
            number=index,
            setting=self.settings[index],
            mean=float(returns.mean()),
            interquartile_mean=float(trim_mean(returns, 0.25)),
            low=low,
            high=high,
            updates=int(self.updates_done[lanes].min()),
        )


class Progress(NamedTuple):
    """Where a sweep stands, on the host: what is stored between slices."""

    states: Any
    """Leaves [L, ...]; random keys as their data."""
    history: UpdateMetrics
    """Leaves [L, updates, ...]."""
    updates_done: np.ndarray
    """int [L]."""


def sweep(
    env: Environment,
    config: TRPOConfig,
    settings: Mapping[str, Sequence[float]] | Sequence[Setting],
    *,
    num_updates: int,
    seeds: Sequence[int] = (0,),
    hparams: HParams = HParams(),  # noqa: B008 - frozen
    halving: Sequence[float] = (),
    max_parallel: int | None = None,
    num_episodes: int = 64,
    report: Callable[[int, int], None] = lambda done, total: None,
    load: Callable[[Progress], tuple[int, Progress] | None] = lambda like: None,
    save: Callable[[int, Progress], None] = lambda number, progress: None,
) -> SweepResult:
    """Train every setting with every seed, and evaluate all.

    `settings` names values per field of `HParams`, whose product is taken, or lists the settings
    themselves; the other fields are those of `hparams`. No more than `max_parallel` lanes run at
    once, by default as many as fit into the device's memory; a lane is the single run with its seed
    and its hyperparameters, whatever runs beside it. `halving` are shares of the training after
    which the worse half of the settings is dropped. `report` hears of lane-updates done and in all,
    `save` of every slice, so that a sweep which was stopped goes on from what `load` gives back.
    """
    chosen = tuple(grid(settings) if isinstance(settings, Mapping) else settings)
    if any(setting.keys() != chosen[0].keys() for setting in chosen):
        raise ValueError("settings must all name the same fields, so that they can be compared")
    _check(chosen, seeds, num_updates, halving, max_parallel)
    lanes = [(setting, seed) for setting in chosen for seed in seeds]
    stacked = HParams.stack([hparams.replace(**setting) for setting, _ in lanes])
    slices = _Slices(make_trpo(env, config), stacked, num_updates, max_parallel, report)
    start = slices.begin([seed for _, seed in lanes])
    finished, progress = load(start) or (0, start)

    number, previous, active = 0, 0, np.arange(len(lanes))
    for boundary in (*(max(1, round(share * num_updates)) for share in halving), num_updates):
        if previous:
            active = _better_half(progress, previous, active, len(seeds))
        previous = boundary
        for chosen_lanes in slices.split(active, progress):
            number += 1
            if number > finished:
                slices.advance(progress, chosen_lanes, boundary)
                save(number, progress)
    returns = slices.evaluate(progress, num_episodes)
    states = from_host(progress.states, slices.like)
    return SweepResult(
        chosen, tuple(seeds), stacked, states, progress.history, progress.updates_done, returns
    )


def grid(axes: Mapping[str, Sequence[float]]) -> list[Setting]:
    """The product of values per field, the last field varying fastest."""
    for name, values in axes.items():
        if np.ndim(values) != 1 or not len(values):
            raise ValueError(f"{name}={values!r} must be a sequence of at least one value")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def random_settings(
    ranges: Mapping[str, tuple[float, float]], num: int, seed: int = 0
) -> list[Setting]:
    """`num` settings drawn between bounds, on a logarithmic scale where that is usual."""
    rng = np.random.default_rng(seed)
    settings: list[Setting] = [{} for _ in range(num)]
    for name, (low, high) in ranges.items():
        if not low < high:
            raise ValueError(f"{name}={low}, {high} must be two bounds, the lower first")
        if name in _LOG_SCALE and low > 0:
            drawn = np.exp(rng.uniform(np.log(low), np.log(high), num))
        else:
            drawn = rng.uniform(low, high, num)
        for setting, value in zip(settings, drawn, strict=True):
            setting[name] = float(value)
    return settings


class _Slices:
    """Lanes in slices of one width, so that one program serves them all."""

    def __init__(
        self,
        agent: Agent,
        hparams: HParams,
        num_updates: int,
        max_parallel: int | None,
        report: Callable[[int, int], None],
    ):
        self._agent, self._hparams, self._num_updates = agent, hparams, num_updates
        self._update = setting_lanes(agent)
        self._advance = make_advance(self._update)
        self._width = max_parallel
        self._report, self._reported = report, 0
        self.like = agent.init(jax.random.key(0))

    def begin(self, seeds: Sequence[int]) -> Progress:
        """All lanes before their first update."""
        states = jax.vmap(lambda seed: self._agent.init(jax.random.key(seed)))(jnp.asarray(seeds))
        metrics = jax.eval_shape(self._update, states, self._hparams)[1]
        history = jax.tree.map(
            lambda leaf: np.zeros((leaf.shape[0], self._num_updates, *leaf.shape[1:]), leaf.dtype),
            metrics,
        )
        writable = jax.tree.map(np.array, to_host(states))
        return Progress(writable, history, np.zeros(len(seeds), np.int64))

    def split(self, lanes: np.ndarray, progress: Progress) -> list[np.ndarray]:
        """Slices of equal width; the last one is filled up with its own last lane."""
        if self._width is None:
            self._width = self._widest(lanes, progress)
        width = min(self._width, len(lanes))
        slices = [lanes[i : i + width] for i in range(0, len(lanes), width)]
        slices[-1] = np.pad(slices[-1], (0, width - len(slices[-1])), mode="edge")
        return slices

    def advance(self, progress: Progress, lanes: np.ndarray, until: int) -> None:
        """Train some lanes up to an update; their part of `progress` is written."""
        states, hparams = self._states(progress, lanes), _take(self._hparams, lanes)
        done, distinct = int(progress.updates_done[lanes].min()), len(np.unique(lanes))
        while done < until:
            count = min(MAX_CHUNK, until - done)
            states, history = self._advance(states, hparams, jnp.int32(count))
            part = first_updates(jax.device_get(history), count)
            jax.tree.map(_writer((lanes, slice(done, done + count))), progress.history, part)
            done += count
            self._reported += count * distinct
            self._report(self._reported, self._num_updates * len(progress.updates_done))
        jax.tree.map(_writer(lanes), progress.states, to_host(states))
        progress.updates_done[lanes] = until

    def evaluate(self, progress: Progress, num_episodes: int) -> np.ndarray:
        """[L]: mean return of every lane, all from the same initial states."""

        def play(state: TrainState) -> jax.Array:
            stats = self._agent.evaluate(state, evaluation_key(), num_episodes=num_episodes)
            return stats.returns.mean()

        program = jax.jit(jax.vmap(play))
        returns = np.zeros(len(progress.updates_done))
        for lanes in self.split(np.arange(len(returns)), progress):
            returns[lanes] = np.asarray(program(self._states(progress, lanes)))
        return returns

    def _states(self, progress: Progress, lanes: np.ndarray) -> TrainState:
        return from_host(_take(progress.states, lanes), self.like)

    def _widest(self, lanes: np.ndarray, progress: Progress) -> int:
        """As many lanes as the device has memory for, by the compiler's own account."""
        states, hparams = self._states(progress, lanes), _take(self._hparams, lanes)
        needed = _bytes_of(self._advance.lower(states, hparams, jnp.int32(1)).compile())
        available = _available_memory()
        share = min(1.0, available / needed) if needed else 1.0
        return max(1, int(len(lanes) * share))


def _writer(where: Any) -> Callable[[np.ndarray, np.ndarray], None]:
    def write(whole: np.ndarray, part: np.ndarray) -> None:
        whole[where] = part

    return write


def _better_half(progress: Progress, done: int, lanes: np.ndarray, num_seeds: int) -> np.ndarray:
    """The lanes of the better half of the settings, by mean return up to an update."""
    late = slice(max(0, done - max(1, round(_LATE * done))), done)
    returns = np.nan_to_num(np.asarray(progress.history.episode_return)[lanes, late], nan=-np.inf)
    by_setting = returns.mean(axis=1).reshape(-1, num_seeds).mean(axis=1)
    kept = np.sort(np.argsort(-by_setting, kind="stable")[: -(-len(by_setting) // 2)])
    return lanes.reshape(-1, num_seeds)[kept].ravel()


def _check(settings, seeds, num_updates, halving, max_parallel) -> None:
    if not settings or not len(seeds):
        raise ValueError(
            f"settings={list(settings)!r} and seeds={list(seeds)!r}: the grid is empty; name at "
            "least one setting and one seed"
        )
    static, known = vars(TRPOConfig()), vars(HParams())
    for name in {name for setting in settings for name in setting}:
        if name in static:
            raise ValueError(
                f"{name} is a static setting (TRPOConfig): it fixes shapes, so that each value is "
                f"a program of its own; sweep over {', '.join(known)}, and loop over {name}"
            )
        if name not in known:
            raise ValueError(f"{name} is not a field of HParams; those are {', '.join(known)}")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds={list(seeds)!r} must differ from each other")
    if num_updates < 1:
        raise ValueError(f"num_updates={num_updates} must be a whole number >= 1")
    if max_parallel is not None and max_parallel < 1:
        raise ValueError(f"max_parallel={max_parallel} must be a whole number >= 1")
    if list(halving) != sorted(set(halving)) or not all(0 < share < 1 for share in halving):
        raise ValueError(f"halving={list(halving)!r} must be rising shares between 0 and 1")


def _bytes_of(program: Any) -> int:
    analysis = program.memory_analysis()
    if analysis is None:
        return 0
    return (
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
    )


def _available_memory() -> float:
    """Bytes that a program may use on the device."""
    device = jax.devices()[0]
    share = _MEMORY_SHARE.get(device.platform, 0.5)
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return share * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return share * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _take(tree: Any, lanes: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[lanes], tree)
