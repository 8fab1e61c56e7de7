"""Action distributions, and the networks that produce them."""

from trpo_jax.policies.distributions import Categorical, DiagonalGaussian, MultiCategorical
from trpo_jax.policies.networks import Critic, Policy, make_critic, make_policy

__all__ = [
    "Categorical",
    "Critic",
    "DiagonalGaussian",
    "MultiCategorical",
    "Policy",
    "make_critic",
    "make_policy",
]
