"""Where does float32 fail in conjugate gradients? True residuals in two precisions.

python benchmarks/precision.py residuals|time [--quick]

Real batches of three environments; H + λI with λ from 1e-1 to 1e-6, up to 100 iterations. The
residual is the true one, ‖g − (H + λI)x‖ / ‖g‖ in float64, not that of the recurrence. What an
update gains is judged by q(x) = gᵀx / √(xᵀ(H + λI)x): the improvement that the model predicts for a
step of given length, relative to that of float64 after as many iterations.
"""

import numpy as np
import pictures
import problems
import report
from problems import CASES, Problem, in_double
from timing import best, compiled, interleaved, ratio

import trpo_jax

ITERATIONS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
DAMPINGS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
DTYPES = ("float32", "float64")
FAILS = 0.99
PARTS = {"residuals": "True residuals", "time": "Time of a solve with 10 iterations"}


def predicted_gain(gradient, x, product) -> float:
    """gᵀx / √(xᵀAx): what a step along x of unit length in A gains to first order."""
    gradient, x, product = (np.asarray(v, float) for v in (gradient, x, product))
    return float(gradient @ x / np.sqrt(x @ product))


def compared(problem: Problem, dampings, iterations) -> list[dict]:
    """Per damping and number of iterations: how float32's solution differs from float64's.

    `residual` and `reported` (the recurrence's own) have an entry for each of the two.
    """
    policy, params, batch, rows = problem.policy, problem.params, problem.batch, []
    gradient = problems.gradient_of(policy)(params, batch)
    g, multiply = np.asarray(gradient, float), problems.exact_product(policy)
    for damping in dampings:
        for count in iterations:
            found, gains, residual, reported = [], [], {}, {}
            for dtype in DTYPES:
                solve = problems.solver(policy, count, dtype)
                result = in_double(solve, params, batch, gradient, damping)
                product = np.asarray(in_double(multiply, params, batch, result.x, damping))
                found.append(result)
                gains.append(predicted_gain(g, result.x, product))
                residual[dtype] = float(np.linalg.norm(g - product) / np.linalg.norm(g))
                reported[dtype] = float(result.residual_norms[-1] / np.linalg.norm(g))
            single, double = (np.asarray(result.x, float) for result in found)
            rows.append({
                "damping": damping,
                "iterations": count,
                "residual": residual,
                "reported": reported,
                "difference": float(np.linalg.norm(single - double) / np.linalg.norm(double)),
                "efficiency": gains[0] / gains[1],
                "breakdown": bool(found[0].breakdown),
            })  # fmt: skip
    return rows


def table_of(results: dict[str, list[dict]]) -> str:
    """Per case and damping: residuals after 10 and the most iterations, and where float32 fails."""
    table = []
    for name, rows in results.items():
        for damping in DAMPINGS:
            own = [row for row in rows if row["damping"] == damping]
            cells = {"batch": name, "damping": f"{damping:g}"}
            for row in [*(row for row in own if row["iterations"] == 10), own[-1]]:
                for dtype in DTYPES:
                    cells[f"{dtype}, {row['iterations']}"] = f"{row['residual'][dtype]:.1e}"
            failed = [row["iterations"] for row in own if not row["efficiency"] >= FAILS]
            cells["float32 loses 1 % of the gain from"] = failed[0] if failed else "–"
            table.append(cells)
    return report.records(table)


def draw(results: dict[str, list[dict]]):
    figure, axes = pictures.panels(len(results) * len(DAMPINGS), 2.5, 2.8, len(DAMPINGS))
    cells = [(name, damping) for name in results for damping in DAMPINGS]
    for axis, (name, damping) in zip(axes, cells, strict=True):
        own = [row for row in results[name] if row["damping"] == damping]
        counts = [row["iterations"] for row in own]
        for dtype, colour in zip(DTYPES, ("C3", "C0"), strict=True):
            values = [row["residual"][dtype] for row in own]
            axis.loglog(counts, values, colour, label=dtype)
        believed = [row["reported"]["float32"] for row in own]
        axis.loglog(counts, believed, "C3:", label="float32 believes")
        axis.set(xlabel="iterations", ylabel="‖g − (H + λI)x‖ / ‖g‖")
        axis.set_title(f"{name}, λ = {damping:g}", fontsize=9)
    axes[0].legend(fontsize=7)
    return figure


def time_of_solves(cases: dict, repeats: int) -> str:
    """Milliseconds of the library's policy step per precision, interleaved."""
    table = []
    for name, case in cases.items():
        [(policy, _, params, _, batch)] = case.draw()
        steps = {
            dtype: problems.policy_step(policy, trpo_jax.TRPOConfig(solver_dtype=dtype))
            for dtype in DTYPES
        }
        calls = {dtype: compiled(step, params, batch) for dtype, step in steps.items()}
        times = interleaved(calls, repeats)
        table.append({
            "batch": name,
            "float32, ms (best)": f"{1e3 * best(times)['float32']:.1f}",
            "float64 / float32 (median)": f"{ratio(times, 'float64', 'float32'):.2f}",
        })  # fmt: skip
    return report.records(table)


def main() -> None:
    arguments = report.parser(__doc__, "precision.md", PARTS).parse_args()
    cases = dict(list(CASES.items())[:1]) if arguments.quick else CASES
    if arguments.part == "residuals":
        iterations = ITERATIONS[1:3] if arguments.quick else ITERATIONS
        results = {}
        for name, case in cases.items():
            results[name] = compared(*case.draw(), DAMPINGS, iterations)
            print(name, flush=True)
        picture = pictures.save(draw(results), arguments.out.with_suffix(".png"))
        text = f"{table_of(results)}\n\n{picture}"
    else:
        text = time_of_solves(cases, 1 if arguments.quick else 31)
    title = "Conjugate gradients in two precisions"
    report.write_part(arguments.out, title, PARTS, arguments.part, text)


if __name__ == "__main__":
    main()
