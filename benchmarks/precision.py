"""Where does float32 fail in conjugate gradients? True residuals in three precisions.

python benchmarks/precision.py residuals|time [--quick]

Real batches of three environments; H + λI with λ from 1e-1 to 1e-6, up to 100 iterations. The
residual is the true one, ‖g − (H + λI)x‖ / ‖g‖ in float64, not that of the recurrence. What an
update gains is judged by q(x) = gᵀx / √(xᵀ(H + λI)x): the improvement that the model predicts for a
step of given length, relative to that of float64 after as many iterations.
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import report
from real_batches import CASES, draw_problem, flat_problem

import trpo_jax
from trpo_jax.learner.objective import make_objective
from trpo_jax.solver import trees

ITERATIONS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
DAMPINGS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
PRECISIONS = {
    "float32": (jnp.float32, jnp.float32),
    "mixed": (jnp.float32, jnp.float64),
    "float64": (jnp.float64, jnp.float64),
}
FAILS = 0.99
PARTS = {"residuals": "True residuals", "time": "Time of a solve with 10 iterations"}


def solver_of(policy, precision: str, iterations: tuple[int, ...]):
    """(params, batch, damping) -> per number of iterations: true and reported residual, q."""
    of_products, of_recurrences = PRECISIONS[precision]

    def solve(params, batch, damping):
        exact = flat_problem(policy, *trees.cast((params, batch), jnp.float64))
        problem = flat_problem(policy, *trees.cast((params, batch), of_products))
        gradient = flat_problem(policy, params, batch).gradient

        def damped(vector):
            product = problem.product(vector.astype(of_products)).astype(of_recurrences)
            return product + damping.astype(of_recurrences) * vector

        def judge(count):
            solution = trpo_jax.cg_solve(
                damped, gradient.astype(of_recurrences), max_iters=count, tol=0.0
            )
            x, target = solution.x.astype(jnp.float64), gradient.astype(jnp.float64)
            product = exact.product(x) + damping * x
            norm = jnp.linalg.norm(target)
            return (
                jnp.linalg.norm(target - product) / norm,
                solution.residual_norms[-1] / norm,
                (target @ x) / jnp.sqrt(x @ product),
            )

        return jnp.stack([jnp.stack(judge(count)) for count in iterations])

    return solve


def residuals(quick: bool) -> dict:
    """{(case, precision): [dampings, iterations, 3]}."""
    iterations = ITERATIONS[:3] if quick else ITERATIONS
    results = {}
    for name in list(CASES)[:1] if quick else CASES:
        policy, params, batch = draw_problem(name)
        with jax.enable_x64(True):
            for precision in PRECISIONS:
                solve = jax.jit(solver_of(policy, precision, iterations))
                runs = [solve(params, batch, jnp.float64(value)) for value in DAMPINGS]
                results[name, precision] = np.asarray(jnp.stack(runs))
                print(name, precision, flush=True)
    return results


def rows(results: dict) -> list[list[str]]:
    """Per case and damping: residuals after 10 and the most iterations, and where float32 fails."""
    table = []
    for name in dict.fromkeys(case for case, _ in results):
        for i, damping in enumerate(DAMPINGS):
            row = [name, f"{damping:g}"]
            ours = {precision: results[name, precision][i] for precision in PRECISIONS}
            ten = min(ITERATIONS.index(10), len(ours["float32"]) - 1)
            for at in (ten, -1):
                row += [f"{ours[precision][at, 0]:.1e}" for precision in PRECISIONS]
            for precision in ("float32", "mixed"):
                share = ours[precision][:, 2] / ours["float64"][:, 2]
                first = np.flatnonzero(~(share >= FAILS))
                row.append(str(ITERATIONS[first[0]]) if len(first) else "–")
            table.append(row)
    return table


HEADER = (
    "batch",
    "damping",
    *(f"{precision}, 10" for precision in PRECISIONS),
    *(f"{precision}, {ITERATIONS[-1]}" for precision in PRECISIONS),
    "float32 loses 1 % of the gain from",
    "mixed from",
)


def draw(results: dict, path: Path) -> None:
    names = list(dict.fromkeys(case for case, _ in results))
    figure, axes = plt.subplots(
        len(names), len(DAMPINGS), figsize=(15, 2.8 * len(names)), sharex=True, squeeze=False
    )
    for row, name in zip(axes, names, strict=True):
        for i, (axis, damping) in enumerate(zip(row, DAMPINGS, strict=True)):
            for precision, colour in zip(PRECISIONS, ("C3", "C1", "C0"), strict=True):
                values = results[name, precision][i]
                axis.loglog(ITERATIONS[: len(values)], values[:, 0], color=colour, label=precision)
            values = results[name, "float32"][i]
            axis.loglog(ITERATIONS[: len(values)], values[:, 1], "C3:", label="float32 believes")
            axis.set_title(f"{name}, λ = {damping:g}", fontsize=9)
        row[0].set_ylabel("‖g − (H + λI)x‖ / ‖g‖")
    for axis in axes[-1]:
        axis.set_xlabel("iterations")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def step_in(policy, precision: str):
    """The library's policy step, compiled on first use."""
    config = trpo_jax.TRPOConfig(solver_dtype=precision)
    hparams = trpo_jax.HParams(cg_tol=0.0).as_arrays()
    objective = make_objective(policy, 0.0)
    return jax.jit(lambda p, b: trpo_jax.trust_region_step(objective, p, b, hparams, config)[0])


def time_of_solves(repeats: int) -> list[list[str]]:
    """Milliseconds of the library's policy step per precision, interleaved."""
    table = []
    for name in CASES if repeats > 1 else list(CASES)[:1]:
        policy, params, batch = draw_problem(name)
        programs = {
            precision: step_in(policy, precision).lower(params, batch).compile()
            for precision in PRECISIONS
        }
        times = {precision: [] for precision in PRECISIONS}
        for _ in range(repeats):
            for precision, program in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(program(params, batch))
                times[precision].append(1e3 * (time.perf_counter() - start))
        base = np.array(times["float32"])
        ratios = [np.median(np.array(times[p]) / base) for p in ("mixed", "float64")]
        table.append([name, f"{np.min(base):.1f}", *(f"{ratio:.2f}" for ratio in ratios)])
    return table


def main() -> None:
    arguments = report.part_arguments(__doc__, PARTS, "precision.md")
    if arguments.part == "residuals":
        results = residuals(arguments.quick)
        draw(results, arguments.out.with_suffix(".png"))
        text = f"{report.table(HEADER, rows(results))}\n\n![residuals](precision.png)"
    else:
        header = ("batch", "float32, ms (best)", "mixed / float32", "float64 / float32 (medians)")
        text = report.table(header, time_of_solves(1 if arguments.quick else 31))
    report.write_part(
        arguments.out, "Conjugate gradients in three precisions", PARTS, arguments.part, text
    )
    print(text)


if __name__ == "__main__":
    main()
