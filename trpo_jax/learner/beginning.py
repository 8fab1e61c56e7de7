"""The state before the first update."""

from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.envs.base import observation_spec, reset_batch
from trpo_jax.learner.assembly import example_observation
from trpo_jax.learner.bookkeeping import begin_episodes
from trpo_jax.learner.memory import first_carries
from trpo_jax.learner.normalization import init_statistics, init_tree_statistics
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.types import ActorState, CostCritic, TrainState
from trpo_jax.spaces import critic_view, policy_view


def begin(parts: Parts, key: jax.Array, policy_params: Any, value_params: Any) -> TrainState:
    """A state with new environments; parameters that are None are drawn."""
    num_envs = parts.config.num_envs
    keys = jax.random.split(key, 3 + num_envs)
    env_state, obs = reset_batch(parts.env, keys[3:])
    actor = ActorState(env_state, obs, begin_episodes(parts.env, num_envs), first_carries(parts))
    return initial_state(parts, keys[:3], actor, policy_params, value_params)


def initial_state(
    parts: Parts, keys: jax.Array, actor: ActorState, policy_params: Any, value_params: Any
) -> TrainState:
    """The state of a given actor; `keys` [3] are for the state, the policy and the critic."""
    state_key, policy_key, value_key = keys
    example = example_observation(parts.env)
    policy_params = _given_or_drawn(
        "policy_params", policy_params, parts.policy.init, policy_key, policy_view(example)
    )
    value_params = _given_or_drawn(
        "value_params", value_params, parts.critic.init, value_key, critic_view(example)
    )
    return TrainState(
        key=state_key,
        num_updates=jnp.zeros((), jnp.int32),
        policy_params=policy_params,
        value_params=value_params,
        value_opt_state=parts.value_fit.init(value_params),
        policy_step_state=parts.policy_step.init(policy_params),
        obs_statistics=init_tree_statistics(observation_spec(parts.env)),
        return_statistics=init_statistics(()),
        actor=actor,
        cost_critic=_cost_critic(parts, value_key, critic_view(example)),
    )


def _cost_critic(parts: Parts, value_key: jax.Array, example: Any) -> CostCritic | None:
    """V_C as new as V but with other numbers; None if nothing uses it."""
    if not parts.policy_step.uses_costs:
        return None
    params = parts.critic.init(jax.random.fold_in(value_key, 1), example)
    return CostCritic(params, parts.value_fit.init(params))


def _given_or_drawn(name: str, given: Any, draw: Any, key: jax.Array, example: Any) -> Any:
    """A network's parameters: those given, checked, or else new ones."""
    if given is None:
        return draw(key, example)
    wanted = jax.eval_shape(draw, key, example)
    difference = trees.first_difference(given, wanted)
    if difference is not None:
        raise ValueError(f"{name} has another structure than this agent's: {name} {difference}")
    trees.require_like(name, given, wanted)
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), given, wanted)
