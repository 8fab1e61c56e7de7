"""Playing environments without an agent."""

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.envs.base import reset_batch, step_batch


def step_once(env, key, action):
    states, _ = reset_batch(env, jax.random.split(key, 1))
    action = jnp.asarray(action)[None]
    return step_batch(env, jax.random.split(key, 1), states, action)


def play(env, action, num_steps, key=0):
    """One environment under one action, without reset: EnvSteps stacked over time."""
    states, _ = reset_batch(env, jax.random.split(jax.random.key(key), 1))
    keys = jax.random.split(jax.random.key(key + 1), (num_steps, 1))
    action = jnp.asarray(action)[None]

    def advance(carried, step_keys):
        return step_batch(env, step_keys, carried, action)

    _, steps = jax.lax.scan(advance, states, keys)
    return jax.tree.map(lambda leaf: np.asarray(leaf[:, 0]), steps)
