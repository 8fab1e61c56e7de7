"""How many floating-point operations an update takes, and of which matrix products they are.

A product of [B, i] and [i, o] counts 2·B·i·o; everything else (activations, distributions, sums)
is left out, so that what is counted is a lower bound.
"""

import itertools
from collections import Counter
from typing import NamedTuple

from problems import Shape


class Product(NamedTuple):
    """One kind of matrix product of a dense layer with weights [i, o]."""

    kind: str
    """"forward" x·W, "back" ct·Wᵀ, or "weights" xᵀ·ct."""
    rows: int
    i: int
    o: int

    @property
    def operations(self) -> float:
        """2·rows·i·o."""
        return 2.0 * self.rows * self.i * self.o


Products = Counter[Product]


def forward(rows: int, sizes: tuple[int, ...]) -> Products:
    """One pass through layers of the given sizes, from observation to output."""
    return Counter(Product("forward", rows, i, o) for i, o in itertools.pairwise(sizes))


def backward(rows: int, sizes: tuple[int, ...]) -> Products:
    """Gradient of the weights, given the activations; none of the observation."""
    products: Products = Counter()
    for layer, (i, o) in enumerate(itertools.pairwise(sizes)):
        products[Product("weights", rows, i, o)] += 1
        products[Product("back", rows, i, o)] += layer > 0
    return +products


def curvature(rows: int, sizes: tuple[int, ...]) -> Products:
    """Jᵀ F J v: forward derivative (both x·dW and dx·W, but for the observation), then back."""
    products = forward(rows, sizes) + backward(rows, sizes)
    for i, o in itertools.pairwise(sizes[1:]):
        products[Product("forward", rows, i, o)] += 1
    return products


def times(count: int, products: Products) -> Products:
    """`count` times the same products."""
    return Counter({product: count * number for product, number in products.items()})


def policy_step(shape: Shape, cg_iterations: int, evaluations: int) -> Products:
    """Gradient (its forward pass serves the linearisation too), CG, line search."""
    sizes = (shape.obs, *shape.hidden, shape.actions)
    passes = forward(shape.batch, sizes)
    gradient = passes + backward(shape.batch, sizes)
    products = times(cg_iterations, curvature(shape.batch, sizes))
    return gradient + products + times(evaluations, passes)


def value_fit(shape: Shape, epochs: int, minibatch: int) -> Products:
    """Forward and backward passes of every minibatch; two evaluations of the loss."""
    sizes = (shape.obs, *shape.hidden, 1)
    step = forward(minibatch, sizes) + backward(minibatch, sizes)
    return times(epochs * shape.batch // minibatch, step) + times(2, forward(shape.batch, sizes))


def operations(products: Products) -> float:
    """Floating-point operations in all."""
    return sum(number * product.operations for product, number in products.items())
