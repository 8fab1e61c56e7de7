"""C11, C15 and C16: how conjugate gradients converge, in which precision, and from where."""

from functools import partial

import jax
import numpy as np
import pictures
import precision
import problems
from problems import Case, Problem, in_double

import trpo_jax
from claim_studies.settings import get_task
from claim_studies.study import Options, Study

ENV_IDS = ("CartPole-v1", "Pendulum-v1", "hopper")
DAMPINGS = (0.1, 1e-2, 1e-3, 1e-5, 0.0)
TOLERANCES = (0.1, 1e-2, 1e-3)
LONG = 200
"""Iterations of the long solves; in float64 they stand for the exact solution."""
ITERATIONS = (10, 20, 50)
"""Where float32 and float64 are compared."""
WARM_ITERATIONS = (2, 5, 10, 20)
WARM_DAMPING = 0.1
NUM_BATCHES = 8
"""Batches drawn from one policy: the bias is what is left of the error in their mean."""


def at_stages(env_id: str, stages: tuple[int, ...], quick: bool) -> list[Problem]:
    """Train with TRPO, δ = 0.01, and take a batch after each number of updates."""
    task = get_task(env_id, quick)
    return Case(env_id, task.keywords, task.config, task.hparams(), stages).draw()


def _systems(quick: bool) -> dict[tuple[str, int], Problem]:
    """{(environment, updates): problem}."""
    stages = (1,) if quick else (1, 20)
    return {
        (env_id, stage): problem
        for env_id in ENV_IDS[: 1 if quick else None]
        for stage, problem in zip(stages, at_stages(env_id, stages, quick), strict=True)
    }


def convergence(options: Options) -> Study:
    """C11: iterations of float64 CG until the residual is a share of ‖g‖, by damping."""
    count = 20 if options.quick else LONG
    rows, curves = [], {}
    for (env_id, updates), problem in _systems(options.quick).items():
        gradient = problems.gradient_of(problem.policy)(problem.params, problem.batch)
        solve = problems.solver(problem.policy, count, "float64")
        for damping in DAMPINGS:
            result = in_double(solve, problem.params, problem.batch, gradient, damping)
            relative = np.asarray(result.residual_norms) / result.residual_norms[0]
            row = {"environment": env_id, "updates": updates, "damping": f"{damping:g}"}
            for tolerance in TOLERANCES:
                below = np.flatnonzero(relative <= tolerance)
                row[f"to {tolerance:g}"] = str(below[0]) if below.size else f"> {count}"
            row["‖r‖/‖g‖ after 10"] = f"{relative[10]:.1e}"
            rows.append(row | {f"after {count}": f"{relative[-1]:.1e}"})
            curves.setdefault(f"{env_id}, after {updates} updates", {})[damping] = relative

    def draw():
        figure, axes = pictures.panels(len(curves), per_row=3)
        for axis, (title, own) in zip(axes, curves.items(), strict=True):
            for damping, relative in own.items():
                axis.semilogy(np.maximum(relative, 1e-12), label=f"λ = {damping:g}")
            axis.axvline(10, color="black", linewidth=0.8, linestyle=":")
            axis.set(title=title, xlabel="iteration", ylabel="‖r‖ / ‖g‖", ylim=(1e-8, 10))
        axes[0].legend(fontsize="small")
        return figure

    return Study(
        "C11",
        "C11: CG converges in a few dozen iterations",
        f"Real batches of policies that TRPO trained for so many updates; {count} iterations "
        "in float64, so that rounding plays no part. Iterations until ‖r‖ ≤ tolerance · ‖g‖.",
        rows,
        draw,
    )


def precisions(options: Options) -> Study:
    """C15: float32 against float64 on the same systems, for the same number of iterations."""
    found = [
        {"environment": env_id, "updates": updates, **row}
        for (env_id, updates), problem in _systems(options.quick).items()
        for row in precision.compared(
            problem, DAMPINGS, ITERATIONS[:1] if options.quick else ITERATIONS
        )
    ]
    rows = [
        {name: row[name] for name in ("environment", "updates", "damping", "iterations")}
        | {f"true residual {dtype}": f"{r:.1e}" for dtype, r in row["residual"].items()}
        | {
            "damping": f"{row['damping']:g}",
            "‖x₃₂ − x₆₄‖/‖x₆₄‖": f"{row['difference']:.1e}",
            "efficiency": f"{row['efficiency']:.4f}",
            "breakdown": "yes" if row["breakdown"] else "no",
        }
        for row in found
    ]

    def draw():
        figure, [axis] = pictures.panels(1)
        for iterations, marker in zip(ITERATIONS, "osx", strict=True):
            own = [row["residual"] for row in found if row["iterations"] == iterations]
            single, double = (np.maximum([r[d] for r in own], 1e-8) for d in ("float32", "float64"))
            axis.loglog(double, single, marker, label=f"{iterations} iterations")
        axis.axline((1e-8, 1e-8), (1, 1), color="black", linewidth=1)
        axis.set(xlabel="true residual / ‖g‖, float64", ylabel="true residual / ‖g‖, float32")
        axis.legend(title="one marker a system and damping", fontsize="small")
        return figure

    return Study(
        "C15",
        "C15: float32 is not enough for CG on some problems",
        "The same systems, the same number of iterations. The true residual ‖g − (H + λI)x‖/‖g‖ is "
        "computed in float64 from the solution. Efficiency: gain that the full step predicts, "
        "gᵀx / √(xᵀ(H + λI)x), of float32 as a share of float64's; 1 if the step is as good.",
        rows,
        draw,
    )


def warm_starts(options: Options) -> Study:
    """C16: bias of CG that starts from the last update's solution, which the library never does."""
    env_ids = ENV_IDS[: 1 if options.quick else None]
    rows = [row for env_id in env_ids for row in _warm_rows(env_id, options.quick)]

    def draw():
        figure, axes = pictures.panels(len(env_ids), per_row=3)
        for axis, env_id in zip(axes, env_ids, strict=True):
            own = [row for row in rows if row["environment"] == env_id]
            for what, marker in (("bias", "o"), ("error", "x")):
                for start, line in (("cold", "-"), ("warm", "--")):
                    column = f"{what} {start}"
                    values = [float(row[column]) for row in own]
                    axis.loglog(WARM_ITERATIONS, values, marker + line, label=column)
            axis.set(title=env_id, xlabel="CG iterations", ylabel="relative to the exact solution")
            axis.set_xticks(WARM_ITERATIONS, map(str, WARM_ITERATIONS))
            axis.minorticks_off()
        axes[0].legend(fontsize="small")
        return figure

    return Study(
        "C16",
        "C16: warm-starting CG biases the step",
        f"A policy after 10 updates of TRPO; {NUM_BATCHES} batches drawn from it, damping "
        f"{WARM_DAMPING:g}. Warm: from the last update's solution x₀. Exact: {LONG} iterations "
        "in float64 from zero. Bias: ‖mean of x − mean of exact x‖ / ‖mean of exact x‖ over "
        "the batches; error: mean of ‖x − exact x‖ / ‖exact x‖; towards x₀: the component of the "
        "error of the mean along x₀. Efficiency: predicted gain of the full step along x as a "
        "share of that along the exact x.",
        rows,
        draw,
    )


def _warm_rows(env_id: str, quick: bool) -> list[dict]:
    task = get_task(env_id, quick)
    agent, hparams = trpo_jax.make_trpo(task.make_env(), task.config), task.hparams()
    draw = jax.jit(lambda state: problems.next_problem(agent, task.config, state, hparams)[2:])
    before, _ = agent.train(agent.init(jax.random.key(0)), hparams, num_updates=1 if quick else 9)
    state, _ = agent.update(before, hparams)
    keys = jax.random.split(jax.random.key(1), 2 if quick else NUM_BATCHES)
    states = [before, *(state.replace(key=key) for key in keys)]
    last, *batches = (Problem(agent.policy, agent.critic, *draw(each)) for each in states)
    multiply, gradient_of = problems.exact_product(agent.policy), problems.gradient_of(agent.policy)

    def in_turn(fn, problem: Problem, vector) -> np.ndarray:
        return in_double(fn, problem.params, problem.batch, vector, WARM_DAMPING)

    def solved(count: int, dtype: str, problem: Problem, rhs) -> np.ndarray:
        return in_turn(problems.solver(agent.policy, count, dtype), problem, rhs).x

    exactly = partial(solved, LONG, "float64")
    start = exactly(last, gradient_of(last.params, last.batch))
    gradients = [np.asarray(gradient_of(p.params, p.batch)) for p in batches]
    pairs = list(zip(batches, gradients, strict=True))
    exact = np.stack([exactly(p, g) for p, g in pairs])
    best = [precision.predicted_gain(g, x, g) for x, g in zip(exact, gradients, strict=True)]
    rows = []
    for count in WARM_ITERATIONS:
        solve = partial(solved, count, "float32")
        kinds = {
            "cold": np.stack([solve(p, g) for p, g in pairs]),
            "warm": np.stack([start + solve(p, g - in_turn(multiply, p, start)) for p, g in pairs]),
        }
        row = {"environment": env_id, "iterations": count}
        for kind, x in kinds.items():
            row |= {f"{k} {kind}": f"{v:.3f}" for k, v in _measures(x, exact, start).items()}
            gains = [
                precision.predicted_gain(g, own, in_turn(multiply, p, own)) / gain
                for own, (p, g), gain in zip(x, pairs, best, strict=True)
            ]
            row[f"efficiency {kind}"] = f"{np.mean(gains):.4f}"
        rows.append(row)
    return rows


def _measures(x: np.ndarray, exact: np.ndarray, start: np.ndarray) -> dict[str, float]:
    """Bias, error and the share of the bias that points to x₀, of solutions [batches, P]."""
    bias, size = x.mean(axis=0) - exact.mean(axis=0), np.linalg.norm(exact.mean(axis=0))
    errors = np.linalg.norm(x - exact, axis=1) / np.linalg.norm(exact, axis=1)
    along = bias @ start / np.linalg.norm(start) / size
    return {"bias": np.linalg.norm(bias) / size, "error": errors.mean(), "towards x₀": along}
