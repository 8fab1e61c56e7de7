"""From an observation to an action: the one path that rollout, `act` and evaluation share."""

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.config import TRPOConfig
from trpo_jax.envs.base import ActionSpace, Box, Environment
from trpo_jax.learner.normalization import RunningStatistics, normalize
from trpo_jax.learner.types import TrainState
from trpo_jax.policies.distributions import Distribution
from trpo_jax.policies.networks import Policy


def finite_or_zero(values: jax.Array) -> jax.Array:
    """Replace what is not finite by 0."""
    return jnp.where(jnp.isfinite(values), values, 0)


def policy_input(
    statistics: RunningStatistics, obs: jax.Array, normalize_observations: bool
) -> jax.Array:
    """What the networks see: finite, and normalised if the configuration says so."""
    obs = finite_or_zero(obs)
    return normalize(statistics, obs) if normalize_observations else obs


def choose(
    policy: Policy,
    params,
    key: jax.Array,
    policy_obs: jax.Array,
    deterministic: bool = False,
) -> tuple[jax.Array, Distribution]:
    """An action of the policy, sampled or the mode, and the distribution it came from."""
    distribution = policy.apply(params, policy_obs)
    action = distribution.mode() if deterministic else distribution.sample(key)
    return action, distribution


def to_environment(action_space: ActionSpace, action: jax.Array, action_bounds: str) -> jax.Array:
    """The policy's action as the environment takes it."""
    if isinstance(action_space, Box):
        return action_space.from_policy(action, action_bounds)
    return action


def act(
    state: TrainState,
    key: jax.Array,
    obs: jax.Array,
    deterministic: bool = False,
    *,
    env: Environment,
    policy: Policy,
    config: TRPOConfig,
) -> jax.Array:
    """Actions for observations [..., *obs_shape], as the environment takes them.

    The mode of the policy if `deterministic`, else a sample.
    """
    if np.shape(obs)[np.ndim(obs) - len(env.obs_shape) :] != env.obs_shape:
        raise ValueError(f"obs has shape {np.shape(obs)}; it must end in {env.obs_shape}")
    policy_obs = policy_input(
        state.obs_statistics, jnp.asarray(obs, jnp.float32), config.normalize_observations
    )
    action, _ = choose(policy, state.policy_params, key, policy_obs, deterministic)
    return to_environment(env.action_space, action, config.action_bounds)
