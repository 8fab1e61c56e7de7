"""C11 and C15: how fast conjugate gradients converge, and what float32 costs them."""

import jax.numpy as jnp
import numpy as np

from claim_studies import problems
from claim_studies.problems import Problem
from claim_studies.study import Options, Study, panels

DAMPINGS = (0.1, 1e-2, 1e-3, 1e-5, 0.0)
TOLERANCES = (0.1, 1e-2, 1e-3)
LONG = 200
"""Iterations of the long solves."""
ITERATIONS = (10, 20, 50)
"""Where float32 and float64 are compared."""


def _problems(quick: bool) -> list[Problem]:
    env_ids = ("CartPole-v1",) if quick else ("CartPole-v1", "Pendulum-v1", "hopper")
    stages = (1,) if quick else (1, 20)
    return [p for env_id in env_ids for p in problems.at_stages(env_id, stages, quick)]


def convergence(options: Options) -> Study:
    """C11: iterations of float64 CG until the residual is a share of ‖g‖, by damping."""
    iterations = 20 if options.quick else LONG
    rows, curves = [], []
    for problem in _problems(options.quick):
        solve = problems.solver(problem.policy, iterations, "float64")
        for damping in DAMPINGS:
            result = solve(problem.params, problem.batch, problem.gradient, jnp.float32(damping))
            norms = np.asarray(result.residual_norms, float)
            relative = norms / norms[0]
            reached = [_first_below(relative, tolerance) for tolerance in TOLERANCES]
            ends = [f"{relative[i]:.1e}" for i in (10, -1)]
            rows.append([problem.env_id, problem.num_updates, f"{damping:g}", *reached, *ends])
            curves.append((problem, damping, relative))

    return Study(
        "C11",
        "C11: CG converges in a few dozen iterations",
        f"Real batches of policies that TRPO trained for so many updates; {iterations} iterations "
        "in float64, so that rounding plays no part. Iterations until ‖r‖ ≤ tolerance · ‖g‖.",
        ("environment", "updates", "damping", *(f"to {t:g}" for t in TOLERANCES),
         "‖r‖/‖g‖ after 10", f"after {iterations}"),
        rows,
        lambda: _residual_curves(curves),
    )  # fmt: skip


def precision(options: Options) -> Study:
    """C15: float32 against float64 on the same systems, for the same number of iterations."""
    rows = []
    for problem in _problems(options.quick):
        exact = problems.exact_product(problem.policy)
        for iterations in ITERATIONS[:1] if options.quick else ITERATIONS:
            solve = [problems.solver(problem.policy, iterations, d) for d in ("float32", "float64")]
            for damping in DAMPINGS:
                arguments = (problem.params, problem.batch, problem.gradient, jnp.float32(damping))
                single, double = (one(*arguments) for one in solve)
                rows.append([problem.env_id, problem.num_updates, f"{damping:g}", iterations,
                             *_compared(problem, exact, damping, single, double)])  # fmt: skip

    return Study(
        "C15",
        "C15: float32 is not enough for CG on some problems",
        "The same systems, the same number of iterations. The true residual ‖g − (H + λI)x‖/‖g‖ is "
        "computed in float64 from the solution. Efficiency: gain that the full step predicts, "
        "gᵀx / √(xᵀ(H + λI)x), of float32 as a share of float64's; 1 if the step is as good.",
        ("environment", "updates", "damping", "iterations", "true residual float32",
         "true residual float64", "‖x₃₂ − x₆₄‖/‖x₆₄‖", "efficiency", "breakdown"),
        rows,
        lambda: _precision_picture(rows),
    )  # fmt: skip


def predicted_gain(gradient, x, product) -> float:
    """gᵀx / √(xᵀAx): what a step along x of unit length in A gains to first order."""
    gradient, x, product = (np.asarray(v, float) for v in (gradient, x, product))
    return float(gradient @ x / np.sqrt(x @ product))


def _compared(problem: Problem, exact, damping: float, single, double) -> list[str]:
    gradient = np.asarray(problem.gradient, float)
    products = [
        exact(problem.params, problem.batch, one.x, jnp.float32(damping))
        for one in (single, double)
    ]
    residuals = [
        np.linalg.norm(gradient - np.asarray(p, float)) / np.linalg.norm(gradient) for p in products
    ]
    difference = np.linalg.norm(np.asarray(single.x, float) - np.asarray(double.x, float))
    gains = [
        predicted_gain(gradient, one.x, product)
        for one, product in zip((single, double), products, strict=True)
    ]
    return [
        f"{residuals[0]:.1e}",
        f"{residuals[1]:.1e}",
        f"{difference / np.linalg.norm(np.asarray(double.x, float)):.1e}",
        f"{gains[0] / gains[1]:.4f}",
        "yes" if bool(single.breakdown) else "no",
    ]


def _first_below(relative: np.ndarray, tolerance: float) -> str:
    below = np.flatnonzero(relative <= tolerance)
    return str(below[0]) if below.size else f"> {relative.size - 1}"


def _residual_curves(curves):
    names = list(dict.fromkeys((p.env_id, p.num_updates) for p, _, _ in curves))
    figure, axes = panels(len(names), per_row=3)
    for axis, (env_id, num_updates) in zip(axes, names, strict=True):
        for problem, damping, relative in curves:
            if (problem.env_id, problem.num_updates) == (env_id, num_updates):
                axis.semilogy(np.maximum(relative, 1e-12), label=f"λ = {damping:g}")
        axis.axvline(10, color="black", linewidth=0.8, linestyle=":")
        axis.set(title=f"{env_id}, after {num_updates} updates", xlabel="iteration")
        axis.set(ylabel="‖r‖ / ‖g‖", ylim=(1e-8, 10))
    axes[0].legend(fontsize="small")
    return figure


def _precision_picture(rows):
    figure, (axis,) = panels(1)
    for iterations, marker in zip(ITERATIONS, "osx", strict=True):
        chosen = [row for row in rows if row[3] == iterations]
        single, double = ([float(row[i]) for row in chosen] for i in (4, 5))
        axis.loglog(
            np.maximum(double, 1e-8),
            np.maximum(single, 1e-8),
            marker,
            label=f"{iterations} iterations",
        )
    axis.axline((1e-8, 1e-8), (1, 1), color="black", linewidth=1)
    axis.set(xlabel="true residual / ‖g‖, float64", ylabel="true residual / ‖g‖, float32")
    axis.legend(title="one marker a system and damping", fontsize="small")
    return figure
