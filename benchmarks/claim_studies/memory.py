"""C13: memory of Hessian-vector products, as the compiled programs themselves account for it."""

import jax
import jax.numpy as jnp
import numpy as np

from claim_studies import synthetic
from claim_studies.study import Options, Study, panels
from claim_studies.synthetic import Shape, Synthetic
from trpo_jax import HParams, TRPOConfig, gauss_newton_product, hvp, linearized_hvp
from trpo_jax.solver.trust_region import trust_region_step

SHAPES = (
    Shape(2048, 4, 2, (64, 64)),
    Shape(32768, 17, 6, (64, 64)),
    Shape(8192, 87, 8, (256, 256)),
)


def products(options: Options) -> Study:
    """C13: temporary memory of one product, and of a whole step, against forward-backward."""
    shapes = (Shape(64, 4, 2, (8,)),) if options.quick else SHAPES
    rows = []
    for shape in shapes:
        megabytes = {name: _temporary(*program) for name, program in _programs(shape).items()}
        base = megabytes["forward-backward"]
        rows += [[str(shape), name, f"{size:.2f}", f"{size / base:.2f}"]
                 for name, size in megabytes.items()]  # fmt: skip

    return Study(
        "C13",
        "C13: the Hessian-vector product doubles the memory of a forward-backward pass",
        "Temporary memory that the compiled program asks for (`memory_analysis`), without its "
        "arguments and results. Forward-backward is the gradient of the surrogate. A solve is ten "
        "iterations of conjugate gradients: what is linearised once stays in memory meanwhile.",
        ("batch × observations, policy", "program", "MB", "relative to forward-backward"),
        rows,
        lambda: _picture(rows),
    )


def _programs(shape: Shape) -> dict[str, tuple]:
    problem = synthetic.make(shape)
    vector = jax.tree.map(jnp.ones_like, problem.params)
    arguments = (problem.params, problem.batch, vector)

    def surrogate(params, batch):
        return jnp.mean(problem.objective.gain(problem.objective.predict(params, batch), batch))

    def mean_kl(params, batch):
        outputs = problem.objective.predict(params, batch)
        return jnp.mean(problem.objective.divergence(outputs, batch))

    def double_backward(params, batch, vector):
        def along(p):
            gradient = jax.grad(mean_kl)(p, batch)
            products = jax.tree.map(lambda g, v: jnp.sum(g * v), gradient, vector)
            return sum(jax.tree.leaves(products))

        return jax.grad(along)(params)

    def solve(curvature: str, chunk_size: int | None = None):
        config = TRPOConfig(curvature=curvature, curvature_chunk_size=chunk_size)
        return lambda p, b, v: trust_region_step(problem.objective, p, b, HParams(), config)[0]

    return {
        "forward-backward": (lambda p, b, v: jax.grad(surrogate)(p, b), arguments),
        "product, double backward": (double_backward, arguments),
        "product, hvp": (lambda p, b, v: hvp(lambda q: mean_kl(q, b), p, v), arguments),
        "product, linearized_hvp": (
            lambda p, b, v: linearized_hvp(lambda q: mean_kl(q, b), p)(v),
            arguments,
        ),
        "product, gauss_newton_product": (
            lambda p, b, v: _gauss_newton(problem, p, b)(v),
            arguments,
        ),
        "whole step, hvp": (solve("hvp"), arguments),
        "whole step, Gauss–Newton": (solve("gauss_newton"), arguments),
        "whole step, Gauss–Newton, chunks of an eighth": (
            solve("gauss_newton", shape.batch_size // 8),
            arguments,
        ),
    }


def _gauss_newton(problem: Synthetic, params, batch):
    size = batch.weight.shape[0]

    def mean(outputs, tangent):
        product = problem.objective.fisher_product(outputs, tangent)
        return jax.tree.map(lambda leaf: leaf / size, product)

    return gauss_newton_product(lambda p: problem.objective.predict(p, batch), mean, params)


def _temporary(program, arguments) -> float:
    """Megabytes of temporary buffers of the compiled program."""
    analysis = jax.jit(program).lower(*arguments).compile().memory_analysis()
    return analysis.temp_size_in_bytes / 1e6


def _picture(rows):
    shapes = list(dict.fromkeys(row[0] for row in rows))
    names = list(dict.fromkeys(row[1] for row in rows))
    figure, (axis,) = panels(1, width=7.5, height=4.5)
    height = 0.8 / len(shapes)
    for index, shape in enumerate(shapes):
        ratios = [float(row[3]) for row in rows if row[0] == shape]
        axis.barh(np.arange(len(names)) + index * height - 0.3, ratios, height, label=shape)
    axis.axvline(2, color="black", linewidth=1, linestyle="--")
    axis.set(yticks=range(len(names)), yticklabels=names)
    axis.set_xlabel("memory / forward-backward (dashed: 2×)")
    axis.invert_yaxis()
    axis.legend(fontsize="small")
    return figure
