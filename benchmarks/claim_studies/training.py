"""The training runs that all claims about returns and steps share, kept as compact JSON.

For every environment and method: tuning (every value of the one tuned number, two seeds, half the
updates), then ten other seeds with the value whose mean return over the second half was best.
Beside them, for every environment, what its untrained policies earn.
"""

import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import trpo_jax
from claim_studies.settings import METHODS, NUM_SEEDS, TASKS, TUNING_SEEDS, Method, Task, get_task
from trpo_jax import HParams, TrainState, UpdateMetrics

_TUNING_STREAM, REPORT_STREAM, _EVALUATION_STREAM = 1, 2, 3
_UNTRAINED_EPISODES = 32
"""Of each of the policies that the reported runs begin with."""


class NotTrainedError(Exception):
    """A study asks for runs that are not on the disk."""


def _once(path: Path, make) -> dict:
    """What the disk has, or what is made and left there."""
    if not path.exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made, separators=(",", ":")) + "\n")
    return json.loads(path.read_text())


def run(directory: Path, env_id: str, method_id: str, quick: bool = False) -> dict:
    """Tune and train one method on one environment, or take it from the disk."""

    def make() -> dict:
        started, method = time.perf_counter(), METHODS[method_id]
        program = Program(get_shared(env_id, quick), method)
        tuning = _tune(program)
        chosen = method.values[int(np.argmax([setting["score"] for setting in tuning]))]
        runs = program.reported(chosen)
        return {
            "env": env_id,
            "method": method_id,
            "batch_size": program.shared.task.config.batch_size,
            "tuned": method.tuned,
            "chosen": chosen,
            "tuning": tuning,
            "runs": runs,
            "seconds": round(time.perf_counter() - started),
        }

    return _once(directory / f"{env_id}_{method_id}.json", make)


def with_iterations(directory: Path, env_id: str, iterations: int, max_kl: float, quick: bool):
    """The reported runs of TRPO with so many CG iterations, or what the disk has of them."""
    method = METHODS["trpo"]._replace(changes={"cg_iterations": iterations})
    return _once(
        directory / f"{env_id}_cg{iterations}.json",
        lambda: Program(get_shared(env_id, quick), method).reported(max_kl),
    )


def untrained(directory: Path, env_id: str, quick: bool = False) -> float:
    """Mean return of the policies that the reported runs begin with, or what the disk has of it.

    Measured apart from training: the episodes that end first there are not like the others.
    """
    path = _untrained_path(directory, env_id)
    return _once(path, lambda: get_shared(env_id, quick).untrained())["return"]


def load(directory: Path, env_ids=tuple(TASKS), method_ids=tuple(METHODS)) -> dict:
    """{env: {method: record}} of what has been run; without environments that lack a method.

    Each record has `untrained` beside what `run` wrote. Raises `NotTrainedError` if there is none.
    """
    records: dict[str, dict[str, dict]] = {}
    for env_id in env_ids:
        paths = {name: directory / f"{env_id}_{name}.json" for name in method_ids}
        if all(path.exists() for path in (_untrained_path(directory, env_id), *paths.values())):
            start = {"untrained": untrained(directory, env_id)}
            records[env_id] = {
                name: json.loads(path.read_text()) | start for name, path in paths.items()
            }
    if not records:
        raise NotTrainedError(
            f"no runs of {', '.join(method_ids)} on any of {', '.join(env_ids)} in {directory}; "
            "run `claims.py train` with the same --out and --quick first"
        )
    return records


def _untrained_path(directory: Path, env_id: str) -> Path:
    return directory / f"{env_id}_untrained.json"


def curve(runs: dict) -> np.ndarray:
    """[seeds, updates]: the return after every update, measured apart from training if it was.

    Where no episode of the training ended, the last known return stands; NaN before the first.
    """
    known = np.array(runs.get("measured", runs["training"]), dtype=float)
    updates = np.where(np.isnan(known), 0, np.arange(known.shape[1]))
    return np.take_along_axis(known, np.maximum.accumulate(updates, axis=1), axis=1)


class Shared:
    """What all methods on one environment have in common, compiled once for all of them."""

    def __init__(self, task: Task):
        agent = trpo_jax.make_trpo(task.make_env(), task.config)
        key = jax.random.fold_in(jax.random.key(0), _EVALUATION_STREAM)
        keys = jax.random.split(key, NUM_SEEDS)

        def play(state: TrainState, key: jax.Array, num_episodes: int) -> jax.Array:
            stats = agent.evaluate(state, key, num_episodes, deterministic=False)
            return jnp.mean(stats.returns)

        self.task = task
        self.begin = jax.jit(jax.vmap(agent.init))
        self.collect = jax.jit(jax.vmap(agent.rollout))
        self.measure = jax.jit(jax.vmap(lambda state: play(state, key, task.num_episodes)))
        at_start = jax.jit(jax.vmap(lambda s, k: play(s, k, _UNTRAINED_EPISODES)))
        self._returns_at_start = lambda states: at_start(states, keys)

    def states(self, stream: int, number: int) -> TrainState:
        """As runs of one of the streams begin."""
        return self.begin(jax.random.split(jax.random.fold_in(jax.random.key(0), stream), number))

    def untrained(self) -> dict[str, float]:
        """Mean return of the policies that the reported runs begin with, acting stochastically."""
        returns = self._returns_at_start(self.states(REPORT_STREAM, NUM_SEEDS))
        num_episodes = NUM_SEEDS * _UNTRAINED_EPISODES
        return {"return": float(f"{jnp.mean(returns):.4g}"), "episodes": num_episodes}


@functools.lru_cache(maxsize=1)
def get_shared(env_id: str, quick: bool) -> Shared:
    return Shared(get_task(env_id, quick))


class Program:
    """One method on one environment: many lanes side by side, each with its own setting."""

    def __init__(self, shared: Shared, method: Method):
        self.shared, self.method = shared, method
        step = method.make_step(shared.task)
        self._set_up = jax.jit(jax.vmap(functools.partial(method.set_up, step)))
        self._learn = jax.jit(jax.vmap(method.make_agent(shared.task, step).learn))

    def histories(self, values: Sequence[float], stream: int, num_updates: int) -> dict[str, list]:
        """Train one lane for each value; {name: [lanes, updates]} of what is kept."""
        states, hparams = self.shared.states(stream, len(values)), self.shared.task.hparams()
        lanes = states, HParams.stack([hparams] * len(values)), jnp.array(values, jnp.float32)
        state, hparams = self._set_up(*lanes)
        records = []
        for _ in range(num_updates):
            state, metrics = self._learn(*self.shared.collect(state), hparams)
            records.append(jax.device_get(self._record(state, metrics)))
        return {
            name: _compact(np.stack([record[name] for record in records], axis=1))
            for name in records[0]
        }

    def reported(self, value: float) -> dict[str, list]:
        """Histories of the runs that are reported, with this setting."""
        return self.histories([value] * NUM_SEEDS, REPORT_STREAM, self.shared.task.num_updates)

    def _record(self, state: TrainState, metrics: UpdateMetrics) -> dict[str, jax.Array]:
        # `episode_return` repeats the last mean where no episode ended: not a measurement.
        training = jnp.where(metrics.num_episodes > 0, metrics.episode_return, jnp.nan)
        record = {"training": training, "kl": metrics.kl}
        if self.shared.task.num_episodes:
            record["measured"] = self.shared.measure(state)
        if self.method.tuned == "max_kl":
            norms = metrics.cg_residual_norms
            record |= {"first_kl": metrics.candidate_kls[:, 0], "accepted": metrics.accepted}
            record |= {"backtracks": metrics.num_backtracks, "residual": norms[:, -1] / norms[:, 0]}
        return record


def _tune(program: Program) -> list[dict]:
    """Every value with its score, the mean training return over the second half, and its runs."""
    method = program.method
    values = [value for value in method.values for _ in range(TUNING_SEEDS)]
    runs = program.histories(values, _TUNING_STREAM, program.shared.task.num_updates // 2)
    settings = []
    for index, value in enumerate(method.values):
        lanes = slice(index * TUNING_SEEDS, (index + 1) * TUNING_SEEDS)
        own = {name: rows[lanes] for name, rows in runs.items()}
        returns = np.array(own["training"], dtype=float)
        late = returns[:, returns.shape[1] // 2 :]
        score = float(np.nanmean(late)) if np.isfinite(late).any() else -np.inf
        settings.append({"value": value, "score": score, "runs": own})
    return settings


def _compact(leaf: np.ndarray) -> list[list[Any]]:
    """Four significant digits; null for what is not finite."""
    if leaf.dtype.kind in "bi":
        return leaf.astype(int).tolist()
    return [[float(f"{x:.4g}") if np.isfinite(x) else None for x in row] for row in leaf]
