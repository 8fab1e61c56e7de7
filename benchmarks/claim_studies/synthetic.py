"""Batches of any shape without an environment, for costs in time and memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.types import Batch
from trpo_jax.policies.networks import Body, GaussianHead, Policy, make_policy
from trpo_jax.solver import Objective


class Shape(NamedTuple):
    """Of a batch and of the Gaussian policy on it."""

    batch_size: int
    obs_size: int
    num_actions: int
    hidden_sizes: tuple[int, ...]

    def __str__(self) -> str:
        widths = "×".join(map(str, self.hidden_sizes))
        return f"{self.batch_size}×{self.obs_size}, {self.num_actions} actions, {widths}"


class Synthetic(NamedTuple):
    """A policy with random data drawn from it."""

    policy: Policy
    objective: Objective
    params: dict
    batch: Batch
    num_params: int


def make(shape: Shape) -> Synthetic:
    """A policy at its initialisation, normal observations, actions of its own."""
    body = Body((shape.obs_size,), shape.hidden_sizes, "tanh", False)
    policy = make_policy(body, GaussianHead(shape.num_actions, 0.0))
    params = policy.init(jax.random.key(0))
    random = np.random.default_rng(0)
    obs = jnp.asarray(random.normal(size=(shape.batch_size, shape.obs_size)), jnp.float32)
    distribution = policy.apply(params, obs)
    action = distribution.sample(jax.random.key(1))
    batch = Batch(
        obs=obs,
        action=action,
        distribution=distribution,
        log_prob=distribution.log_prob(action),
        entropy=distribution.entropy(),
        advantage=jnp.asarray(random.normal(size=shape.batch_size), jnp.float32),
        value=jnp.zeros(shape.batch_size),
        value_target=jnp.zeros(shape.batch_size),
        weight=jnp.ones(shape.batch_size),
    )
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Synthetic(policy, make_objective(policy, 0.0), params, batch, num_params)
