"""Would a preconditioner pay? Conjugate gradient iterations to a residual, on real batches.

python benchmarks/preconditioner.py [--quick]

Iterations are counted in float64 NumPy, by the structure of the tanh network: no product is
approximated, and the preconditioners are the best that such ones can be, exact on the batch.
Residuals are true ones. Times are those of float32 JAX. A preconditioner pays if the products that
it saves cost more than it does.
"""

import argparse
import functools
import itertools
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import report
from real_batches import CASES, draw_problem, flat_problem

TARGETS = (0.3, 0.1, 0.03, 0.01)
DAMPINGS = (1e-1, 1e-2, 1e-3)
LIMIT = 200


class Fisher:
    """Mean Fisher matrix of a two-hidden-layer tanh policy on a batch, as factors per layer.

    Row k of the square root of each example's matrix sends signals d back to each layer, whose
    inputs are a: its share of H is the mean of Σₖ (a ⊗ dₖ)(a ⊗ dₖ)ᵀ. In NumPy, or in JAX with
    jax.numpy for `xp`.
    """

    def __init__(self, params, batch, xp=np, dtype=np.float64):
        self.xp = xp
        tree = jax.tree.map(lambda leaf: xp.asarray(leaf, dtype), params)["params"]
        layers = [tree["body"]["Dense_0"], tree["body"]["Dense_1"], tree["head"]["Dense_0"]]
        self.kernels = [layer["kernel"] for layer in layers]
        inputs, x = [], xp.asarray(batch.obs, dtype)
        for layer in layers:
            inputs.append(xp.concatenate([x, xp.ones((len(x), 1), dtype)], axis=1))
            out = x @ layer["kernel"] + layer["bias"]
            x = xp.tanh(out)
        self.inputs, self.size = inputs, len(x)
        advantage = xp.asarray(batch.advantage, dtype)[:, None]
        eye, log_std = xp.eye(out.shape[1], dtype=dtype), tree["head"].get("log_std")
        if log_std is None:
            self.num_scales = 0
            p = xp.exp(out - out.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            seeds = [xp.sqrt(p[:, k : k + 1]) * (eye[k] - p) for k in range(p.shape[1])]
            score, of_scale = advantage * (eye[xp.asarray(batch.action)] - p), xp.zeros(0, dtype)
        else:
            self.num_scales, std = len(log_std), xp.exp(log_std)
            seeds = [xp.broadcast_to(row / std, out.shape) for row in eye]
            z = (xp.asarray(batch.action, dtype) - out) / std
            score, of_scale = advantage * z / std, (advantage * (z**2 - 1)).mean(0)
        self.signals = [self._back(seed) for seed in seeds]
        self.gradient = self._join(
            [a.T @ d / self.size for a, d in zip(inputs, self._back(score), strict=True)], of_scale
        )

    def _back(self, signal):
        signals = [signal]
        for kernel, a in zip(self.kernels[:0:-1], self.inputs[:0:-1], strict=True):
            signals.insert(0, (signals[0] @ kernel.T) * (1 - a[:, :-1] ** 2))
        return signals

    def _join(self, blocks, scales):
        return self.xp.concatenate([*(block.ravel() for block in blocks), scales])

    def _split(self, vector):
        shapes = [(k.shape[0] + 1, k.shape[1]) for k in self.kernels]
        ends = list(itertools.accumulate(rows * columns for rows, columns in shapes))
        *blocks, scales = self.xp.split(vector, ends)
        return [b.reshape(s) for b, s in zip(blocks, shapes, strict=True)], scales

    def product(self, vector):
        blocks, scales = self._split(vector)
        totals = [0.0] * len(blocks)
        pushed = [a @ block for a, block in zip(self.inputs, blocks, strict=True)]
        for signals in self.signals:
            along = sum((y * d).sum(1) for y, d in zip(pushed, signals, strict=True))
            shares = zip(totals, self.inputs, signals, strict=True)
            totals = [total + a.T @ (d * along[:, None]) / self.size for total, a, d in shares]
        return self._join(totals, 2 * scales)

    def diagonal(self):
        squares = [
            sum((a**2).T @ signals[i] ** 2 for signals in self.signals) / self.size
            for i, a in enumerate(self.inputs)
        ]
        return self._join(squares, 2 * self.xp.ones(self.num_scales))

    def kronecker_inverses(self, damping):
        """Per layer (A + π√λ I)⁻¹ and (G + √λ/π I)⁻¹. Martens & Grosse 2015, sec. 6.3."""
        xp, inverses, root = self.xp, [], damping**0.5
        for i, a in enumerate(self.inputs):
            left = a.T @ a / self.size
            right = sum(signals[i].T @ signals[i] for signals in self.signals) / self.size
            pi = xp.sqrt(xp.trace(left) / len(left) / (xp.trace(right) / len(right)))
            shifted = (
                left + pi * root * xp.eye(len(left), dtype=left.dtype),
                right + root / pi * xp.eye(len(right), dtype=left.dtype),
            )
            inverses.append(tuple(xp.linalg.inv(matrix) for matrix in shifted))
        return inverses

    def precondition(self, inverses, damping, vector):
        """The vector, multiplied by those from the left and the right."""
        blocks, scales = self._split(vector)
        solved = [left @ b @ right for (left, right), b in zip(inverses, blocks, strict=True)]
        return self._join(solved, scales / (2 + damping))


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


def rows_of(name: str, quick: bool) -> list[list[str]]:
    policy, params, batch = draw_problem(name)
    fisher, rows = Fisher(params, batch), []
    diagonal, costs = fisher.diagonal(), times(policy, params, batch, 2 if quick else 30)
    for damping in DAMPINGS[:1] if quick else DAMPINGS:
        preconditioners = {
            "none": lambda r: r,
            "diagonal": lambda r, d=diagonal + damping: r / d,
            "diagonal^¾": lambda r, d=(diagonal + damping) ** 0.75: r / d,
            "Kronecker": functools.partial(
                fisher.precondition, fisher.kronecker_inverses(damping), damping
            ),
        }
        for label, precondition in preconditioners.items():
            counts = iterations(
                lambda v, shift=damping: fisher.product(v) + shift * v,
                fisher.gradient,
                precondition,
            )
            cost = costs["Kronecker" if label == "Kronecker" else "diagonal"]
            each, making = (costs["none"].each, 0.0) if label == "none" else cost
            spent = [f"{n} ({making + n * each:.1f})" for n in counts]
            rows.append([name, f"{damping:g}", label, *spent])
            print(rows[-1], flush=True)
    return rows


class Cost(NamedTuple):
    """ms of an iteration, and of what comes before the first."""

    each: float
    making: float


def times(policy, params, batch, repeats: int) -> dict[str, Cost]:
    """In float32 JAX: the library's product, and making and applying a preconditioner."""
    problem = flat_problem(policy, params, batch)

    def best(function, *arguments) -> float:
        program = jax.jit(function).lower(*arguments).compile()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            seconds.append(time.perf_counter() - start)
        return 1e3 * min(seconds)

    def fisher(p, b):
        return Fisher(p, b, jnp, jnp.float32)

    def product(p, b, vector):
        return flat_problem(policy, p, b).product(vector)

    def ten_products(p, b, vector):
        product = flat_problem(policy, p, b).product
        return jax.lax.fori_loop(0, 10, lambda _, v: product(v), vector)

    arguments = params, batch, problem.gradient
    each = (best(ten_products, *arguments) - best(product, *arguments)) / 9
    inverses = jax.jit(lambda p, b: fisher(p, b).kronecker_inverses(DAMPINGS[0]))(params, batch)
    applying = best(
        lambda i, p, b, v: fisher(p, b).precondition(i, DAMPINGS[0], v), inverses, *arguments
    )
    making = best(lambda p, b: fisher(p, b).kronecker_inverses(DAMPINGS[0]), params, batch)
    diagonal = best(lambda p, b: fisher(p, b).diagonal(), params, batch)
    return {
        "none": Cost(each, 0.0),
        "diagonal": Cost(each, diagonal),
        "Kronecker": Cost(each + applying, making),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a miniature, for the tests")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "preconditioner.md")
    arguments = parser.parse_args()
    names = list(CASES)[:1] if arguments.quick else list(CASES)
    rows = [row for name in names for row in rows_of(name, arguments.quick)]
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
