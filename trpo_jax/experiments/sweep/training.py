"""The sweep itself: all lanes, slice by slice; the worse half dropped on the way, if asked for."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.envs.base import Environment
from trpo_jax.experiments.checkpoints import from_host
from trpo_jax.experiments.sweep.result import SweepResult
from trpo_jax.experiments.sweep.settings import Setting, grid
from trpo_jax.experiments.sweep.slices import Progress, Slices
from trpo_jax.learner.trpo import make_trpo

_LATE = 0.1
"""Share of the updates whose mean return says how good a lane is while it trains."""


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
    slices = Slices(make_trpo(env, config), stacked, num_updates, max_parallel, report)
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
