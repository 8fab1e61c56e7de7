"""Action distributions, and the networks that produce them."""

from trpo_jax.policies.distributions import (
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
)
from trpo_jax.policies.from_flax import critic_from_flax, policy_from_flax
from trpo_jax.policies.policy import Critic, Policy, RecurrentCritic, RecurrentPolicy

__all__ = [
    "Categorical",
    "Critic",
    "DiagonalGaussian",
    "Distribution",
    "MultiCategorical",
    "Policy",
    "RecurrentCritic",
    "RecurrentPolicy",
    "critic_from_flax",
    "policy_from_flax",
]
