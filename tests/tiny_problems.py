"""What many files test on: a tiny policy-improvement problem, a step on it, a small agent."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax import Objective, Policy, TRPOConfig, trust_region_settings, trust_region_step
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.types import Batch
from trpo_jax.policies.networks import Body, CategoricalHead, GaussianHead, make_policy

SMALL = TRPOConfig(num_envs=4, num_steps=32, hidden_sizes=(16,), value_epochs=2)
"""The settings of small agents: what one file has compiled, the others read from disk."""


class Problem(NamedTuple):
    policy: Policy
    objective: Objective
    params: Any
    batch: Batch


@functools.cache  # the same objective twice, so that steps on it compile once
def make_problem(kind="categorical", batch_size=48, seed=0, hidden=(4,), entropy_coef=0.0):
    """A one-hidden-layer tanh policy away from its initialisation, and a batch drawn from it."""
    policy, objective = make_functions(kind, hidden, entropy_coef)
    rng = np.random.default_rng(seed)
    params = policy.init(jax.random.key(seed), jnp.zeros(3))
    noise = lambda leaf: jnp.asarray(leaf + 0.4 * rng.normal(size=leaf.shape), jnp.float32)  # noqa: E731
    params = jax.tree.map(noise, params)
    obs = jnp.asarray(rng.normal(size=(batch_size, 3)), jnp.float32)
    distribution = policy.apply(params, obs)
    action = distribution.sample(jax.random.key(seed + 1))
    batch = Batch(
        obs=obs,
        action=action,
        distribution=distribution,
        log_prob=distribution.log_prob(action),
        entropy=distribution.entropy(),
        advantage=jnp.asarray(rng.normal(size=batch_size), jnp.float32),
        value=jnp.zeros(batch_size),
        value_target=jnp.zeros(batch_size),
        weight=jnp.ones(batch_size),
    )
    return Problem(policy, objective, params, batch)


@functools.cache  # seeds and batches share the functions, and so the programs
def make_functions(kind, hidden, entropy_coef):
    """The policy of a problem and its objective."""
    head = CategoricalHead(3) if kind == "categorical" else GaussianHead(2, -0.3)
    policy = make_policy(Body(((3,),), hidden, "tanh"), head)
    return policy, make_objective(policy, entropy_coef)


@functools.partial(jax.jit, static_argnums=(0, 4))
def step(objective, params, batch, hparams, config):
    """One trust-region step by the settings of an agent."""
    settings = trust_region_settings(hparams, config)
    return trust_region_step(objective, params, batch, **settings)
