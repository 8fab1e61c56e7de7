"""What a sweep came to."""

from typing import NamedTuple

import jax
import numpy as np

from trpo_jax.config import HParams
from trpo_jax.experiments.evaluation import bootstrap_interval
from trpo_jax.experiments.sweep.settings import Setting
from trpo_jax.learner.monitoring import UpdateMetrics
from trpo_jax.learner.types import TrainState


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
