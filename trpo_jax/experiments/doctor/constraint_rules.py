"""Rules about the limit of the costs, for policy steps that keep one."""

import numpy as np

from trpo_jax.experiments.doctor.case import MOSTLY, OFTEN, Case
from trpo_jax.experiments.doctor.findings import Finding
from trpo_jax.solver.info import ConstraintCase

MANY = 10
"""Updates, or recovery steps, in a row or in all, below which nothing can be said."""
BLIND_CRITIC = 0.1
"""Median explained variance of the critic of the costs below which it is of no use."""
LASTING = 0.9
"""Fraction of the last quarter of the updates in violation that is no longer noise at the limit."""
EXCESS = 0.1
"""Cost above the limit, relative to it, that counts as a violation in these rules."""
USELESS_RECOVERY = 0.1
"""Fraction of the promised decrease of the cost below which recovery steps do not work."""
NEAR_CAP = 0.5
"""Fraction of its cap above which the multiplier has run away. Healthy runs stay below 0.1."""


def useless_cost_critic(case: Case) -> Finding | None:
    """The critic of the costs explains nothing, while the limit matters."""
    explained, spread = case["cost_explained_variance"], case["cost_advantage_std"]
    second_half = np.arange(len(explained)) >= len(explained) // 2
    alive = second_half & (spread > EXCESS * np.nanmax(spread))  # else there is nothing to explain
    typical = case.median(explained[alive])
    matters = violated(case).mean() > OFTEN
    if alive.sum() < MANY // 2 or not (typical < BLIND_CRITIC and matters):
        return None
    return Finding(
        "useless_cost_critic", "C1", "severe" if typical < BLIND_CRITIC / 2 else "warning",
        "the critic of the costs explains nothing",
        f"{typical:.0%} of the variance of the costs' returns (median of the second half), and the "
        f"limit was violated in {violated(case).mean():.0%} of the updates: the step has no "
        "reliable direction in which the cost falls",
        (),
        ("the cost does not depend on what the critic observes, or is mostly noise",
         "costs are too rare for batches of this size", "too few epochs, or too small a step size"),
        ("larger batches: --num-envs, --num-steps", "--value-epochs 20", "--normalize-observations",
         "--cost-gamma 0.95"),
    )  # fmt: skip


def futile_recovery(case: Case) -> Finding | None:
    """Recovery steps are taken, and the cost does not fall."""
    recovering = _recoveries(case)[:-1] & case["accepted"][:-1]
    if recovering.sum() < MANY:
        return None
    per_step = case["cost_estimate"] / case["mean_length"]
    promised = -float(case["constraint_change"][:-1][recovering].sum())
    fell = -float(np.diff(per_step)[recovering].sum())
    if not fell < USELESS_RECOVERY * promised or per_step[-1] < 0.8 * per_step[0]:
        return None
    return Finding(
        "futile_recovery", "C2", "severe", "recovery steps do not lower the cost",
        f"{recovering.sum()} steps only tried to lower the cost, which should have fallen by "
        f"{promised:.3g} per step by their surrogate, and fell by {fell:.3g}",
        case.updates(np.append(recovering, False)),
        ("the advantages of the costs are wrong: sign, time limits, a cost of another step",
         "the cost has reached its lowest value", "the cost does not depend on the action"),
        ("inspect them: prepare a batch with agent.rollout, and look at batch.costs",
         "--cost-gae-lambda 0.98", "a higher --cost-limit"),
    )  # fmt: skip


def infeasible(case: Case) -> Finding | None:
    """From the first updates on, no step within the trust region reaches the limit."""
    recoveries, beyond = _recoveries(case), violated(case)
    start = recoveries[: max(3, len(recoveries) // 10)]
    if len(recoveries) < MANY or start.mean() < MOSTLY:
        return None
    never = beyond.all() and recoveries.mean() > MOSTLY
    return Finding(
        "infeasible", "C3", "severe" if never else "warning",
        "the limit was out of reach" + ("" if never else " at the start"),
        f"{recoveries.mean():.0%} of the updates only lowered the cost; it was "
        f"{case['cost_estimate'][0]:.4g} per episode at the start, {case['cost_estimate'][-1]:.4g} "
        f"at the end, and {np.nanmin(case['cost_estimate']):.4g} at least; the limit is "
        f"{_limit(case):g}",
        case.updates(recoveries),
        ("no policy has so low a cost", "the first policy is far from a safe one"),
        ("a higher --cost-limit", "begin with a policy that keeps the limit: agent.init(key, "
         "policy_params=…)", "a larger --max-kl"),
    )  # fmt: skip


def runaway_multiplier(case: Case) -> Finding | None:
    """The multiplier grows towards its cap, and the limit stays violated."""
    if "constraint_case" in case.history:
        return None
    multiplier, quarter = case["constraint_multiplier"], case.last_quarter
    cap = float(np.max(case.hparams.max_multiplier))
    near = multiplier[quarter] > NEAR_CAP * cap
    if len(multiplier) < MANY or not (
        near.mean() > MOSTLY and violated(case)[quarter].mean() > MOSTLY
    ):
        return None
    return Finding(
        "runaway_multiplier", "C4", "severe", "the multiplier runs away",
        f"it is {multiplier[-1]:.4g} at the end, with a cap of {cap:g}, and the limit is still "
        f"violated: {case['cost_estimate'][-1]:.4g} per episode, {_limit(case):g} allowed",
        case.updates(multiplier > NEAR_CAP * cap),
        ("no policy has so low a cost", "the advantages of the costs are wrong", "gains too large"),
        ("a higher --cost-limit",
         f"--multiplier-integral {float(np.max(case.hparams.multiplier_integral)) / 3:.2g}",
         "--algorithm cpo"),
    )  # fmt: skip


def limit_violated(case: Case) -> Finding | None:
    """The limit is violated for many updates in a row, until the end."""
    beyond = violated(case)
    held = np.flatnonzero(~beyond)
    in_a_row = len(beyond) - (held[-1] + 1 if held.size else 0)
    late = beyond[case.last_quarter]
    if late.size < MANY // 2 or in_a_row < MANY // 2 or late.mean() < LASTING:
        return None
    if any(rule(case) for rule in (infeasible, runaway_multiplier, futile_recovery)):
        return None  # which says why
    cost = case.median(case["cost_estimate"][case.last_quarter])
    return Finding(
        "limit_violated", "C5", "severe" if cost > 1.5 * _limit(case) else "warning",
        "the limit of the costs is violated",
        f"{cost:.4g} per episode in the last quarter (median), with a limit of {_limit(case):g}; "
        f"the last {in_a_row} updates violated it",
        case.updates(beyond),
        ("the return pushes as hard as the limit: the policy that samples its actions costs more "
         "than its mode", "an estimate that is too noisy for the limit", "costs that follow long "
         "after their cause"),
        ("larger batches: --num-envs, --num-steps", "a lower --cost-limit than is needed",
         "--cost-gamma 0.995", "--algorithm lagrangian"),
    )  # fmt: skip


def violated(case: Case) -> np.ndarray:
    """[updates]: whether the estimated cost per episode was clearly above the limit."""
    limit = _limit(case)
    return case["cost_estimate"] > limit + EXCESS * abs(limit)


def _limit(case: Case) -> float:
    return float(np.max(case.hparams.cost_limit))


def _recoveries(case: Case) -> np.ndarray:
    """[updates]: whether the step was a recovery; none for a method without them."""
    cases = case.history.get("constraint_case", np.full(len(case["update"]), -1))
    return np.asarray(cases) == ConstraintCase.RECOVERY
