"""What a trust-region step maximises, and its value and curvature on a batch of examples."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from trpo_jax.common.batches import batch_sum, micro_batch
from trpo_jax.common.trees import Tree
from trpo_jax.solver.curvature import MatVec, gauss_newton_product, linearized_hvp

Curvature = Literal["gauss_newton", "hvp"]


class Objective(NamedTuple):
    """The function to maximise and the divergence that bounds the step, per example of a batch.

    maximise  L(θ) = Σᵢ wᵢ gainᵢ(θ) / Σᵢ wᵢ   subject to   D(θ) = Σᵢ wᵢ divergenceᵢ(θ) / Σᵢ wᵢ ≤ δ.

    At the parameters where a step starts, gain, divergence and ∇divergence must be zero. A batch
    is a tree whose leaves have a leading axis B; `outputs` is any tree with that axis. An example
    may consist of parts with weights of their own, such as the steps of a sequence: then [B] below
    reads [B, T], and i goes over all parts of all examples.
    """

    predict: Callable[[Tree, Tree], Tree]
    """(params, batch) -> outputs z of the network."""
    gain: Callable[[Tree, Tree], jax.Array]
    """(outputs, batch) -> [B]."""
    divergence: Callable[[Tree, Tree], jax.Array]
    """(outputs, batch) -> [B], each >= 0."""
    fisher_product: Callable[[Tree, Tree], Tree] | None = None
    """(outputs, tangent) -> F(z) · tangent for each example, shaped like `outputs`; F is the
    Hessian of the divergence in z. None: only curvature="hvp" works."""
    weight: Callable[[Tree], jax.Array] | None = None
    """batch -> [B], each >= 0; zero for examples to ignore (which must still be finite). None: all
    weights are 1."""
    constraints: Callable[[Tree, Tree], Tree] | None = None
    """(outputs, batch) -> a tree of [B]; an acceptance rule gets their weighted means in addition
    to L and D. None: nothing."""

    def weights(self, batch: Tree) -> jax.Array:
        """The weights of the examples of a batch, [B]."""
        if self.weight is not None:
            return self.weight(batch)
        return jnp.ones(jax.tree.leaves(batch)[0].shape[0])


def evaluation(
    objective: Objective, batch: Tree, *, chunk_size: int | None = None
) -> Callable[[Tree], tuple]:
    """candidate -> (L, D) on the batch, or (L, D, constraints), in one forward pass."""
    weight = objective.weights(batch)
    total = jnp.sum(weight)

    def evaluate(candidate: Tree) -> tuple:
        def sums(chunk, chunk_weight):
            outputs = objective.predict(candidate, chunk)
            parts = [objective.gain(outputs, chunk), objective.divergence(outputs, chunk)]
            if objective.constraints is not None:
                parts.append(objective.constraints(outputs, chunk))
            return jax.tree.map(lambda part: jnp.sum(chunk_weight * part), tuple(parts))

        return jax.tree.map(lambda s: s / total, batch_sum(sums, batch, weight, chunk_size))

    return evaluate


def curvature_product(
    objective: Objective,
    params: Tree,
    batch: Tree,
    *,
    curvature: Curvature = "gauss_newton",
    chunk_size: int | None = None,
) -> MatVec:
    """v ↦ H v, with H = ∇²D(params), by jvp of grad of D ("hvp") or Jᵀ F J v ("gauss_newton").

    Linearised once for the whole batch, or again for each micro-batch. Raises `ValueError` if
    curvature="gauss_newton" and the objective has no Fisher product.
    """
    require_curvature(curvature, objective)
    weight = objective.weights(batch)
    total = jnp.sum(weight)

    if curvature == "hvp":
        # Only the divergence: gains may close over traced numbers, which float64 cannot take in.
        def mean_divergence(candidate: Tree) -> jax.Array:
            def of(chunk: Tree, chunk_weight: jax.Array) -> jax.Array:
                outputs = objective.predict(candidate, chunk)
                return jnp.sum(chunk_weight * objective.divergence(outputs, chunk))

            return batch_sum(of, batch, weight, chunk_size) / total

        return linearized_hvp(mean_divergence, params)

    fisher_product = objective.fisher_product
    assert fisher_product is not None  # for the type checker; `require_curvature` ensures it

    def product_on(chunk: Tree, chunk_weight: jax.Array) -> MatVec:
        def weighted_fisher_product(outputs: Tree, tangent: Tree) -> Tree:
            product = fisher_product(outputs, tangent)
            share = chunk_weight / total
            return jax.tree.map(lambda leaf: _along(leaf, share) * leaf, product)

        return gauss_newton_product(
            lambda candidate: objective.predict(candidate, chunk), weighted_fisher_product, params
        )

    if micro_batch(chunk_size, weight.shape[0]) is None:
        return product_on(batch, weight)
    return lambda vector: batch_sum(
        lambda chunk, chunk_weight: product_on(chunk, chunk_weight)(vector),
        batch,
        weight,
        chunk_size,
    )


def require_curvature(curvature: str, objective: Objective) -> None:
    """Raise `ValueError` unless the objective has what `curvature` needs."""
    if curvature not in get_args(Curvature):
        raise ValueError(f"curvature={curvature!r} is unknown; use gauss_newton or hvp")
    if curvature == "gauss_newton" and objective.fisher_product is None:
        raise ValueError(
            "curvature='gauss_newton' needs fisher_product, which this objective lacks; "
            "use curvature='hvp'"
        )


def _along(leaf: jax.Array, per_example: jax.Array) -> jax.Array:
    """[B] or [B, T] reshaped to broadcast against a leaf with these axes in front."""
    return per_example.reshape(per_example.shape + (1,) * (leaf.ndim - per_example.ndim))
