"""Trust-region mathematics on any pytree. Knows nothing of reinforcement learning."""

from trpo_jax.solver.conjugate_gradient import CGResult, cg_solve
from trpo_jax.solver.curvature import gauss_newton_product, hvp, linearized_hvp
from trpo_jax.solver.line_search import LineSearchResult, line_search
from trpo_jax.solver.objective import Objective
from trpo_jax.solver.trust_region import StepStatus, TrustRegionInfo, trust_region_step

__all__ = [
    "CGResult",
    "LineSearchResult",
    "Objective",
    "StepStatus",
    "TrustRegionInfo",
    "cg_solve",
    "gauss_newton_product",
    "hvp",
    "line_search",
    "linearized_hvp",
    "trust_region_step",
]
