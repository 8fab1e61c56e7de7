"""What a trust-region step maximises; its value and its curvature on a batch of examples."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.config import TRPOConfig
from trpo_jax.solver.batches import batch_sum
from trpo_jax.solver.curvature import MatVec, gauss_newton_product, linearized_hvp
from trpo_jax.solver.trees import Tree


class Objective(NamedTuple):
    """What is maximised, and in which metric the step is short: functions of a batch of examples.

    maximise  L(θ) = Σᵢ wᵢ gainᵢ(θ) / Σᵢ wᵢ   subject to   D(θ) = Σᵢ wᵢ divergenceᵢ(θ) / Σᵢ wᵢ ≤ δ.

    At the parameters where a step begins, gain, divergence and ∇divergence must be zero. A batch
    is a tree whose leaves have a leading axis B; `outputs` is any tree with that axis.
    """

    predict: Callable[[Tree, Tree], Tree]
    """(params, batch) -> outputs z of the network."""
    gain: Callable[[Tree, Tree], jax.Array]
    """(outputs, batch) -> [B]."""
    divergence: Callable[[Tree, Tree], jax.Array]
    """(outputs, batch) -> [B], each >= 0."""
    fisher_product: Callable[[Tree, Tree], Tree]
    """(outputs, tangent) -> F(z) · tangent, example by example, shaped like `outputs`."""
    weight: Callable[[Tree], jax.Array]
    """batch -> [B], each >= 0; zero for examples that do not count (but must be finite)."""


def evaluation(objective: Objective, batch: Tree, config: TRPOConfig):
    """candidate -> (L, D) on the batch: one forward pass for both."""
    weight = objective.weight(batch)
    total = jnp.sum(weight)

    def evaluate(candidate: Tree) -> tuple[jax.Array, jax.Array]:
        def sums(chunk, chunk_weight):
            outputs = objective.predict(candidate, chunk)
            gain = jnp.sum(chunk_weight * objective.gain(outputs, chunk))
            return gain, jnp.sum(chunk_weight * objective.divergence(outputs, chunk))

        gain, divergence = batch_sum(sums, batch, weight, config.curvature_chunk_size)
        return gain / total, divergence / total

    return evaluate


def curvature_product(
    objective: Objective, params: Tree, batch: Tree, config: TRPOConfig
) -> MatVec:
    """v ↦ H v. Linearised once for the whole batch; with micro-batches, anew for each of them."""
    weight = objective.weight(batch)
    total = jnp.sum(weight)
    chunk_size = config.curvature_chunk_size

    if config.curvature == "hvp":
        evaluate = evaluation(objective, batch, config)
        return linearized_hvp(lambda candidate: evaluate(candidate)[1], params)

    def product_on(chunk: Tree, chunk_weight: jax.Array) -> MatVec:
        def weighted_fisher_product(outputs: Tree, tangent: Tree) -> Tree:
            product = objective.fisher_product(outputs, tangent)
            share = chunk_weight / total
            return jax.tree.map(lambda leaf: _along(leaf, share) * leaf, product)

        return gauss_newton_product(
            lambda candidate: objective.predict(candidate, chunk), weighted_fisher_product, params
        )

    if chunk_size is None:
        return product_on(batch, weight)
    return lambda vector: batch_sum(
        lambda chunk, chunk_weight: product_on(chunk, chunk_weight)(vector),
        batch,
        weight,
        chunk_size,
    )


def _along(leaf: jax.Array, per_example: jax.Array) -> jax.Array:
    """[B] shaped so that it multiplies a leaf [B, …]."""
    return per_example.reshape(per_example.shape + (1,) * (leaf.ndim - 1))
