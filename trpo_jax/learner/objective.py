"""TRPO's surrogate objective, as an `Objective` for the solver."""

import jax
import jax.numpy as jnp

from trpo_jax.learner.types import Batch
from trpo_jax.policies.policy import Policy
from trpo_jax.solver.objective import Objective
from trpo_jax.spaces import policy_view


def make_objective(
    policy: Policy, entropy_coef: jax.Array | float, has_fisher_product: bool = True
) -> Objective:
    """The surrogate E[(π/π_old − 1) A] + c (H(π) − H(π_old)) and the divergence KL(π_old‖π).

    H is the entropy, c `entropy_coef`. Both are zero at π = π_old, where the surrogate's gradient
    is the policy gradient. Pass has_fisher_product=False if the distribution has no Fisher product.
    Schulman et al. 2015, eq. 14, minus the constant E[A].
    """

    def gain(distribution, batch: Batch) -> jax.Array:
        log_ratio = distribution.log_prob(batch.action) - batch.log_prob
        bonus = entropy_coef * (distribution.entropy() - batch.entropy)
        return jnp.expm1(log_ratio) * batch.advantage + bonus

    return Objective(
        predict=lambda params, batch: policy.apply(params, policy_view(batch.obs)),
        gain=gain,
        divergence=lambda distribution, batch: batch.distribution.kl(distribution),
        fisher_product=_fisher_product if has_fisher_product else None,
        weight=lambda batch: batch.weight,
    )


def _fisher_product(distribution, tangent):
    return distribution.fisher_product(tangent)
