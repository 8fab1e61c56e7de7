"""The surrogate objective of TRPO, in the solver's terms."""

import jax
import jax.numpy as jnp

from trpo_jax.learner.types import Batch
from trpo_jax.policies.policy import Policy
from trpo_jax.solver.objective import Objective
from trpo_jax.spaces import policy_view


def make_objective(
    policy: Policy, entropy_coef: jax.Array | float, has_fisher_product: bool = True
) -> Objective:
    """The surrogate E[(π/π_old − 1) A] + c (H(π) − H(π_old)) and the metric KL(π_old‖π).

    Both are zero at π = π_old; the gradient of the surrogate there is the policy gradient.
    Schulman et al. 2015, eq. 14, less the constant E[A]. A distribution of the user's need not have
    a Fisher product.
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
