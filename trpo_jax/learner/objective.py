"""TRPO's surrogate objective, as an `Objective` for the solver."""

import jax
import jax.numpy as jnp

from trpo_jax.learner.memory import on_examples
from trpo_jax.learner.types import Batch
from trpo_jax.policies.policy import Policy, RecurrentPolicy
from trpo_jax.solver.objective import Objective


def make_objective(
    policy: Policy | RecurrentPolicy,
    entropy_coef: jax.Array | float,
    has_fisher_product: bool = True,
) -> Objective:
    """The surrogate E[(π/π_old − 1) A] + c (H(π) − H(π_old)) and the divergence KL(π_old‖π).

    H is the entropy, c `entropy_coef`. Both are zero at π = π_old, where the surrogate's gradient
    is the policy gradient. Pass has_fisher_product=False if the distribution has no Fisher product.
    With a memory both policies of a sequence start from the same stored one, and the mean is over
    all steps: E_t KL(π_old(·|h_t)‖π(·|h_t)), exact but for what lies before the rollout's start.
    Schulman et al. 2015, eq. 14, minus the constant E[A].
    """

    predict = on_examples(policy)

    def gain(distribution, batch: Batch) -> jax.Array:
        log_ratio = distribution.log_prob(batch.action) - batch.log_prob
        bonus = entropy_coef * (distribution.entropy() - batch.entropy)
        return jnp.expm1(log_ratio) * batch.advantage + bonus

    return Objective(
        predict=lambda params, batch: predict(params, batch.policy_obs),
        gain=gain,
        divergence=lambda distribution, batch: batch.distribution.kl(distribution),
        fisher_product=_fisher_product if has_fisher_product else None,
        weight=lambda batch: batch.weight,
    )


def _fisher_product(distribution, tangent):
    return distribution.fisher_product(tangent)
