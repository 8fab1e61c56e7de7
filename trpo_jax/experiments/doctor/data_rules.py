"""Rules about the inputs: data and settings."""

import numpy as np

from trpo_jax.experiments.doctor.case import MOSTLY, OFTEN, Case
from trpo_jax.experiments.doctor.findings import Finding
from trpo_jax.experiments.doctor.solver_rules import USUAL_ITERATIONS

EXPLOSION = 1e3
"""Growth of the advantages' deviation within a run that counts as an explosion."""
FLAT = 1e-7
"""Deviation of raw advantages, relative to their size, below which there is no signal."""


def off_policy(case: Case) -> Finding | None:
    """D1: data from another policy version."""
    refused = case["alarm_off_policy"]
    if not refused.any():
        return None
    gap = np.nanmax(case["on_policy_gap"])
    return Finding(
        "off_policy", "D1", "severe", "batches from another policy version",
        f"{refused.mean():.0%} of the updates were refused: their data is from another version of "
        f"the policy, or was changed. log π_θ(a|s) differs from what the rollout stored by up to "
        f"{gap:.2g}, relatively; rounding is about 1e-7",
        case.updates(refused),
        ("the batch was collected by an older policy", "the observation statistics changed between "
         "rollout and update", "actions were clipped or squashed before they were stored"),
        ("collect with the state that is then updated: agent.update, or agent.rollout directly "
         "followed by agent.learn",),
    )  # fmt: skip


def invalid_data(case: Case) -> Finding | None:
    """The environment returned NaN or infinite values."""
    spoilt = case["alarm_invalid_data"]
    if not spoilt.any():
        return None
    share = 1 - np.nanmin(case["valid_fraction"])
    return Finding(
        "invalid_data", "M4", "severe" if spoilt.mean() > OFTEN else "warning",
        "the environment returns NaN or infinite values",
        f"in {spoilt.mean():.0%} of the updates, up to {share:.2%} of the transitions were left "
        "out",
        case.updates(spoilt),
        ("the simulation diverges, often from large actions", "a reward divides by zero"),
        ("--action-bounds tanh", "fix the environment"),
    )  # fmt: skip


def exploding_rewards(case: Case) -> Finding | None:
    """M4: the scale of the advantages grows without bound."""
    deviation = case["advantage_std"]
    usable = deviation[np.isfinite(deviation) & (deviation > 0)]
    if usable.size < 4:
        return None
    tenth = max(1, usable.size // 10)
    growth = np.median(usable[-tenth:]) / np.median(usable[:tenth])
    loss = case["value_loss"]
    if growth < EXPLOSION or not loss[-1] > EXPLOSION * max(case.median(loss[:tenth]), 1e-12):
        return None
    return Finding(
        "exploding_rewards", "M4", "severe", "rewards explode",
        f"the deviation of the advantages grew {growth:.2g}-fold, from "
        f"{np.median(usable[:tenth]):.2g} to {np.median(usable[-tenth:]):.2g}, and the value loss "
        f"is {loss[-1]:.2g}",
        (),
        ("the reward's scale drifts or depends on the length of the training",
         "the environment diverges"),
        ("--normalize-rewards", "bound or rescale the reward"),
    )  # fmt: skip


def no_signal(case: Case) -> Finding | None:
    """M4: all advantages are equal."""
    deviation, mean = case["advantage_std"], case["advantage_mean"]
    flat = deviation <= FLAT * np.maximum(np.abs(mean), 1e-30)
    if flat.mean() < MOSTLY:
        return None
    return Finding(
        "no_signal", "M4", "severe", "all advantages are equal",
        f"in {flat.mean():.0%} of the updates no advantage differs from another",
        case.updates(flat),
        ("no reward is ever reached", "the reward does not depend on the action"),
        ("longer rollouts: --num-steps", "more exploration: --entropy-coef, --initial-log-std"),
    )  # fmt: skip


def settings(case: Case) -> Finding | None:
    """D6: settings that the article warns about."""
    config, hparams = case.config, case.hparams
    max_kl = float(np.max(hparams.max_kl))
    doubts = [
        (case.continuous and max_kl > 0.01,
         f"max_kl {max_kl:g} is above 0.01 on continuous control", "--max-kl 0.01"),
        (not config.normalize_advantages,
         "advantages are not normalised", "--normalize-advantages"),
        (config.cg_iterations < USUAL_ITERATIONS,
         f"{config.cg_iterations} iterations of conjugate gradients", "--cg-iterations 10"),
        (config.value_epochs < 4,
         f"{config.value_epochs} epochs of the value fit", "--value-epochs 5"),
        (not config.line_search, "no line search: nothing bounds the KL", "--line-search"),
    ]  # fmt: skip
    found = [(what, option) for doubtful, what, option in doubts if doubtful]
    if not found:
        return None
    return Finding(
        "settings", "D6", "warning", "settings that often go wrong",
        "; ".join(what for what, _ in found),
        (),
        (),
        tuple(option for _, option in found),
    )  # fmt: skip
