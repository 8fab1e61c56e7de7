"""Trust-region steps on any pytree. Knows nothing of reinforcement learning."""

from trpo_jax.solver.conjugate_gradient import CGResult, cg_solve
from trpo_jax.solver.constrained_optimum import ConstrainedOptimum, constrained_optimum
from trpo_jax.solver.constrained_step import constrained_step
from trpo_jax.solver.curvature import gauss_newton_product, hvp, linearized_hvp
from trpo_jax.solver.damping import adapted_scale
from trpo_jax.solver.info import ConstraintCase, ConstraintInfo, StepStatus, TrustRegionInfo
from trpo_jax.solver.line_search import LineSearchResult, line_search, sufficient_improvement
from trpo_jax.solver.local_model import LocalModel, local_model
from trpo_jax.solver.natural_step import Proposal, natural_direction, natural_step
from trpo_jax.solver.objective import Objective
from trpo_jax.solver.trust_region import trust_region_step

__all__ = [
    "CGResult",
    "ConstrainedOptimum",
    "ConstraintCase",
    "ConstraintInfo",
    "LineSearchResult",
    "LocalModel",
    "Objective",
    "Proposal",
    "StepStatus",
    "TrustRegionInfo",
    "adapted_scale",
    "cg_solve",
    "constrained_optimum",
    "constrained_step",
    "gauss_newton_product",
    "hvp",
    "line_search",
    "linearized_hvp",
    "local_model",
    "natural_direction",
    "natural_step",
    "sufficient_improvement",
    "trust_region_step",
]
