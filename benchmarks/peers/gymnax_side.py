"""What the JAX peers have in common: gymnax environments, of version 0.0.9 or 1.0."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp

_STATE_FIELDS = {
    "CartPole-v1": ("cartpole", ("x", "x_dot", "theta", "theta_dot")),
    "Acrobot-v1": ("acrobot", ("joint_angle1", "joint_angle2", "velocity_1", "velocity_2")),
    "Pendulum-v1": ("pendulum", ("theta", "theta_dot")),
}
"""Module, and the fields of its state in gymnasium's order."""


def one_step(env: Any, params: Any, env_id: str, states: list, actions: list) -> dict[str, Any]:
    """What one step from each state does, and the time limit."""
    module_name, fields = _STATE_FIELDS[env_id]
    module = importlib.import_module(f"gymnax.environments.classic_control.{module_name}")
    dtype = jnp.float32 if hasattr(env.action_space(params), "low") else jnp.int32

    def step(state, action):
        known = dict(zip(fields, state, strict=True))
        extra = {"last_u": jnp.float32(0)} if env_id == "Pendulum-v1" else {}
        start = module.EnvState(**known, **extra, time=jnp.int32(0))
        obs, _, reward, ended, _ = env.step_env(jax.random.PRNGKey(0), start, action, params)
        reward, ended = jnp.reshape(reward, ()), jnp.reshape(ended, ())
        return jnp.concatenate([obs, jnp.stack([reward, ended.astype(jnp.float32)])])

    outcomes = jax.vmap(step)(jnp.array(states, jnp.float32), jnp.array(actions, dtype))
    return {"outcomes": outcomes.tolist(), "max_episode_steps": int(params.max_steps_in_episode)}
