"""C16: CG that starts from the last update's solution. The library never does; this file does."""

import jax
import jax.numpy as jnp
import numpy as np

import trpo_jax
from claim_studies import problems
from claim_studies.settings import get_task
from claim_studies.study import Options, Study, panels

DAMPING = 0.1
EXACT = 200
"""Iterations in float64 that stand for the exact solution."""
ITERATIONS = (2, 5, 10, 20)
_LINES = (
    (2, "bias, cold", "o-"),
    (3, "bias, warm", "o--"),
    (4, "error, cold", "x-"),
    (5, "error, warm", "x--"),
)
NUM_BATCHES = 8
"""Batches drawn from one policy: the bias is what is left of the error in their mean."""


def warm_starts(options: Options) -> Study:
    """C16: bias of the truncated solution with a cold and with a warm start."""
    env_ids = ("CartPole-v1",) if options.quick else ("CartPole-v1", "Pendulum-v1", "hopper")
    rows = [row for env_id in env_ids for row in _rows(env_id, options.quick)]
    return Study(
        "C16",
        "C16: warm-starting CG biases the step",
        f"A policy after 10 updates of TRPO; {NUM_BATCHES} batches drawn from it, damping "
        f"{DAMPING:g}. Warm: from the last update's solution x₀. Exact: {EXACT} iterations "
        "in float64 from zero. Bias: ‖mean of x − mean of exact x‖ / ‖mean of exact x‖ over "
        "the batches; error: mean of ‖x − exact x‖ / ‖exact x‖; towards x₀: the component of the "
        "error of the mean along x₀. Efficiency: predicted gain of the full step along x as a "
        "share of that along the exact x.",
        ("environment", "iterations", "bias cold", "bias warm", "error cold", "error warm",
         "towards x₀ cold", "towards x₀ warm", "efficiency cold", "efficiency warm"),
        rows,
        lambda: _picture(rows),
    )  # fmt: skip


def _rows(env_id: str, quick: bool) -> list[list]:
    task = get_task(env_id, quick)
    agent = trpo_jax.make_trpo(task.make_env(), task.config)
    state = agent.init(jax.random.key(0))
    for _ in range(2 if quick else 10):
        before = problems.problem_of(agent, task, state) if _is_last(state, quick) else None
        state, _ = agent.update(state, task.hparams())
    damping, exact = jnp.float32(DAMPING), problems.solver(agent.policy, EXACT, "float64")
    assert before is not None
    start = exact(before.params, before.batch, before.gradient, damping).x

    batches = []
    for key in jax.random.split(jax.random.key(1), 2 if quick else NUM_BATCHES):
        batches.append(problems.problem_of(agent, task, state.replace(key=key)))
    solutions = np.stack([exact(p.params, p.batch, p.gradient, damping).x for p in batches])
    multiply = problems.exact_product(agent.policy)
    rows = []
    for iterations in ITERATIONS:
        solve = problems.solver(agent.policy, iterations, "float32")
        cold, warm = [], []
        for p in batches:
            shift = multiply(p.params, p.batch, start, damping)
            cold.append(solve(p.params, p.batch, p.gradient, damping).x)
            warm.append(start + solve(p.params, p.batch, p.gradient - shift, damping).x)
        cold, warm = np.stack(cold), np.stack(warm)
        gains = [_efficiency(x, solutions, batches, multiply) for x in (cold, warm)]
        measures = [_measures(x, solutions, np.asarray(start)) for x in (cold, warm)]
        pairs = [f"{value:.3f}" for pair in zip(*measures, strict=True) for value in pair]
        rows.append([env_id, iterations, *pairs, *(f"{gain:.4f}" for gain in gains)])
    return rows


def _is_last(state, quick: bool) -> bool:
    return int(state.num_updates) == (1 if quick else 9)


def _measures(x: np.ndarray, exact: np.ndarray, start: np.ndarray) -> tuple[float, float, float]:
    """Bias, error and the share of the bias that points to x₀, of solutions [batches, P]."""
    bias = x.mean(axis=0) - exact.mean(axis=0)
    size = np.linalg.norm(exact.mean(axis=0))
    errors = np.linalg.norm(x - exact, axis=1) / np.linalg.norm(exact, axis=1)
    along = bias @ start / np.linalg.norm(start) / size
    return float(np.linalg.norm(bias) / size), float(errors.mean()), float(along)


def _efficiency(x: np.ndarray, exact: np.ndarray, batches, multiply) -> float:
    """Predicted gain along x as a share of that along the exact solution, mean over batches."""
    shares = []
    for solution, best, p in zip(x, exact, batches, strict=True):
        product = multiply(p.params, p.batch, jnp.asarray(solution), jnp.float32(DAMPING))
        gradient = np.asarray(p.gradient, float)
        # For the exact x, xᵀ(H + λI)x is gᵀx.
        best_gain = np.sqrt(gradient @ np.asarray(best, float))
        own = gradient @ solution / np.sqrt(solution @ np.asarray(product, float))
        shares.append(own / best_gain)
    return float(np.mean(shares))


def _picture(rows):
    names = list(dict.fromkeys(row[0] for row in rows))
    figure, axes = panels(len(names), per_row=3)
    for axis, env_id in zip(axes, names, strict=True):
        own = [row for row in rows if row[0] == env_id]
        iterations = [row[1] for row in own]
        for column, label, style in _LINES:
            axis.loglog(iterations, [float(row[column]) for row in own], style, label=label)
        axis.set(title=env_id, xlabel="CG iterations", ylabel="relative to the exact solution")
        axis.set_xticks(iterations, map(str, iterations))
        axis.minorticks_off()
    axes[0].legend(fontsize="small")
    return figure
