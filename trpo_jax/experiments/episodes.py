"""One episode, step by step."""

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.envs.base import Environment, reset_batch, step_batch
from trpo_jax.envs.host import HostEnvironment
from trpo_jax.learner.agent import act_and_remember
from trpo_jax.learner.evaluation import DEFAULT_MAX_STEPS
from trpo_jax.learner.host_rollout import draw_seeds, naming
from trpo_jax.learner.trpo import Agent
from trpo_jax.learner.types import TrainState
from trpo_jax.spaces import policy_part


class Episode(NamedTuple):
    """One episode of T steps."""

    states: Any
    """States of the environment, [T + 1, ...]: the initial one and that after each step."""
    obs: np.ndarray
    """[T, numbers]: what the policy saw, one vector per step."""
    action: np.ndarray
    """[T, ...], in the form that the environment takes."""
    reward: np.ndarray
    """[T]."""
    ending: str
    """terminated, truncated, or cut."""

    def state(self, t: int) -> Any:
        """The state of the environment after t steps."""
        return jax.tree.map(lambda leaf: leaf[t], self.states)

    @property
    def length(self) -> int:
        """Number of steps."""
        return len(self.reward)

    def caption(self, t: int) -> str:
        """The step and the return after t steps."""
        return f"step {t}, return {self.reward[:t].sum():.1f}"

    def evenly(self, max_frames: int) -> list[int]:
        """Evenly spaced indices of at most `max_frames` states, with the first and the last."""
        return np.linspace(0, self.length, min(self.length + 1, max_frames)).astype(int).tolist()


def play(
    env: Environment, agent: Agent, state: TrainState, key: jax.Array, deterministic: bool = True
) -> Episode:
    """One episode from a fresh initial state, cut at the environment's limit or 1000 steps."""
    limit = env.max_episode_steps or DEFAULT_MAX_STEPS
    reset_key, loop_key = jax.random.split(key)

    @jax.jit
    def steps(state: TrainState) -> Any:
        def advance(carried: tuple[Any, jax.Array, Any], key: jax.Array) -> Any:
            env_state, obs, carry = carried
            action_key, step_key = jax.random.split(key)
            action, carry = act_and_remember(agent, state, action_key, obs, deterministic, carry)
            env_state, step = step_batch(env, step_key[None], env_state, action)
            ends = jnp.concatenate([step.terminated, step.truncated])
            row = env_state, _vector(obs), action[0], step.reward[0], ends
            return (env_state, step.obs, carry), row

        start = *reset_batch(env, reset_key[None]), agent.initial_carry(1)
        _, (states, *rest) = jax.lax.scan(advance, start, jax.random.split(loop_key, limit))
        return jax.tree.map(_prepend, start[0], states), *rest

    states, obs, action, reward, ends = jax.device_get(steps(state))
    over = ends.any(axis=1)
    length = int(np.argmax(over)) + 1 if over.any() else limit
    ending = "cut"
    if over.any():
        ending = "terminated" if ends[length - 1, 0] else "truncated"
    states = jax.tree.map(lambda leaf: leaf[: length + 1], states)
    return Episode(states, obs[:length], action[:length], reward[:length], ending)


def play_on_host(
    env: HostEnvironment,
    agent: Agent,
    state: TrainState,
    key: jax.Array,
    deterministic: bool = True,
) -> tuple[np.ndarray, Episode]:
    """The seed [1] and an episode from it, as `play` gives it; it has no states."""
    limit = env.max_episode_steps or DEFAULT_MAX_STEPS
    seed_key, loop_key = jax.random.split(key)
    seeds = np.asarray(draw_seeds(seed_key, 1)).astype(np.int64)
    rows, ending = [], "cut"
    with naming(env, "render"), contextlib.closing(env.simulators(seeds)) as simulators:
        obs, carry = simulators.reset(), agent.initial_carry(1)
        for step_key in jax.random.split(loop_key, limit):
            seen = np.asarray(_vector(obs))
            chosen, carry = act_and_remember(agent, state, step_key, obs, deterministic, carry)
            action = np.asarray(chosen)
            step = simulators.step(action)
            rows.append((seen, action[0], float(step.reward[0])))
            obs = step.obs
            if step.terminated[0] or step.truncated[0]:
                ending = "terminated" if step.terminated[0] else "truncated"
                break
    seen, actions, rewards = map(np.asarray, zip(*rows, strict=True))
    return seeds, Episode(None, seen, actions, rewards, ending)


def _vector(obs: Any) -> jax.Array:
    """The policy's part of one environment's observation, as one vector."""
    leaves = jax.tree.leaves(policy_part(obs))
    return jnp.concatenate([leaf[0].ravel().astype(jnp.float32) for leaf in leaves])


def _prepend(first: jax.Array, later: jax.Array) -> jax.Array:
    """Concatenate [1, ...] and [T, 1, ...] to [T + 1, ...]."""
    return jnp.concatenate([first, later[:, 0]])
