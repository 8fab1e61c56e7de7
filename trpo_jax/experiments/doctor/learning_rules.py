"""Rules about the results: networks, critic, return."""

import numpy as np

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.experiments.doctor.case import (
    MOSTLY,
    OFTEN,
    Case,
    best_return,
    early_return,
    late_return,
    spread,
    trend,
)
from trpo_jax.experiments.doctor.findings import Finding
from trpo_jax.learner.monitoring import INACTIVE_UNITS

IDLE_FIT = 0.99
"""Median of value loss after / before the fit above which the fit does nothing. Injected faults
have 0.999 and more, healthy presets less than 0.8."""
SLOW_FIT = 0.97
"""The same ratio, above which the fit does too little."""
POOR_CRITIC = 0.5
"""Explained variance below which an idle fit is a fault, and not just converged."""
COLLAPSED_ENTROPY = 0.1
"""Fraction of the initial entropy below which a discrete policy is nearly deterministic."""
COLLAPSED_LOG_STD = 2.0
"""The same for continuous actions: nats per action dimension lost since the start."""
CLEAR_TREND = 0.5
"""Rank correlation of return and update that counts as a trend."""
PREFERENCE = 0.5
"""Fraction of the advantages that one step's direction explains in a tenth of the updates; above it
they favour some actions in every state. Injected faults have more than 1, healthy presets less
than 0.2."""


def dead_units(case: Case) -> Finding | None:
    """M6, D4: units that respond to no input."""
    shares = np.nan_to_num(case["inactive_units"])
    worst = shares.max(axis=1, initial=0)
    late = float(np.median(worst[case.last_quarter]))
    if late <= INACTIVE_UNITS:
        return None
    layer = int(shares[-1].argmax()) + 1
    saturated = case.config.activation == "tanh"
    return Finding(
        "dead_units", "D4", "severe" if late > 0.25 else "warning",
        f"{'saturated' if saturated else 'dead'} units in the policy",
        f"{late:.0%} of a hidden layer at the end (layer {layer}); the alarm is at 10 %",
        case.updates(worst > INACTIVE_UNITS),
        ("observations that are large or far from zero", "steps too large for the activation"),
        ("--normalize-observations",
         "--activation tanh" if not saturated else "--activation leaky_relu", "smaller --max-kl"),
    )  # fmt: skip


def untrained_critic(case: Case) -> Finding | None:
    """M3: the value fit does not lower its loss."""
    before, after = case["value_loss_before"], case["value_loss"]
    ratio = case.median(after / np.where(before > 0, before, np.nan))
    explained = case.median(case["explained_variance"])
    if not (ratio > SLOW_FIT and explained < POOR_CRITIC):
        return None
    epochs, rate = TRPOConfig().value_epochs, HParams().value_learning_rate
    return Finding(
        "untrained_critic", "M3", "severe" if ratio > IDLE_FIT else "warning",
        "the value function " + ("does not learn" if ratio > IDLE_FIT else "learns slowly"),
        f"its fit leaves {ratio:.1%} of the loss (median) and explains {explained:.0%} of the "
        "variance of the returns",
        (),
        ("the learning rate is too small, or so large that the fit goes nowhere",
         "too few epochs", "returns on a scale that the network does not reach"),
        (*_other_fits(case, f"--value-learning-rate (now {{:g}}, default {rate:g})", 1),
         f"--value-epochs (now {case.config.value_epochs}, default {epochs})",
         "--normalize-rewards"),
    )  # fmt: skip


def failed_value_fit(case: Case) -> Finding | None:
    """M3: the value fit raises its loss."""
    failed = case["alarm_value_fit_failed"] & ~case["alarm_off_policy"]
    if failed.mean() <= OFTEN:
        return None
    return Finding(
        "failed_value_fit", "M3", "severe" if failed.mean() > MOSTLY else "warning",
        "the value fit diverges",
        f"its loss rose, or was not finite, in {failed.mean():.0%} of the updates",
        case.updates(failed),
        ("the learning rate is too large", "returns on a large scale"),
        (*_other_fits(case, "--value-learning-rate {:.2g}", 1 / 3), "--normalize-rewards"),
    )  # fmt: skip


def _other_fits(case: Case, step_size: str, share: float) -> tuple[str, ...]:
    """Other ways to fit than the present Adam; L-BFGS has no step size to change."""
    if case.config.value_optimizer == "lbfgs":
        return ()
    rate = share * float(np.min(case.hparams.value_learning_rate))
    return step_size.format(rate), "--value-optimizer lbfgs"


def biased_advantages(case: Case) -> Finding | None:
    """D3: the surrogate rises, but the return falls, or does not rise as promised."""
    returns = case.returns
    early, late, noise = early_return(returns), late_return(returns), spread(returns)
    gained = case["accepted"] & (case["improvement"] > 0)
    falls = late < early - noise and trend(returns) <= -CLEAR_TREND
    explained = float(np.quantile(_share_of_direction(case), 0.9))
    # A collapse of the entropy is such a direction too, but has its own finding.
    favours = explained > PREFERENCE and late <= early + noise and entropy_collapse(case) is None
    if gained.mean() < MOSTLY or not (falls or favours):
        return None
    return Finding(
        "biased_advantages", "D3", "severe",
        f"the surrogate rises but the return {'falls' if falls else 'does not'}",
        f"{gained.mean():.0%} of the updates gained on the surrogate, yet the return went from "
        f"{early:.4g} to {late:.4g}; one direction explains {explained:.0%} of the advantages "
        f"(upper decile); explained variance is {case.median(case['explained_variance']):.2f} "
        "(median)",
        (),
        ("the advantages are biased: wrong sign, wrong bootstrap at time limits, rewards shifted "
         "by a step, some actions favoured regardless of their effect",
         "a value function that is fitted to something else",
         "too small a gae_lambda for this critic"),
        ("inspect them: trpo-jax doctor RUN --dump DIR", "--gae-lambda 0.98",
         "--value-epochs 20"),
    )  # fmt: skip


def _share_of_direction(case: Case) -> np.ndarray:
    """Fraction of the advantages' mean square that the full step's direction explains; [updates].

    (gᵀΔθ)² / (2δ E[A²]) ≤ 1 by Cauchy and Schwarz, for advantages of this policy's own data.
    """
    fraction = np.where(case["accepted"], case["step_fraction"], 1)
    predicted = case["predicted_improvement"] / np.maximum(fraction, 1e-6)
    square: np.ndarray | float = 1.0
    if not case.config.normalize_advantages:
        square = case["advantage_mean"] ** 2 + case["advantage_std"] ** 2
    max_kl = float(np.max(case.hparams.max_kl))
    return np.nan_to_num(predicted**2 / np.maximum(2 * max_kl * square, 1e-12))


def entropy_collapse(case: Case) -> Finding | None:
    """D4, M5: the policy became nearly deterministic without improving."""
    entropy, returns = case["entropy"], case.returns
    lost = entropy[0] - entropy[-1]
    dimensions = case.num_dimensions
    if case.continuous or (case.continuous is None and entropy[-1] < 0):
        collapsed = lost > COLLAPSED_LOG_STD * dimensions
    else:
        collapsed = entropy[-1] < COLLAPSED_ENTROPY * entropy[0]
    locking = case["alarm_locking_in"]
    improved = late_return(returns) > early_return(returns) + spread(returns)
    collapses = collapsed and not (improved and locking.mean() < OFTEN)
    if not collapses and (improved or locking.mean() <= MOSTLY):
        return None
    return Finding(
        "entropy_collapse", "D4", "severe", "the policy becomes deterministic too early",
        f"entropy fell from {entropy[0]:.2f} to {entropy[-1]:.2f} nats while the return went from "
        f"{early_return(returns):.4g} to {late_return(returns):.4g}; it fell sharply at a high "
        f"KL in {locking.mean():.0%} of the updates",
        case.updates(locking),
        ("steps too large for so little data", "a reward that favours one action at first"),
        (f"--max-kl {float(np.max(case.hparams.max_kl)) / 3:.2g}",
         f"--entropy-coef {max(0.01, 3 * float(np.max(case.hparams.entropy_coef))):.2g}",
         "larger batches: --num-envs, --num-steps"),
    )  # fmt: skip


def collapse(case: Case) -> Finding | None:
    """M7: the return rose, and was lost again."""
    returns = case.returns
    drops = case["alarm_return_drop"]
    best, late, early = best_return(returns), late_return(returns), early_return(returns)
    if not np.isfinite(best + late + early) or best - early <= spread(returns):
        return None
    lost = (best - late) / (best - early)
    if lost < MOSTLY:
        return None
    return Finding(
        "collapse", "M7", "severe" if lost > 0.75 else "warning",
        "the return was reached and lost again",
        f"{lost:.0%} of the gain is gone: {early:.4g} at the start, {best:.4g} at best, "
        f"{late:.4g} at the end; {drops.mean():.0%} of the updates lost more than half",
        case.updates(drops),
        ("steps too large: mean KL does not bound every state's", "batches too small",
         "a critic that did not keep up"),
        (f"--max-kl {float(np.max(case.hparams.max_kl)) / 3:.2g}",
         "larger batches: --num-envs, --num-steps", "--value-epochs 20"),
    )  # fmt: skip
