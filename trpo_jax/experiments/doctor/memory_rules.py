"""Rules for policies with memory."""

import numpy as np

from trpo_jax.experiments.doctor.case import Case
from trpo_jax.experiments.doctor.findings import Finding

UNUSED = 1e-4
"""KL in nats from a policy to itself without memory, below which the memory decides nothing."""
SATURATED = 0.5
"""Fraction of a memory that is saturated, above which gradients through time vanish."""


def unused_memory(case: Case) -> Finding | None:
    """The policy acts as it would with its memory erased before every step."""
    if "memory_use" not in case.history:
        return None
    use = case["memory_use"]
    late = float(np.median(use[case.last_quarter]))
    if not late < UNUSED:
        return None
    return Finding(
        "unused_memory", "D4", "warning", "the memory is never used",
        f"at the end the policy differs from itself without memory by {late:.1e} nats, and by "
        f"{float(np.max(use)):.1e} at most",
        case.updates(use < UNUSED),
        ("an environment whose observations tell all", "rollouts shorter than what must be kept in "
         "mind: gradients end at their start"),
        ("--memory none, which is several times faster", "larger --num-steps"),
    )  # fmt: skip


def saturated_memory(case: Case) -> Finding | None:
    """Units at ±1 pass no gradient, so what lies further back cannot be learnt."""
    if "carry_saturation" not in case.history:
        return None
    share = case["carry_saturation"]
    late = float(np.median(share[case.last_quarter]))
    if not late > SATURATED:
        return None
    return Finding(
        "saturated_memory", "D4", "warning", "gradients vanish over time: the memory is saturated",
        f"{late:.0%} of the memory is at ±1 at the end",
        case.updates(share > SATURATED),
        ("observations that are large or far from zero", "steps too large for the memory"),
        ("--normalize-observations", "smaller --max-kl", "--memory mingru"),
    )  # fmt: skip
