"""The product with the curvature in other forms: which of them would be faster, and by how much?

python benchmarks/products.py [--quick]

All forms compute Jᵀ F J v of a tanh network with a Gaussian head, ten times in a loop, and take
turns. The library's is the linearisation that JAX makes; the others are written out by hand.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import operations
import problems
import report
from problems import TINY, Problem, Shape
from timing import interleaved, ratio

from trpo_jax.common import trees
from trpo_jax.solver.objective import curvature_product

SHAPES = (
    Shape(2048, 4, 2, (64, 64)),
    Shape(2048, 17, 6, (64, 64)),
    Shape(65536, 17, 6, (64, 64)),
    Shape(8192, 87, 8, (256, 256)),
)
ITERATIONS = 10
_BASE = "the library's"
_ROWS_IN_CACHE = 1024
_NOTE = """What was expected, what came, and why they differ:

- Vectors as trees: a few per cent, as ravel and unravel copy the parameters once each way; these
  are 4,000 to 90,000 numbers, and a layer of the batch has 130,000 to 4,200,000. Nothing came.
- Derivatives of tanh computed once: nothing, and so it was: the linearisation keeps them already.
- [x, dx]·[dW; W] as one product: faster, since one product of twice the depth runs nearer the big
  product's rate than two. Slower: the two halves must be copied side by side first, and where the
  layers are wide (256) the rate is the big product's either way.
- Blocks of rows that stay in the cache: faster at 65,536 rows, whose activations (17 MB a layer)
  fit in no cache. Slower: a loop of XLA on CPU copies each block out of the batch, and its products
  are too short to be shared by both cores.

None gains a tenth on two shapes, so the library keeps JAX's linearisation."""
_product = partial(jnp.dot, precision="highest")


def _layers(tree: Any) -> list[tuple[jax.Array, jax.Array]]:
    """(kernel, bias) of every layer, first to last."""
    body, head = tree["params"]["body"], tree["params"]["head"]
    dense = [body[name] for name in sorted(body)] + [head["Dense_0"]]
    return [(layer["kernel"], layer["bias"]) for layer in dense]


def _activations(layers: Any, obs: jax.Array) -> list[jax.Array]:
    """Inputs of all layers [B, ...]."""
    inputs = [obs]
    for kernel, bias in layers[:-1]:
        inputs.append(jnp.tanh(_product(inputs[-1], kernel) + bias))
    return inputs


def _written_out(layers, vectors, inputs, slopes, weight, joined: bool):
    """Products of one block of rows, as (kernel, bias) of every layer; `weight` [B, outputs]."""
    tangent = None
    for i, ((kernel, _), (step, shift)) in enumerate(zip(layers, vectors, strict=True)):
        if tangent is None:
            moved = _product(inputs[i], step)
        elif joined:
            both = jnp.concatenate([inputs[i], tangent], axis=1)
            moved = _product(both, jnp.concatenate([step, kernel], axis=0))
        else:
            moved = _product(inputs[i], step) + _product(tangent, kernel)
        moved = moved + shift
        tangent = slopes[i] * moved if i < len(slopes) else moved
    cotangent, found = weight * tangent, []
    for i in reversed(range(len(layers))):
        found.append((_product(inputs[i].T, cotangent), jnp.sum(cotangent, axis=0)))
        if i:
            cotangent = slopes[i - 1] * _product(cotangent, layers[i][0].T)
    return found[::-1]


def by_hand(problem: Problem, *, joined: bool = False, rows: int | None = None) -> Callable:
    """v ↦ Jᵀ F J v on flat vectors; `rows` at a time, the derivatives of tanh computed once."""
    layers, obs = _layers(problem.params), problem.batch.obs
    inputs = _activations(layers, obs)
    slopes = [1 - hidden**2 for hidden in inputs[1:]]
    scale = jnp.exp(-2 * problem.batch.distribution.log_std)
    weight = jnp.broadcast_to(scale, (obs.shape[0], scale.shape[-1])) / obs.shape[0]
    _, unravel = trees.ravel(problem.params)

    def product(vector: jax.Array) -> jax.Array:
        vectors, data = _layers(unravel(vector)), (inputs, slopes, weight)
        if rows is None:
            found = _written_out(layers, vectors, *data, joined)
        else:
            blocks = jax.tree.map(lambda leaf: leaf.reshape(-1, rows, leaf.shape[-1]), data)
            add = lambda total, block: (  # noqa: E731
                jax.tree.map(jnp.add, total, _written_out(layers, vectors, *block, joined)),
                None,
            )
            found, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, vectors), blocks)
        return _flat(problem, unravel(vector), found)

    return product


def _flat(problem: Problem, vector: Any, found: Any) -> jax.Array:
    """The products of all layers, and of log σ, whose Fisher matrix is 2, as one vector."""
    tree = jax.tree.map(lambda leaf: 2 * leaf, vector)
    body, head = tree["params"]["body"], tree["params"]["head"]
    for layer, (kernel, bias) in zip(
        [*(body[name] for name in sorted(body)), head["Dense_0"]], found, strict=True
    ):
        layer.update(kernel=kernel, bias=bias)
    return trees.ravel(tree)[0]


def library(problem: Problem) -> Callable:
    """The library's product, on flat vectors, as in conjugate gradients."""
    product = curvature_product(problem.objective, problem.params, problem.batch)
    _, unravel = trees.ravel(problem.params)
    return lambda vector: trees.ravel(product(unravel(vector)))[0]


def library_on_trees(problem: Problem) -> Callable:
    """The same without ravel and unravel: the vector is a tree of kernels throughout."""
    return curvature_product(problem.objective, problem.params, problem.batch)


FORMS: dict[str, Callable[[Problem], Callable]] = {
    _BASE: library,
    "the same, vectors as trees": library_on_trees,
    "written out, derivatives of tanh kept": by_hand,
    "the same, [x, dx]·[dW; W] as one product": partial(by_hand, joined=True),
    f"written out, {_ROWS_IN_CACHE} rows at a time": partial(by_hand, rows=_ROWS_IN_CACHE),
}


def loop(form: Callable, problem: Problem, on_trees: bool) -> Callable:
    """Ten products in a row, each of the normalised last."""

    def run(params: Any, batch: Any, start: Any) -> Any:
        product = form(problem._replace(params=params, batch=batch))
        step = lambda _, v: trees.scaled(1 / trees.norm(v), product(v))  # noqa: E731
        return jax.lax.fori_loop(0, ITERATIONS, step, start)

    flat, unravel = trees.ravel(problem.params)
    start = jax.random.normal(jax.random.key(1), flat.shape)
    arguments = problem.params, problem.batch, unravel(start) if on_trees else start
    return partial(jax.jit(run).lower(*arguments).compile(), *arguments)


def work(shape: Shape) -> tuple[float, float]:
    """GFLOP of one product, and the MB of activations, tangents and cotangents that it passes.

    Counted as if each layer read its input, its tangent and the slopes once on the way up, and its
    input and cotangent once on the way down, and wrote what it made.
    """
    sizes = (shape.obs, *shape.hidden, shape.actions)
    count = operations.operations(operations.curvature(shape.batch, sizes))
    columns = shape.obs * 2 + sum(7 * width for width in shape.hidden) + 4 * shape.actions
    return count / 1e9, 4 * shape.batch * columns / 1e6


def measured(shape: Shape, rounds: int) -> list[list[str]]:
    problem, (gigaflop, megabytes) = problems.make_problem(shape), work(shape)
    forms = {
        name: form
        for name, form in FORMS.items()
        if "at a time" not in name or shape.batch > _ROWS_IN_CACHE
    }
    calls = {n: loop(form, problem, form is library_on_trees) for n, form in forms.items()}
    expected = np.asarray(calls[_BASE]())
    rows, times = [], interleaved(calls, rounds)
    for name, call in calls.items():
        apart = np.linalg.norm(np.asarray(trees.ravel(call())[0]) - expected)
        rows.append([
            str(shape), name, f"{1e3 * times[name].min() / ITERATIONS:.3f}",
            f"{times[name].min() / times[_BASE].min():.2f}",
            f"{ratio(times, name, _BASE):.2f}",
            f"{apart / np.linalg.norm(expected):.0e}",
            f"{gigaflop:.3f}", f"{megabytes:.1f}",
            f"{gigaflop * ITERATIONS / times[name].min():.0f}",
        ])  # fmt: skip
    return rows


def main() -> None:
    arguments = report.parser(__doc__, "products.md").parse_args()
    shapes, rounds = ((TINY,), 2) if arguments.quick else (SHAPES, 25)
    rows = [row for shape in shapes for row in measured(shape, rounds)]
    header = ["shape", "form", "ms per product (least)", "of the library's (least)",
              "of the library's (median of turns)", "gap", "GFLOP", "MB passed",
              "GFLOP/s"]  # fmt: skip
    report.write(arguments.out, "Forms of the curvature product", report.table(header, rows), _NOTE)


if __name__ == "__main__":
    main()
