"""Would a preconditioner pay? Conjugate gradient iterations to a residual, on real batches.

python benchmarks/preconditioner.py [--quick]

Iterations are counted in float64, and the preconditioners are the best that such ones can be, exact
on the batch, by the structure of the tanh network. Residuals are true ones. Times are those of
float32 JAX. A preconditioner pays if the products that it saves cost more than it does.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import problems
import report
from jax.flatten_util import ravel_pytree
from problems import CASES, Problem, flat_problem
from timing import best_of, compiled

TARGETS = (0.3, 0.1, 0.03, 0.01)
DAMPINGS = (1e-1, 1e-2, 1e-3)
LIMIT = 200


class Factors:
    """Mean Fisher matrix of a two-hidden-layer tanh policy on a batch, as factors per layer.

    Row k of the square root of each example's matrix sends signals d back to each layer, whose
    inputs are a: its share of H is the mean of Σₖ (a ⊗ dₖ)(a ⊗ dₖ)ᵀ.
    """

    def __init__(self, params, batch):
        self.unravel = ravel_pytree(params)[1]
        self.layers, log_std = _layers(params)
        self.inputs, x = [], batch.obs
        for layer in self.layers:
            self.inputs.append(jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1))
            out = x @ layer["kernel"] + layer["bias"]
            x = jnp.tanh(out)
        eye = jnp.eye(out.shape[1], dtype=out.dtype)
        if log_std is None:
            p = jax.nn.softmax(out)
            seeds = [jnp.sqrt(p[:, k : k + 1]) * (row - p) for k, row in enumerate(eye)]
        else:
            seeds = [jnp.broadcast_to(row / jnp.exp(log_std), out.shape) for row in eye]
        self.scales = None if log_std is None else jnp.full_like(log_std, 2.0)
        self.signals = [self._back(seed) for seed in seeds]

    def _back(self, signal):
        signals = [signal]
        for layer, a in zip(self.layers[:0:-1], self.inputs[:0:-1], strict=True):
            signals.insert(0, (signals[0] @ layer["kernel"].T) * (1 - a[:, :-1] ** 2))
        return signals

    def diagonal(self):
        """Of the matrix, [P]."""
        squares = [
            sum((a**2).T @ signals[i] ** 2 for signals in self.signals) / len(a)
            for i, a in enumerate(self.inputs)
        ]
        return _vector(squares, self.scales)

    def kronecker_inverses(self, damping):
        """Per layer (A + π√λ I)⁻¹ and (G + √λ/π I)⁻¹. Martens & Grosse 2015, sec. 6.3."""
        inverses, root = [], damping**0.5
        for i, a in enumerate(self.inputs):
            left = a.T @ a / len(a)
            right = sum(signals[i].T @ signals[i] for signals in self.signals) / len(a)
            pi = jnp.sqrt(jnp.trace(left) / len(left) / (jnp.trace(right) / len(right)))
            shifted = (
                left + pi * root * jnp.eye(len(left), dtype=left.dtype),
                right + root / pi * jnp.eye(len(right), dtype=left.dtype),
            )
            inverses.append(tuple(jnp.linalg.inv(matrix) for matrix in shifted))
        return inverses

    def precondition(self, inverses, damping, vector):
        """The vector [P], multiplied by those from the left and the right."""
        layers, scales = _layers(self.unravel(vector))
        blocks = [jnp.concatenate([layer["kernel"], layer["bias"][None]]) for layer in layers]
        solved = [left @ b @ right for (left, right), b in zip(inverses, blocks, strict=True)]
        return _vector(solved, None if scales is None else scales / (2 + damping))


def _layers(params):
    """The dense layers of a policy, and the logarithms of its scales if it has some."""
    body, head = params["params"]["body"], params["params"]["head"]
    return [body["Dense_0"], body["Dense_1"], head["Dense_0"]], head.get("log_std")


def _vector(blocks, scales):
    """Blocks of kernels, biases below, as parameters and those as a vector [P]."""
    first, second, last = ({"kernel": block[:-1], "bias": block[-1]} for block in blocks)
    head = {"Dense_0": last} | ({} if scales is None else {"log_std": scales})
    body = {"Dense_0": first, "Dense_1": second}
    return ravel_pytree({"params": {"body": body, "head": head}})[0]


def iterations(product, b, precondition) -> list[int]:
    """Iterations until ‖b − A x‖ / ‖b‖ is below each of the targets; LIMIT if it never is."""
    x, residual = np.zeros_like(b), b
    z = precondition(residual)
    direction, inner, counts = z, residual @ z, []
    for count in range(1, LIMIT + 1):
        along = product(direction)
        step = inner / (direction @ along)
        x, residual = x + step * direction, residual - step * along
        norm = np.linalg.norm(residual) / np.linalg.norm(b)
        while len(counts) < len(TARGETS) and norm <= TARGETS[len(counts)]:
            counts.append(count)
        if len(counts) == len(TARGETS):
            break
        z = precondition(residual)
        inner, before = residual @ z, inner
        direction = z + inner / before * direction
    return counts + [LIMIT] * (len(TARGETS) - len(counts))


def rows_of(name: str, problem: Problem, costs: dict, quick: bool) -> list[list[str]]:
    rows, policy = [], problem.policy
    wide = problems.cast((problem.params, problem.batch), jnp.float64)
    factors, multiply = Factors(*wide), problems.exact_product(policy)
    gradient, diagonal = flat_problem(policy, *wide).gradient, factors.diagonal()
    for damping in DAMPINGS[:1] if quick else DAMPINGS:
        kronecker = jax.jit(partial(factors.precondition, factors.kronecker_inverses(damping)))
        preconditioners = {
            "none": lambda r: r,
            "diagonal": lambda r, d=diagonal + damping: r / d,
            "diagonal^¾": lambda r, d=(diagonal + damping) ** 0.75: r / d,
            "Kronecker": partial(kronecker, damping),
        }
        for label, precondition in preconditioners.items():
            product = partial(lambda shift, v: multiply(*wide, v, shift), damping)
            counts = iterations(product, gradient, precondition)
            each, making = costs[label.removesuffix("^¾")]
            spent = [f"{n} ({making + n * each:.1f})" for n in counts]
            rows.append([name, f"{damping:g}", label, *spent])
            print(rows[-1], flush=True)
    return rows


def times(problem: Problem, repeats: int) -> dict[str, tuple[float, float]]:
    """ms of an iteration, and of what comes before the first: with each preconditioner.

    In float32 JAX: the library's product, and making and applying a preconditioner.
    """
    policy, damping = problem.policy, DAMPINGS[0]
    arguments = problem.params, problem.batch, problems.gradient_of(policy)(*problem[2::2])

    def ms(function, *arguments) -> float:
        return 1e3 * best_of(compiled(function, *arguments), repeats)

    def products(count: int):
        def run(params, batch, vector):
            product = flat_problem(policy, params, batch).product
            return jax.lax.fori_loop(0, count, lambda _, v: product(v), vector)

        return run

    def inverses(params, batch, vector):
        return Factors(params, batch).kronecker_inverses(damping)

    def apply(inverses, params, batch, vector):
        return Factors(params, batch).precondition(inverses, damping, vector)

    each = (ms(products(10), *arguments) - ms(products(1), *arguments)) / 9
    applying = ms(apply, jax.jit(inverses)(*arguments), *arguments)
    diagonal = ms(lambda p, b, v: Factors(p, b).diagonal(), *arguments)
    return {
        "none": (each, 0.0),
        "diagonal": (each, diagonal),
        "Kronecker": (each + applying, ms(inverses, *arguments)),
    }


def main() -> None:
    arguments = report.parser(__doc__, "preconditioner.md").parse_args()
    rows = []
    for name, case in list(CASES.items())[: 1 if arguments.quick else None]:
        [problem] = case.draw()
        costs = times(problem, 2 if arguments.quick else 30)
        with jax.enable_x64(True):
            rows += rows_of(name, problem, costs, arguments.quick)
    header = ("batch", "damping", "preconditioner", *(f"to {target:g}" for target in TARGETS))
    report.write(
        arguments.out,
        "Conjugate gradient iterations with and without a preconditioner",
        f"Iterations until ‖g − (H + λI)x‖ ≤ target · ‖g‖; {LIMIT} means that many or more. In "
        "brackets ms in float32 JAX: for making the preconditioner, and for so many products and "
        "applications of it, each measured by itself (least of 30).",
        report.table(header, rows),
    )


if __name__ == "__main__":
    main()
