"""Evaluation of policies, during training and after it."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from trpo_jax.common import compilation
from trpo_jax.config import HParams
from trpo_jax.experiments import run_directory as layout
from trpo_jax.experiments.background import Background
from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.experiments.chunks import is_on_host
from trpo_jax.experiments.devices import Devices
from trpo_jax.experiments.files import read_lines
from trpo_jax.experiments.loggers import JsonLines
from trpo_jax.experiments.run_directory import Run
from trpo_jax.experiments.statistics import bootstrap_interval
from trpo_jax.learner.evaluation import DEFAULT_MAX_STEPS, EpisodeStats
from trpo_jax.learner.trpo import Agent

_EVALUATION_SEED = 0x65766131
"""Shared by all evaluations of all runs, so that policies are compared on the same episodes. It is
folded into a key of its own, which no training seed (below 2³¹) can produce."""
EPISODES_DURING_TRAINING = 32
_MAX_EVALUATIONS = 10
_EVALUATION_SHARE = 0.1
"""Sequential environment steps that evaluations may add by default, relative to the training.
Learning costs more per step, so their share of the time is smaller."""


class Summary(NamedTuple):
    """Returns of evaluation episodes. With several runs, each run is one sample."""

    mean: float
    """Mean return."""
    low: float
    """Lower end of the 95 % bootstrap interval of the mean."""
    high: float
    """Upper end of that interval."""
    interquartile_mean: float
    """Mean of the middle half of the samples."""
    minimum: float
    """Worst sample: an episode, or with several runs the mean of a run."""
    maximum: float
    """Best sample."""
    mean_length: float
    """Mean episode length in steps."""
    num_episodes: int
    """Total number of episodes."""
    mean_per_run: list[float]
    """Mean return of each policy that played."""
    metrics: dict[str, float] = {}  # noqa: RUF012
    """What the environment measured, by name: mean over the steps of an episode, and of this over
    all episodes."""
    metrics_last: dict[str, float] = {}  # noqa: RUF012
    """The same at the last step of an episode, averaged over all episodes."""
    mean_cost: float | None = None
    """Mean undiscounted cost per episode; None if the environment has no costs."""
    low_cost: float | None = None
    """Lower end of the 95 % bootstrap interval of that mean."""
    high_cost: float | None = None
    """Upper end of that interval."""
    mean_costs: dict[str, float] = {}  # noqa: RUF012
    """The mean of each cost by name."""

    def __str__(self) -> str:
        unit = f"{self.num_episodes} episodes"
        if len(self.mean_per_run) > 1:
            unit += f" of {len(self.mean_per_run)} runs"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}] (mean, 95 % interval, {unit})"


def summarize(stats: EpisodeStats) -> Summary:
    """Summarise episodes; the leaves of `stats` are [runs, episodes].

    The samples are the episodes if there is one run, and the means if there are several: episodes
    of one policy say nothing about the spread between trainings.
    """
    from scipy.stats import trim_mean

    returns = np.asarray(stats.returns, dtype=np.float64)
    samples = returns.mean(axis=1) if returns.shape[0] > 1 else returns[0]
    low, high = bootstrap_interval(samples)
    return Summary(
        mean=float(returns.mean()),
        low=low,
        high=high,
        interquartile_mean=float(trim_mean(samples, 0.25)),
        minimum=float(samples.min()),
        maximum=float(samples.max()),
        mean_length=float(np.mean(stats.lengths)),
        num_episodes=returns.size,
        mean_per_run=returns.mean(axis=1).tolist(),
        **_metric_means(stats),
        **_costs(stats),
    )


def _costs(stats: EpisodeStats) -> dict[str, Any]:
    """The fields about costs."""
    if stats.costs is None:
        return {}
    costs = np.asarray(stats.costs, dtype=np.float64)
    low, high = bootstrap_interval(costs.mean(axis=1) if costs.shape[0] > 1 else costs[0])
    by_name = {name: float(np.mean(x)) for name, x in stats.costs_by_name.items()}
    return dict(mean_cost=float(costs.mean()), low_cost=low, high_cost=high, mean_costs=by_name)


def _metric_means(stats: EpisodeStats) -> dict[str, Any]:
    """The fields `metrics` and `metrics_last`, averaged over all episodes."""
    return {
        field: {
            name: float(np.mean(values, dtype=np.float64))
            for name, values in getattr(stats, field).items()
        }
        for field in ("metrics", "metrics_last")
    }


def evaluation_key() -> jax.Array:
    """The random key of every evaluation."""
    return jax.random.fold_in(jax.random.key(0), _EVALUATION_SEED)


class Evaluations:
    """Evaluations during training: their log, and the best state so far."""

    def __init__(
        self, run: Run, agent: Agent, done: int, devices: Devices, keeps_best: bool = True
    ):
        """`keeps_best` is false if a guard decides what `best/` holds."""
        self._run, self._devices = run, devices
        self._play = evaluation_program(
            agent,
            EPISODES_DURING_TRAINING,
            lanes=run.spec.num_seeds > 1,
            sharding=devices.everywhere,
        )
        self._limit = cost_limit(agent, run.spec.hparams)
        best = _NOTHING
        if devices.is_first:
            self._log = JsonLines(run.path / layout.EVALUATIONS, done)
            self._best = Checkpoints(run.path / layout.BEST, keep=1) if keeps_best else None
            if self._best is not None:
                self._best.drop_after(done)
            earlier = read_lines(run.path / layout.EVALUATIONS)
            ranks = [_rank(line, self._limit) for line in earlier if line["mean"] is not None]
            best = max(ranks, default=best)
        self._best_rank = devices.agree(best[0])[0], devices.agree(best[1])[0]

    def compile(self, background: Background, state: Any) -> None:
        """Compile ahead, so that the first evaluation does not interrupt training."""
        self._play = background.compiled(self._play, state, evaluation_key())

    def evaluate(self, state: Any, update: int, more: Any = dict) -> None:
        """Play episodes, log them, and keep the state if it is the best so far.

        more(returns [seeds, episodes]) adds fields to the line in the log.
        """
        stats = jax.device_get(self._play(state, evaluation_key()))
        means = stats.returns.mean(axis=1, dtype=np.float64)
        mean = float(means.mean())
        record = {
            "update": update,
            "steps": update * self._run.spec.config.batch_size,
            "mean": mean,
            "returns": dict(zip(map(str, self._run.spec.seeds), means.tolist(), strict=True)),
            "mean_length": float(stats.lengths.mean()),
            "num_episodes": EPISODES_DURING_TRAINING,
            **_metric_means(stats),
            **more(stats.returns),
        }
        if stats.costs is not None:
            record["mean_cost"] = float(np.mean(stats.costs, dtype=np.float64))
        rank = _rank(record, self._limit)
        is_best = rank > self._best_rank and not math.isnan(mean)
        if is_best:
            self._best_rank = rank
            state = self._devices.collect(state)
        if self._devices.is_first:
            self._log.write([record])
            if is_best and self._best is not None:
                self._best.save(update, state, {"mean": mean})

    def sync(self) -> None:
        """Wait until the disk has the log and the best state."""
        self._log.sync()
        if self._best is not None:
            self._best.wait()

    def close(self) -> None:
        """Close the files."""
        if self._devices.is_first:
            self._log.close()
            if self._best is not None:
                self._best.close()


_NOTHING = (-math.inf, -math.inf)


def _rank(record: dict[str, Any], limit: float | None) -> tuple[float, float]:
    """What decides which evaluation is the best, compared in order.

    The return; with a limit of the costs, first how little the mean cost exceeds it. A cost that is
    unknown or NaN exceeds it without bound.
    """
    if limit is None:
        return 0.0, record["mean"]
    cost = record.get("mean_cost")
    if cost is None or math.isnan(cost):
        return -math.inf, record["mean"]
    return -max(cost - limit, 0.0), record["mean"]


def cost_limit(agent: Agent, hparams: HParams) -> float | None:
    """The limit that the agent's policy step keeps; None if it keeps none."""
    return float(hparams.cost_limit) if agent.parts.policy_step.uses_costs else None


def evaluation_interval(run: Run, agent: Agent, total: int) -> int:
    """Updates between evaluations; 0 for none."""
    spec = run.spec
    if run.options.eval_every is not None:
        return run.options.eval_every
    affordable = _EVALUATION_SHARE * total * spec.config.num_steps
    number = int(affordable / (agent.parts.env.max_episode_steps or DEFAULT_MAX_STEPS))
    return -(-total // max(2, min(number, _MAX_EVALUATIONS)))


def evaluate_state(
    run: Run,
    agent: Agent,
    state: Any,
    *,
    num_episodes: int = 128,
    deterministic: bool = True,
) -> Summary:
    """Play episodes with the seed that all evaluations share, and summarise them."""
    play = evaluation_program(
        agent, num_episodes, lanes=run.spec.num_seeds > 1, deterministic=deterministic
    )
    return summarize(jax.device_get(play(state, evaluation_key())))


def evaluation_program(
    agent: Agent,
    num_episodes: int,
    *,
    lanes: bool,
    deterministic: bool = True,
    sharding: NamedSharding | None = None,
) -> Any:
    """(state, key) -> EpisodeStats [lanes, episodes], compiled on first use if it can be.

    With `lanes` the state has a leading axis, and all lanes play from the same initial states.
    `sharding` is that of the result, if the state is on several devices.
    """

    def play(state: Any, key: jax.Array) -> EpisodeStats:
        return agent.evaluate(state, key, num_episodes=num_episodes, deterministic=deterministic)

    def play_alone(state: Any, key: jax.Array) -> EpisodeStats:
        return jax.tree.map(lambda leaf: leaf[None], play(state, key))

    if is_on_host(agent):
        return play if lanes else play_alone
    program = jax.vmap(play, in_axes=(0, None)) if lanes else play_alone
    return jax.jit(program, out_shardings=sharding, compiler_options=compilation.options())
