"""First piece of a trust-region step: the objective near the parameters where it starts."""

from typing import NamedTuple

import jax

from trpo_jax.common import trees
from trpo_jax.common.trees import Tree
from trpo_jax.solver.curvature import MatVec
from trpo_jax.solver.objective import (
    Curvature,
    Objective,
    curvature_product,
    evaluation,
    require_curvature,
)


class LocalModel(NamedTuple):
    """L(θ + Δ) ≈ gᵀΔ and D(θ + Δ) ≈ ½ ΔᵀHΔ at the parameters θ where a step starts."""

    objective: Objective
    """L and D."""
    params: Tree
    """θ."""
    batch: Tree
    """The examples over which L and D are averaged."""
    gradient: jax.Array
    """g = ∇L(θ), all leaves as one vector."""
    curvature: Curvature
    """How products with H are computed."""
    chunk_size: int | None
    """Examples per micro-batch; None: all at once."""

    def product(self) -> MatVec:
        """v ↦ H v, for trees shaped like `params`; linearised once, here."""
        return curvature_product(
            self.objective,
            self.params,
            self.batch,
            curvature=self.curvature,
            chunk_size=self.chunk_size,
        )


def local_model(
    objective: Objective,
    params: Tree,
    batch: Tree,
    *,
    curvature: Curvature = "gauss_newton",
    chunk_size: int | None = None,
) -> LocalModel:
    """The gradient g = ∇L(θ), and all that products with H = ∇²D(θ) need; θ is `params`.

    L and D are averages over `batch`, taken `chunk_size` examples at a time if that is given.
    Raises `ValueError` if the objective lacks what `curvature` needs.
    """
    require_curvature(curvature, objective)
    evaluate = evaluation(objective, batch, chunk_size=chunk_size)
    with jax.default_matmul_precision("highest"):
        gradient, _ = trees.ravel(jax.grad(lambda candidate: evaluate(candidate)[0])(params))
    return LocalModel(objective, params, batch, gradient, curvature, chunk_size)
