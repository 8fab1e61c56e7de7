"""Rules about the step: curvature, conjugate gradients, line search."""

import numpy as np

from trpo_jax.experiments.doctor.case import MOSTLY, OFTEN, Case
from trpo_jax.experiments.doctor.findings import Finding
from trpo_jax.solver.info import StepStatus

USUAL_ITERATIONS = 10
"""The article's minimum of CG iterations; with fewer, a residual of a tenth is a warning."""
UNSOLVED_RESIDUAL = 0.3
"""Median ‖r‖/‖g‖ at the end of CG. Healthy presets stay below 0.1; one iteration leaves 0.5."""
POOR_RESIDUAL = 0.1
WRONG_MODEL = 5.0
"""KL of the first candidate, as a multiple of δ, above which the quadratic model is off."""
STRETCHED_MODEL = 1.3
"""The same, above which it is stretched. Healthy presets have 0.5–0.9, a singular one without
damping 1.5–2.1."""


def singular_curvature(case: Case) -> Finding | None:
    """D2, M1: H + λI is numerically not positive definite, or the quadratic model is wrong."""
    broken = case["cg_breakdown"] | np.isin(
        case["status"], (StepStatus.NOT_FINITE, StepStatus.BAD_CURVATURE)
    )
    first = case["candidate_kls"][:, 0] / float(np.min(case.hparams.max_kl))
    spikes = (first > WRONG_MODEL) | case["alarm_kl_spike"]
    wrong = broken.mean() > 0.05 or spikes.mean() > OFTEN
    typical = case.median(first)
    if not wrong and not typical > STRETCHED_MODEL:
        return None
    evidence = [
        f"conjugate gradients broke down in {broken.mean():.0%} of the updates",
        f"the full step had {typical:.2g} δ of KL (median), and more than {WRONG_MODEL:g} δ in "
        f"{spikes.mean():.0%}",
    ]
    damping = _damping(case)
    more = max(2 * damping, 0.1)
    return Finding(
        "singular_curvature", "D2", "severe" if wrong else "warning",
        "the curvature is singular or the step too long",
        f"{'; '.join(evidence)}; damping is {damping:g}",
        case.updates(broken | spikes if wrong else first > STRETCHED_MODEL),
        ("too little damping for a Fisher matrix that is nearly singular",
         "float32 is not enough for such an ill-conditioned system",
         "a trust region in which the quadratic model does not hold"),
        (f"--cg-damping {more:g}", "--solver-dtype float64", "smaller --max-kl"),
    )  # fmt: skip


def cg_unconverged(case: Case) -> Finding | None:
    """D2, M2: conjugate gradients do not converge to the natural gradient."""
    norms = case["cg_residual_norms"]
    start = norms[:, 0]
    relative = norms[:, -1] / np.where(start > 0, start, np.nan)
    rest = case.median(relative)
    iterations = case.config.cg_iterations
    allowed = UNSOLVED_RESIDUAL if iterations >= USUAL_ITERATIONS else POOR_RESIDUAL
    if not rest > allowed:
        return None
    diverged = case["alarm_cg_diverged"]
    return Finding(
        "cg_unconverged", "D2", "severe" if rest > UNSOLVED_RESIDUAL else "warning",
        "conjugate gradients stop before they converge",
        f"‖r‖/‖g‖ is {rest:.2g} (median) after {iterations} iterations, and larger than at the "
        f"start in {diverged.mean():.0%} of the updates",
        case.updates(relative > allowed),
        ("too few iterations", "too little damping", "float32 is not enough"),
        (f"--cg-iterations {max(10, 2 * iterations)}",
         f"--cg-damping {max(0.1, 2 * _damping(case)):g}",
         "--solver-dtype float64"),
    )  # fmt: skip


def _damping(case: Case) -> float:
    """The damping that was used; with adaptive damping it differs from the setting."""
    return float(np.median(case.history.get("damping", case.hparams.cg_damping)))


def rejected_steps(case: Case) -> Finding | None:
    """M8: the line search finds nothing, or only tiny steps."""
    rejected = case["status"] == StepStatus.LINE_SEARCH_FAILED
    fraction = case.median(case["step_fraction"][case["accepted"]])
    if rejected.mean() <= OFTEN and not fraction < 0.2:
        return None
    return Finding(
        "rejected_steps", "M8", "severe" if rejected.mean() > MOSTLY else "warning",
        "the line search rejects most of the step",
        f"{rejected.mean():.0%} of the updates were rejected; the others took {fraction:.0%} of "
        "the full step (median)",
        case.updates(rejected),
        ("the quadratic model does not hold within δ", "a noisy gradient"),
        (f"--max-kl {float(np.max(case.hparams.max_kl)) / 3:.2g}", "--max-backtracks 15",
         "--cg-damping 0.2"),
    )  # fmt: skip


def unlike_prediction(case: Case) -> Finding | None:
    """M8: steps gain much less than the gradient predicts."""
    accepted = case["accepted"]
    predicted = case["predicted_improvement"]
    ratio = case.median(
        (case["improvement"] / np.where(predicted > 0, predicted, np.nan))[accepted]
    )
    if not ratio < 0.3:
        return None
    return Finding(
        "unlike_prediction", "M8", "warning", "steps gain much less than predicted",
        f"{ratio:.0%} of gᵀΔθ (median)",
        (),
        ("the surrogate is not linear within the trust region",),
        (f"--max-kl {float(np.max(case.hparams.max_kl)) / 3:.2g}", "--accept-ratio 0.1"),
    )  # fmt: skip
