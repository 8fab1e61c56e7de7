"""One seed of a run, as the rules see it, and statistics of its returns."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trpo_jax.config import HParams, TRPOConfig

OFTEN = 0.2
"""Fraction of updates that counts as often."""
MOSTLY = 0.5
"""Fraction of updates, or of units, that counts as most."""
ENOUGH_RETURNS = 8
"""With fewer, a change of the return cannot be told from noise."""
_SHOWN_UPDATES = 5


@dataclass(frozen=True)
class Case:
    """One seed of a run, as the rules see it."""

    history: Mapping[str, np.ndarray]
    """name -> [updates, ...]."""
    config: TRPOConfig
    hparams: HParams
    continuous: bool | None
    """Whether the actions are continuous; None if unknown."""

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.history:
            raise ValueError(
                f"history has no metric {name!r} among its {len(self.history)}; pass what "
                "agent.train returns, or Run.histories"
            )
        return np.asarray(self.history[name])

    @property
    def has_trust_region(self) -> bool:
        """Whether the policy step reported a trust region; plain policy gradients have none."""
        return "candidate_kls" in self.history or "kl" not in self.history

    @property
    def has_constraint(self) -> bool:
        """Whether the policy step kept a limit of the costs."""
        return "constraint_violation" in self.history

    @property
    def returns(self) -> np.ndarray:
        """The returns of the updates in which episodes ended."""
        return self["episode_return"][self["num_episodes"] > 0]

    @property
    def last_quarter(self) -> slice:
        """The last quarter of the updates, but one at least."""
        return slice(-max(1, len(self["update"]) // 4), None)

    def median(self, values: np.ndarray) -> float:
        """Median of the finite values; NaN if there are none."""
        finite = values[np.isfinite(values)]
        return float(np.median(finite)) if finite.size else float("nan")

    def updates(self, mask: np.ndarray) -> tuple[int, ...]:
        """The first few updates that a mask selects."""
        return tuple(int(update) for update in self["update"][mask][:_SHOWN_UPDATES])

    @property
    def num_dimensions(self) -> int:
        """Number of action dimensions, from the two KLs."""
        kl, per_dimension = self["kl"], self["kl_per_dimension"]
        usable = per_dimension > 0
        return round(float(np.median(kl[usable] / per_dimension[usable]))) if usable.any() else 1


def early_return(returns: np.ndarray) -> float:
    """Return at the start: mean of the first tenth, but of at least three."""
    finite = returns[np.isfinite(returns)]
    return float(finite[: _width(finite)].mean()) if finite.size else float("nan")


def late_return(returns: np.ndarray) -> float:
    """Return at the end: mean of the last tenth, but of at least three."""
    finite = returns[np.isfinite(returns)]
    return float(finite[-_width(finite) :].mean()) if finite.size else float("nan")


def best_return(returns: np.ndarray) -> float:
    """Highest mean of a tenth of the returns in a row, but of at least three."""
    finite = returns[np.isfinite(returns)]
    if not finite.size:
        return float("nan")
    width = _width(finite)
    return float(np.convolve(finite, np.ones(width) / width, mode="valid").max())


def _width(returns: np.ndarray) -> int:
    """How many returns to average; a single one is too noisy."""
    return min(returns.size, max(3, returns.size // 10))


def spread(returns: np.ndarray) -> float:
    """Twice the noise of the return, from its jumps between updates; ∞ if there are too few."""
    finite = returns[np.isfinite(returns)]
    if finite.size < ENOUGH_RETURNS:
        return float("inf")
    return float(2 * np.median(np.abs(np.diff(finite))) / 0.95)


def trend(returns: np.ndarray) -> float:
    """Rank correlation of return and time."""
    from scipy.stats import spearmanr

    finite = returns[np.isfinite(returns)]
    if finite.size < 5 or np.ptp(finite) == 0:
        return 0.0
    return float(spearmanr(np.arange(finite.size), finite).statistic)
