"""From an observation to an action: the one path that rollout, `act` and evaluation share."""

import jax
import jax.numpy as jnp

from trpo_jax.envs.base import ActionSpace, Box
from trpo_jax.learner.normalization import RunningStatistics, normalize
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


def act(
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
