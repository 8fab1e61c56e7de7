"""The result of a sweep."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.experiments.statistics import bootstrap_interval
from trpo_jax.experiments.sweep.settings import Setting
from trpo_jax.learner.monitoring import UpdateMetrics
from trpo_jax.learner.types import TrainState


class Row(NamedTuple):
    """The result of one setting over its seeds."""

    number: int
    setting: Setting
    mean: float
    """Mean evaluation return over seeds."""
    interquartile_mean: float
    low: float
    """Lower end of the 95 % bootstrap interval of the mean."""
    high: float
    updates: int
    """Updates done; fewer than requested if successive halving dropped the setting."""
    steps: int
    """Environment steps of each training."""
    share: float
    """Fraction of the requested training that was done: 1 unless halving dropped the setting."""
    cost: float = float("nan")
    """Mean evaluation cost over seeds; NaN without costs."""


class Part(NamedTuple):
    """The L = settings × seeds lanes of one program."""

    config: TRPOConfig
    hparams: HParams
    """Fields [L]."""
    states: TrainState
    """Leaves [L, ...], on the host: all lanes together need not fit on the device."""
    history: UpdateMetrics
    """Leaves [L, updates, ...]; zero for updates that were not done."""


class SweepResult(NamedTuple):
    """All lanes of a sweep: lane i is setting i // num_seeds with seed i % num_seeds.

    Without static settings there is one part, to which `config`, `hparams`, `states` and `history`
    refer. With static settings there is one part per combination, and `settings` lists them part by
    part.
    """

    settings: tuple[Setting, ...]
    """Each a dictionary from field to value; the number of a setting is its place here."""
    seeds: tuple[int, ...]
    """Seeds of every setting."""
    updates_done: np.ndarray
    """int [settings × seeds]."""
    returns: np.ndarray
    """[settings × seeds]: mean return of the final evaluation, with the same initial states for
    all."""
    parts: tuple[Part, ...]
    """One per combination of static settings, each with its configuration, states and history."""
    costs: np.ndarray | None = None
    """[settings × seeds]: mean cost per episode in that evaluation; NaN without costs."""

    @property
    def config(self) -> TRPOConfig:
        """The static settings."""
        return self._only_part("config").config

    @property
    def hparams(self) -> HParams:
        """The hyperparameters of every lane."""
        return self._only_part("hparams").hparams

    @property
    def states(self) -> TrainState:
        """The final state of every lane."""
        return self._only_part("states").states

    @property
    def history(self) -> UpdateMetrics:
        """The metrics of every lane and update."""
        return self._only_part("history").history

    def _only_part(self, name: str) -> Part:
        if len(self.parts) > 1:
            raise ValueError(
                f"{name} differs in shape between the {len(self.parts)} programs of this sweep; "
                f"use parts[i].{name}, or select, part_of and history_of with a setting's number"
            )
        return self.parts[0]

    def lane(self, setting: int, seed: int) -> int:
        """The number of the lane with a given setting and seed."""
        if not 0 <= setting < len(self.settings):
            raise ValueError(f"setting={setting} must be in [0, {len(self.settings)})")
        if seed not in self.seeds:
            raise ValueError(f"seed={seed} is not one of {self.seeds}")
        return setting * len(self.seeds) + self.seeds.index(seed)

    def part_of(self, setting: int) -> Part:
        """The part that a setting belongs to."""
        return self.parts[self._place(setting, self.seeds[0])[0]]

    def history_of(self, setting: int) -> UpdateMetrics:
        """The metrics of a setting: leaves [seeds, updates done, ...]."""
        part, first = self._place(setting, self.seeds[0])
        lanes = slice(first, first + len(self.seeds))
        updates = int(self.updates_done[self._lanes(setting)].min())
        return jax.tree.map(lambda leaf: leaf[lanes, :updates], self.parts[part].history)

    def select(self, setting: int, seed: int | None = None) -> TrainState:
        """The state of a setting and a seed (by default its best); it can be trained further."""
        if seed is None:
            seed = self.best_seed(setting)
        part, lane = self._place(setting, seed)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[lane]), self.parts[part].states)

    def best_seed(self, setting: int) -> int:
        """The seed of a setting with the highest return; non-finite returns come last."""
        return self.seeds[int(np.argmax(_ranked(self.returns[self._lanes(setting)])))]

    def table(self) -> list[Row]:
        """One row per setting, the best first. Settings that were trained for longer come first;
        among equals, those without a finite return come last."""
        return sorted(
            (self._row(index) for index in range(len(self.settings))),
            key=lambda row: (row.share, float(_ranked(row.mean))),
            reverse=True,
        )

    def share(self, setting: int) -> float:
        """Fraction of the requested training that was done; below 1 if halving dropped it."""
        updates = int(self.updates_done[self._lanes(setting)].min())
        return updates / self.part_of(setting).history.kl.shape[1]

    def varied(self) -> dict[str, list[Any]]:
        """The fields that have several values, with these values in order."""
        values: dict[str, list[Any]] = {}
        for name in self.settings[0]:
            distinct = list(dict.fromkeys(setting[name] for setting in self.settings))
            if len(distinct) > 1:
                numbers = all(isinstance(value, int | float) for value in distinct)
                values[name] = sorted(distinct) if numbers else distinct
        return values

    def _lanes(self, setting: int) -> slice:
        first = self.lane(setting, self.seeds[0])
        return slice(first, first + len(self.seeds))

    def _place(self, setting: int, seed: int) -> tuple[int, int]:
        """The part, and the lane within it."""
        return divmod(self.lane(setting, seed), len(self.returns) // len(self.parts))

    def _row(self, index: int) -> Row:
        from scipy.stats import trim_mean

        returns = self.returns[self._lanes(index)]
        updates = int(self.updates_done[self._lanes(index)].min())
        part = self.part_of(index)
        low, high = bootstrap_interval(returns)
        return Row(
            number=index,
            setting=self.settings[index],
            mean=float(returns.mean()),
            interquartile_mean=float(trim_mean(returns, 0.25)),
            low=low,
            high=high,
            updates=updates,
            steps=updates * part.config.batch_size,
            share=self.share(index),
            cost=float("nan") if self.costs is None else self.costs[self._lanes(index)].mean(),
        )

    @property
    def has_costs(self) -> bool:
        """Whether the environment has costs."""
        return self.costs is not None and bool(np.isfinite(self.costs).any())


def _ranked(returns: Any) -> np.ndarray:
    """Returns for comparison: NaN is worse than everything."""
    return np.nan_to_num(returns, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
