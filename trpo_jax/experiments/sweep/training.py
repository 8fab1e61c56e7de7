"""The sweep itself: program by program, slice by slice, with successive halving."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from trpo_jax.common.checks import require_whole_number
from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.envs.base import Environment
from trpo_jax.experiments import specification
from trpo_jax.experiments.checkpoints import with_keys
from trpo_jax.experiments.sweep.result import Part, SweepResult
from trpo_jax.experiments.sweep.settings import Setting, grid, require_traced, static_settings
from trpo_jax.experiments.sweep.slices import Progress, Slices, in_slices
from trpo_jax.learner.sharding import require_equal_parts
from trpo_jax.learner.trpo import make_trpo

_LATE = 0.1
"""Fraction of the updates whose mean return ranks a lane while it trains."""
_NOTHING: Mapping[str, Sequence[Any]] = {}


def sweep(
    env: Environment,
    config: TRPOConfig,
    settings: Mapping[str, Sequence[float]] | Sequence[Setting],
    *,
    num_updates: int | None = None,
    total_steps: int | None = None,
    static: Mapping[str, Sequence[Any]] = _NOTHING,
    seeds: Sequence[int] = (0,),
    hparams: HParams = HParams(),  # noqa: B008 - frozen
    halving: Sequence[float] = (),
    max_parallel: int | None = None,
    num_episodes: int = 64,
    mesh: Mesh | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
    load: Callable[[int, Progress], tuple[int, Progress] | None] = lambda part, like: None,
    save: Callable[[int, int, Progress], None] = lambda part, number, progress: None,
    **own: Any,
) -> SweepResult:
    """Train every setting with every one of `seeds` in `env`, and evaluate all of them.

    `settings` maps fields of `HParams` to values, whose product is taken, or lists the settings
    themselves; other fields come from `hparams`. `static` maps fields of `TRPOConfig` to values;
    each combination is a part with its own program, in which all settings are trained. A training
    has `num_updates` updates, or as many as `total_steps` take.

    At most `max_parallel` lanes run at once; by default as many as fit in the device's memory, or
    eight on a CPU. A lane gives the same result as a single run with its seed and hyperparameters:
    bit for bit if the same slices run again, else up to rounding, which a long training amplifies
    (benchmarks/results/sweep.md).
    `halving` lists fractions of the training after which the worse half of a part's settings is
    dropped. A `mesh` spreads the lanes over its devices, and pads slices that do not divide.
    `own` are your own networks and steps, as `make_trpo` takes them.
    `report` is called with the lane-updates done and their total, `save` after every slice of every
    part; an interrupted sweep continues from what `load` returns. The evaluation at the end plays
    `num_episodes` episodes of each lane. Raises `ValueError`, before anything is trained, for
    settings that cannot work or be compared.
    """
    chosen = tuple(grid(settings) if isinstance(settings, Mapping) else settings)
    require_traced(chosen)
    fixed = static_settings(config, static)
    require_possible(seeds, num_updates, total_steps, halving, max_parallel, mesh, num_episodes)
    lanes = [(setting, seed) for setting in chosen for seed in seeds]
    stacked = HParams.stack([hparams.replace(**setting) for setting, _ in lanes])
    plan = _Plan(stacked, [seed for _, seed in lanes], len(seeds), halving)

    configs = [config.replace(**each) for each in fixed]
    agents = [
        make_trpo(env, each, **own) for each in configs
    ]  # checks all of them before the first one trains
    lengths = [num_updates or specification.num_updates(each, total_steps or 0) for each in configs]
    costs = [plan.lane_updates(length) for length in lengths]
    parts, updates_done, evaluated = [], [], []
    for number, (agent, length) in enumerate(zip(agents, lengths, strict=True)):
        heard = partial(_report_part, report, sum(costs[:number]), sum(costs))
        slices = Slices(agent, stacked, length, max_parallel, heard, mesh)
        progress = _train(plan, slices, length, partial(load, number), partial(save, number))
        evaluated.append(slices.evaluate(progress, num_episodes))
        updates_done.append(progress.updates_done)
        states = with_keys(progress.states, slices.like)
        parts.append(Part(configs[number], stacked, states, progress.history))
    return SweepResult(
        settings=tuple({**static, **setting} for static in fixed for setting in chosen),
        seeds=tuple(seeds),
        updates_done=np.concatenate(updates_done),
        returns=np.concatenate([returns for returns, _ in evaluated]),
        parts=tuple(parts),
        costs=np.concatenate([costs for _, costs in evaluated]),
    )


class _Plan(NamedTuple):
    """What all parts of a sweep share. L = settings × seeds."""

    hparams: HParams
    """Fields [L]."""
    seeds: list[int]
    """[L]."""
    num_seeds: int
    halving: Sequence[float]

    def boundaries(self, num_updates: int) -> list[int]:
        """The updates after which settings are dropped, and the last update."""
        early = {max(1, round(share * num_updates)) for share in self.halving}
        return [*sorted(number for number in early if number < num_updates), num_updates]

    def lane_updates(self, num_updates: int) -> int:
        """Total number of updates over all lanes."""
        total, done, settings = 0, 0, len(self.seeds) // self.num_seeds
        for boundary in self.boundaries(num_updates):
            total += settings * self.num_seeds * (boundary - done)
            done, settings = boundary, -(-settings // 2)
        return total


def _train(plan: _Plan, slices: Slices, num_updates: int, load: Any, save: Any) -> Progress:
    """Train all lanes of a part, starting from what `load` returns."""
    start = slices.begin(plan.seeds)
    number, progress = load(start) or (0, start)
    slices.report(progress)
    previous, active = 0, np.arange(len(plan.seeds))
    for boundary in plan.boundaries(num_updates):
        if previous:
            active = _better_half(progress, previous, active, plan.num_seeds)
        previous = boundary
        left = active[progress.updates_done[active] < boundary]
        for lanes in in_slices(left, slices.width(active)):
            slices.advance(progress, lanes, boundary)
            number += 1
            save(number, progress)
    return progress


def _report_part(report: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    report(before + done, total)


def _better_half(progress: Progress, done: int, lanes: np.ndarray, num_seeds: int) -> np.ndarray:
    """The lanes of the better half of the settings, by mean return up to an update.

    The mean is over the seeds that have ended an episode by then. A setting without any is kept:
    nothing is known about it, and in many environments the longest episodes are the best.
    """
    late = slice(max(0, done - max(1, round(_LATE * done))), done)
    returns = np.asarray(progress.history.episode_return)[lanes, late]
    returns = returns.reshape(-1, num_seeds * returns.shape[1])
    returns = np.where(np.isfinite(returns), returns, np.nan)
    known = np.isfinite(returns).any(axis=1)
    by_setting = np.full(len(returns), np.inf)
    by_setting[known] = np.nanmean(returns[known], axis=1)
    number = max(-(-len(returns) // 2), int(np.sum(~known)))
    kept = np.sort(np.argsort(-by_setting, kind="stable")[:number])
    return lanes.reshape(-1, num_seeds)[kept].ravel()


def require_possible(
    seeds: Sequence[int],
    num_updates: int | None,
    total_steps: int | None,
    halving: Sequence[float],
    max_parallel: int | None,
    mesh: Mesh | None,
    num_episodes: int,
) -> None:
    """Raise `ValueError` if a sweep cannot work, whatever its settings."""
    if not len(seeds):
        raise ValueError("seeds=(): the grid is empty; name at least one seed")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds={list(seeds)!r} must differ from each other")
    specification.require_seeds(seeds)
    if (num_updates is None) == (total_steps is None):
        raise ValueError(
            f"num_updates={num_updates} and total_steps={total_steps}: give one of the two"
        )
    counts = {
        "num_updates": num_updates,
        "total_steps": total_steps,
        "max_parallel": max_parallel,
        "num_episodes": num_episodes,
    }
    for name, value in counts.items():
        if value is not None:
            require_whole_number(name, value)
    if list(halving) != sorted(set(halving)) or not all(0 < share < 1 for share in halving):
        raise ValueError(f"halving={list(halving)!r} must be rising shares between 0 and 1")
    if mesh and max_parallel:
        require_equal_parts("max_parallel", max_parallel, mesh)
