"""Would a preconditioner pay? Conjugate gradient iterations to a residual, on real batches.

python benchmarks/preconditioner.py [--quick]

In float64 NumPy, by the structure of the tanh network: no product is approximated, and the
preconditioners are the best that such ones can be, exact on the batch. Residuals are true ones.
A preconditioner pays if the products that it saves cost more than its own making, at least one
product's worth for each, on every update.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import report
from real_batches import CASES, draw_problem

TARGETS = (0.3, 0.1, 0.03, 0.01)
DAMPINGS = (1e-1, 1e-2, 1e-3)
LIMIT = 200


class Fisher:
    """Mean Fisher matrix of a two-hidden-layer tanh policy on a batch, as factors per layer.

    Row k of the square root of each example's matrix sends signals d back to each layer, whose
    inputs are a: its share of H is the mean of Σₖ (a ⊗ dₖ)(a ⊗ dₖ)ᵀ.
    """

    def __init__(self, params, batch):
        tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)["params"]
        layers = [tree["body"]["Dense_0"], tree["body"]["Dense_1"], tree["head"]["Dense_0"]]
        self.kernels = [layer["kernel"] for layer in layers]
        inputs, x = [], np.asarray(batch.obs, np.float64)
        for layer in layers:
            inputs.append(np.concatenate([x, np.ones((len(x), 1))], axis=1))
            out = x @ layer["kernel"] + layer["bias"]
            x = np.tanh(out)
        self.inputs, self.size = inputs, len(x)
        advantage = np.asarray(batch.advantage, np.float64)[:, None]
        eye, log_std = np.eye(out.shape[1]), tree["head"].get("log_std")
        if log_std is None:
            self.num_scales = 0
            p = np.exp(out - out.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            seeds = [np.sqrt(p[:, [k]]) * (eye[k] - p) for k in range(p.shape[1])]
            score, of_scale = advantage * (eye[np.asarray(batch.action)] - p), np.zeros(0)
        else:
            self.num_scales, std = len(log_std), np.exp(log_std)
            seeds = [np.broadcast_to(row / std, out.shape) for row in eye]
            z = (np.asarray(batch.action, np.float64) - out) / std
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
        return np.concatenate([*(block.ravel() for block in blocks), scales])

    def _split(self, vector):
        shapes = [(k.shape[0] + 1, k.shape[1]) for k in self.kernels]
        ends = np.cumsum([rows * columns for rows, columns in shapes])
        *blocks, scales = np.split(vector, ends)
        return [b.reshape(s) for b, s in zip(blocks, shapes, strict=True)], scales

    def product(self, vector):
        blocks, scales = self._split(vector)
        totals = [np.zeros_like(block) for block in blocks]
        pushed = [a @ block for a, block in zip(self.inputs, blocks, strict=True)]
        for signals in self.signals:
            along = sum((y * d).sum(1) for y, d in zip(pushed, signals, strict=True))
            for total, a, d in zip(totals, self.inputs, signals, strict=True):
                total += a.T @ (d * along[:, None]) / self.size
        return self._join(totals, 2 * scales)

    def diagonal(self):
        squares = [
            sum((a**2).T @ signals[i] ** 2 for signals in self.signals) / self.size
            for i, a in enumerate(self.inputs)
        ]
        return self._join(squares, 2 * np.ones(self.num_scales))

    def kronecker(self, damping):
        """v -> (A + π√λ I)⁻¹ v (G + √λ/π I)⁻¹ per layer. Martens & Grosse 2015, sec. 6.3."""
        inverses = []
        for i, a in enumerate(self.inputs):
            left = a.T @ a / self.size
            right = sum(signals[i].T @ signals[i] for signals in self.signals) / self.size
            pi = np.sqrt(np.trace(left) / len(left) / (np.trace(right) / len(right)))
            root = np.sqrt(damping)
            inverses.append(
                (
                    np.linalg.inv(left + pi * root * np.eye(len(left))),
                    np.linalg.inv(right + root / pi * np.eye(len(right))),
                )
            )

        def apply(vector):
            blocks, scales = self._split(vector)
            solved = [left @ b @ right for (left, right), b in zip(inverses, blocks, strict=True)]
            return self._join(solved, scales / (2 + damping))

        return apply


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
    _, params, batch = draw_problem(name)
    fisher, rows = Fisher(params, batch), []
    diagonal = fisher.diagonal()
    for damping in DAMPINGS[:1] if quick else DAMPINGS:
        preconditioners = {
            "none": lambda r: r,
            "diagonal": lambda r, d=diagonal + damping: r / d,
            "diagonal^¾": lambda r, d=(diagonal + damping) ** 0.75: r / d,
            "Kronecker": fisher.kronecker(damping),
        }
        for label, precondition in preconditioners.items():
            counts = iterations(
                lambda v, shift=damping: fisher.product(v) + shift * v,
                fisher.gradient,
                precondition,
            )
            rows.append([name, f"{damping:g}", label, *map(str, counts)])
            print(rows[-1], flush=True)
    return rows


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
        f"Iterations until ‖g − (H + λI)x‖ ≤ target · ‖g‖; {LIMIT} means that many or more.",
        report.table(header, rows),
    )


if __name__ == "__main__":
    main()
