"""The trajectory of a rollout on the host: what the compiled part of an update begins with."""

from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.envs.base import EnvStep, cost_names, metric_names, named_costs, observation_spec
from trpo_jax.learner.acting import decide, network_input
from trpo_jax.learner.assembly import example_observation
from trpo_jax.learner.bookkeeping import begin_again, begin_episodes, count_step
from trpo_jax.learner.host_rollout import ActingState, Record
from trpo_jax.learner.memory import first_carries, initial_carry, on_rollout
from trpo_jax.learner.normalization import init_tree_statistics
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.rollout import transitions
from trpo_jax.learner.types import TrainState, Trajectory
from trpo_jax.spaces import policy_view


def complete(
    parts: Parts, start: TrainState, end: TrainState, record: Record
) -> tuple[TrainState, Trajectory]:
    """The trajectory of a record, and the state after it with its episodes; traced.

    `start` and `end` are the states before and after the rollout.
    """
    shape = record.step.reward.shape
    step = record.step._replace(
        reward=jnp.asarray(record.step.reward, jnp.float32),
        truncated=record.step.truncated & ~record.step.terminated,
        metrics={
            name: jnp.where(jnp.isfinite(value), value, 0)
            for name, value in (record.step.metrics or {}).items()
        },
        cost={
            name: jnp.asarray(value, jnp.float32)
            for name, value in named_costs(record.step.cost).items()
        },
    )

    def advance(episodes: Any, one: EnvStep) -> Any:
        counted = count_step(episodes, one)
        return begin_again(counted, one.terminated | one.truncated), counted

    per_step = step._replace(obs=())
    episodes, counted = jax.lax.scan(advance, start.actor.episodes, per_step)
    rows = jax.tree.map(_as_rows, (record.obs, record.action, record.log_prob, step))
    obs, action, log_prob, flat_step = rows
    counted = jax.tree.map(
        lambda leaf: _as_rows(leaf) if leaf.shape[:2] == shape else leaf, counted
    )
    seen = policy_view(network_input(parts, start.obs_statistics, obs))
    begins, carry = counted.lengths.reshape(shape) == 1, start.actor.policy_carry
    distribution = on_rollout(parts.policy, start.policy_params, carry, seen, begins)
    flat = transitions(
        parts.env, start.num_updates, obs, action, log_prob, distribution, flat_step, counted
    )
    trajectory = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), flat)
    trajectory = trajectory.replace(carry=start.actor.carry)
    return end.replace(actor=end.actor.replace(episodes=episodes)), trajectory


def trajectory_spec(parts: Parts) -> Trajectory:
    """Shapes and types of a trajectory [T, N, ...]; nothing steps."""
    num_steps, num_envs, env = parts.config.num_steps, parts.config.num_envs, parts.env

    def row(obs: Any) -> Any:
        key, zeros = jax.random.key(0), jnp.zeros(num_envs)
        example = example_observation(env)
        params = parts.policy.init(key, policy_view(example))
        statistics = init_tree_statistics(observation_spec(env))
        carry = initial_carry(parts.policy, num_envs)
        chosen = decide(parts, ActingState(params, statistics), key, obs, carry=carry)
        log_prob = chosen.distribution.log_prob(chosen.action)
        metrics, costs = (dict.fromkeys(x(env), zeros) for x in (metric_names, cost_names))
        step = EnvStep(obs, zeros, zeros > 0, zeros > 0, metrics, costs)
        episodes = begin_episodes(env, num_envs)
        return transitions(
            env, jnp.int32(0), obs, chosen.action, log_prob, chosen.distribution, step, episodes
        )

    obs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((num_envs, *leaf.shape), leaf.dtype),
        observation_spec(env),
    )
    rows = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((num_steps, *leaf.shape), leaf.dtype),
        jax.eval_shape(row, obs),
    )
    return rows.replace(carry=jax.eval_shape(lambda: first_carries(parts)))


def _as_rows(leaf: jax.Array) -> jax.Array:
    """[T, N, ...] -> [T · N, ...]."""
    return leaf.reshape(-1, *leaf.shape[2:])
