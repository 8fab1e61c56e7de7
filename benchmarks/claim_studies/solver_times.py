"""C10 and C12: what line searches and CG iterations cost, timed interleaved."""

from collections.abc import Callable

import baselines
import jax
import jax.numpy as jnp
import numpy as np

from claim_studies import synthetic
from claim_studies.stopwatch import interleaved
from claim_studies.study import Options, Study, panels
from claim_studies.synthetic import Shape
from trpo_jax import cg_solve, gauss_newton_product


def line_search_and_cg(options: Options) -> Study:
    """C10: one evaluation of the line search against one iteration, and ten, of CG."""
    shapes = _shapes(options.quick)
    rounds = 3 if options.quick else 20
    rows = []
    for shape in shapes:
        problem = synthetic.make(shape)
        times = interleaved(_parts(problem), rounds if shape.batch_size < 32768 else 7)
        evaluation, solve = times["evaluation"], times["solve"]
        rows.append([str(shape), f"{1e3 * np.median(evaluation):.2f}",
                     f"{1e3 * np.median(solve):.2f}", f"{np.median(evaluation / solve):.3f}",
                     f"{np.median(11 * evaluation / solve):.2f}"])  # fmt: skip

    return Study(
        "C10",
        "C10: the line search is cheap beside CG",
        "An evaluation: surrogate and KL of one candidate, one forward pass; a line search takes "
        "one as a rule and 11 at most. CG: linearisation and ten iterations. Each compiled alone.",
        ("batch × observations, policy", "one evaluation, ms", "CG, ms", "one evaluation / CG",
         "eleven evaluations / CG"),
        rows,
        lambda: _shares(rows),
    )  # fmt: skip


def iteration_cost(options: Options) -> Study:
    """C12: time of a CG iteration against batch size and against the number of parameters."""
    base = Shape(64, 17, 6, (8, 8)) if options.quick else Shape(2048, 17, 6, (64, 64))
    batches = (64, 128) if options.quick else (512, 2048, 8192, 32768)
    widths = (8, 16) if options.quick else (32, 64, 128, 256, 512)
    shapes = [base._replace(batch_size=size) for size in batches]
    shapes += [base._replace(hidden_sizes=(width, width)) for width in widths]
    shapes = list(dict.fromkeys(shapes))
    problems = {shape: synthetic.make(shape) for shape in shapes}
    calls = {str(shape): _iterations(problem) for shape, problem in problems.items()}
    times = interleaved(calls, 3 if options.quick else 9)
    rows = []
    for shape, problem in problems.items():
        own = times[str(shape)] / 20
        work = shape.batch_size * problem.num_params
        rows.append([shape.batch_size, f"{shape.hidden_sizes[0]}²", problem.num_params,
                     f"{1e3 * np.median(own):.3f}",
                     f"{1e9 * np.median(own) / work:.3f}"])  # fmt: skip
    slopes = [_slope(rows, varied, base) for varied in (0, 2)]
    return Study(
        "C12",
        "C12: a CG iteration costs O(batch × parameters)",
        "A twentieth of the time of CG with 20 iterations, 17 observations, 6 actions. Exponent "
        f"of a fit t ∝ sizeᵃ: {slopes[0]:.2f} in the batch at 64×64, {slopes[1]:.2f} in the "
        "parameters at a batch of 2048. The last column would be constant if the claim were exact.",
        ("batch", "hidden", "parameters", "ms per iteration", "ns per example and parameter"),
        rows,
        lambda: _scaling(rows, base),
    )


def _shapes(quick: bool) -> tuple[Shape, ...]:
    if quick:
        return (Shape(64, 4, 2, (8,)),)
    return (
        Shape(2048, 4, 2, (64, 64)),
        Shape(2048, 17, 6, (64, 64)),
        Shape(32768, 17, 6, (64, 64)),
        Shape(8192, 87, 8, (256, 256)),
    )


def _product(problem, params, batch):
    share = 1 / batch.weight.shape[0]

    def mean(outputs, tangent):
        product = problem.objective.fisher_product(outputs, tangent)
        return jax.tree.map(lambda leaf: share * leaf, product)

    product = gauss_newton_product(lambda p: problem.objective.predict(p, batch), mean, params)
    return lambda v: jax.tree.map(lambda h, x: h + 0.1 * x, product(v), v)


def _solve(problem, iterations: int):
    """Compiled CG from linearisation to solution, always all iterations."""
    rhs = jax.tree.map(jnp.ones_like, problem.params)

    def solve(params, batch):
        return cg_solve(_product(problem, params, batch), rhs, max_iters=iterations, tol=0.0).x

    return jax.jit(solve)


def _parts(problem) -> dict[str, Callable[[], object]]:
    evaluate = jax.jit(lambda p, b: baselines.evaluate(problem.objective, p, b))
    solve = _solve(problem, 10)
    return {
        "evaluation": lambda: evaluate(problem.params, problem.batch),
        "solve": lambda: solve(problem.params, problem.batch),
    }


def _iterations(problem) -> Callable[[], object]:
    solve = _solve(problem, 20)
    return lambda: solve(problem.params, problem.batch)


def _varied(rows: list, varied: int, base: Shape) -> list:
    """The rows in which only the batch (column 0) or only the parameters (column 2) vary."""
    if varied == 0:
        return [row for row in rows if row[1] == f"{base.hidden_sizes[0]}²"]
    return [row for row in rows if row[0] == base.batch_size]


def _slope(rows: list, varied: int, base: Shape) -> float:
    own = _varied(rows, varied, base)
    sizes, times = [row[varied] for row in own], [float(row[3]) for row in own]
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def _shares(rows: list):
    figure, (axis,) = panels(1, width=6.5)
    labels = ("one evaluation, the rule", "eleven, the most")
    for offset, column, label in zip((-0.2, 0.2), (3, 4), labels, strict=True):
        heights = [float(row[column]) for row in rows]
        bars = axis.barh(np.arange(len(rows)) + offset, heights, 0.38, label=label)
        axis.bar_label(bars, [f"{height:.0%}" for height in heights], padding=3)
    axis.set(yticks=range(len(rows)), yticklabels=[row[0] for row in rows])
    axis.set(xlabel="time of the line search / time of ten CG iterations", xlim=(0, 1.1))
    axis.axvline(1, color="black", linewidth=1)
    axis.legend(fontsize="small")
    axis.invert_yaxis()
    return figure


def _scaling(rows: list, base: Shape):
    figure, axes = panels(2)
    for axis, varied, label in zip(axes, (0, 2), ("batch", "parameters"), strict=True):
        own = sorted(_varied(rows, varied, base), key=lambda row: row[varied])
        sizes, times = [row[varied] for row in own], [float(row[3]) for row in own]
        axis.loglog(sizes, times, "o-", label="measured")
        line = times[-1] * np.array(sizes) / sizes[-1]
        axis.loglog(sizes, line, "k--", linewidth=1, label="proportional, through the last")
        axis.set(xlabel=label, ylabel="ms per CG iteration")
        axis.legend(fontsize="small")
    return figure
