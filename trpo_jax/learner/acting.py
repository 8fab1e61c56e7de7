"""From an observation to an action: one path for rollout, `act`, evaluation and render."""

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from trpo_jax.envs.base import Obs, observation_spec
from trpo_jax.learner import memory
from trpo_jax.learner.normalization import RunningStatistics, normalize
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.types import TrainState
from trpo_jax.policies.distributions import to_box
from trpo_jax.spaces import (
    ActionSpace,
    Box,
    MultiDiscrete,
    Observation,
    is_shape,
    leading_axes,
    policy_view,
    shapes_of,
)


class Acting(Protocol):
    """What a policy needs in order to act: a `TrainState`, or these parts of one."""

    @property
    def policy_params(self) -> Any:
        """Parameters of π."""

    @property
    def obs_statistics(self) -> RunningStatistics:
        """Statistics of the observations."""


class Decision(NamedTuple):
    """What a policy decides for a batch of observations."""

    action: jax.Array
    """As sampled, before clipping or squashing."""
    env_action: jax.Array
    """The same action in the form that the environment takes."""
    distribution: Any
    """The `Distribution` that the action came from."""
    carry: Any = None
    """The policy's memory afterwards; None if it has none."""


def finite_or_zero(values: Any) -> Any:
    """Replace NaN and ±∞ by 0 in every floating leaf of a tree."""

    def replace(leaf: jax.Array) -> jax.Array:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.where(jnp.isfinite(leaf), leaf, 0) if floating else leaf

    return jax.tree.map(replace, values)


def network_input(parts: Parts, statistics: RunningStatistics, obs: Obs) -> Obs:
    """What the networks see: finite, normalised if configured, with usable masks."""
    obs = finite_or_zero(obs)
    if parts.config.normalize_observations:
        obs = normalize(_statistics_of(obs, statistics), obs)
    if isinstance(obs, Observation) and obs.action_mask is not None:
        obs = obs._replace(action_mask=_usable(obs.action_mask, parts.env.action_space))
    return obs


def _statistics_of(obs: Obs, statistics: RunningStatistics) -> RunningStatistics:
    """The statistics for the parts that `obs` has; in `act` it may lack the critic's."""

    def part(tree: Any) -> Any:
        if not isinstance(tree, Observation):
            return tree
        if not isinstance(obs, Observation):
            return tree.policy
        return tree if obs.critic is not None else tree._replace(critic=None)

    return statistics.replace(mean=part(statistics.mean), variance=part(statistics.variance))


def decide(
    parts: Parts,
    state: Acting,
    key: jax.Array,
    obs: Obs,
    deterministic: bool = False,
    carry: Any = None,
) -> Decision:
    """Actions for a batch of observations [N, ...]: samples, or modes if `deterministic`.

    `carry` [N, ...] is the memory of a policy that has one.
    """
    seen = network_input(parts, state.obs_statistics, obs)
    distribution, carry = memory.step(parts.policy, state.policy_params, carry, policy_view(seen))
    action = distribution.mode() if deterministic else distribution.sample(key)
    space = parts.env.action_space
    env_action = to_box(distribution, action, space) if isinstance(space, Box) else action
    return Decision(action, env_action, distribution, carry)


def act(
    parts: Parts,
    state: TrainState,
    key: jax.Array,
    obs: Obs,
    deterministic: bool = False,
    carry: Any = None,
) -> Any:
    """Actions for observations [..., *obs_shape], in the form that the environment takes.

    The policy's mode if `deterministic`, else a sample. The critic's part of an observation may be
    left out. With a memory, `carry` has one row per observation, and the result is (action, carry
    afterwards). Raises `ValueError` if the shape differs from that of the environment's
    observations, or the carry is not one for them.
    """
    spec = policy_view(observation_spec(parts.env))
    shapes = shapes_of(spec)
    obs = policy_view(obs)
    if is_shape(shapes):
        obs = jnp.asarray(obs)
    lead = leading_axes(obs, shapes)
    batch = jax.tree.map(
        lambda leaf, kind: jnp.asarray(leaf, kind.dtype).reshape(-1, *kind.shape), obs, spec
    )
    memory.require_carry(parts.policy, carry, math.prod(lead))
    chosen = decide(parts, state, key, batch, deterministic, carry)
    action = chosen.env_action.reshape(*lead, *chosen.env_action.shape[1:])
    return (action, chosen.carry) if memory.remembers(parts.policy) else action


def allows_action(obs: Obs, space: ActionSpace) -> jax.Array | bool:
    """[N]: whether the mask of each observation allows an action in every dimension."""
    if not isinstance(obs, Observation) or obs.action_mask is None:
        return True
    return jnp.all(_allowed_per_dimension(obs.action_mask, space), axis=-1)


def _usable(mask: jax.Array, space: ActionSpace) -> jax.Array:
    """The mask, with everything allowed where it allows nothing: such a step does not count."""
    sizes = _sizes(mask, space)
    allowed = _allowed_per_dimension(mask, space)
    return mask | ~jnp.repeat(allowed, jnp.asarray(sizes), axis=-1, total_repeat_length=sum(sizes))


def _allowed_per_dimension(mask: jax.Array, space: ActionSpace) -> jax.Array:
    """bool [..., dimensions]: whether the mask allows an action in each dimension."""
    ends = [sum(_sizes(mask, space)[: i + 1]) for i in range(len(_sizes(mask, space)) - 1)]
    return jnp.stack([jnp.any(part, axis=-1) for part in jnp.split(mask, ends, axis=-1)], axis=-1)


def _sizes(mask: jax.Array, space: ActionSpace) -> tuple[int, ...]:
    if isinstance(space, MultiDiscrete):
        return tuple(space.num_categories)
    return (mask.shape[-1],)
