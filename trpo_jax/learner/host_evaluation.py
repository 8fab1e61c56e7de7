"""Whole episodes with a fixed policy, in environments that step on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.envs.host import HostEnvironment
from trpo_jax.learner.evaluation import DEFAULT_MAX_STEPS, EpisodeStats
from trpo_jax.learner.host_rollout import (
    ActingState,
    acting_program,
    draw_seeds,
    naming,
)
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.types import TrainState

_SIMULATORS = 16
_KEYS = 1024


class HostEvaluation:
    """Plays episodes for `Agent.evaluate`, in simulators of its own.

    With several seeds, each policy plays from the same initial states.
    """

    def __init__(self, parts: Parts):
        assert isinstance(parts.env, HostEnvironment)
        self._env = parts.env
        self._act = {mode: acting_program(parts, mode) for mode in (False, True)}
        self._keys = jax.jit(lambda key: jax.random.split(key, _KEYS))

    def __call__(
        self,
        state: TrainState,
        key: jax.Array,
        num_episodes: int,
        deterministic: bool,
        max_steps: int | None,
    ) -> EpisodeStats:
        """Each of up to 16 simulators plays its share of the episodes, one after the other.

        The shares are fixed beforehand, so that short episodes are not over-represented.
        """
        lead, number = state.key.shape, min(num_episodes, _SIMULATORS)
        limit = max_steps or self._env.max_episode_steps or DEFAULT_MAX_STEPS
        seed_key, action_key = jax.random.split(key)
        seeds = np.broadcast_to(np.asarray(draw_seeds(seed_key, number)), (*lead, number))
        with naming(self._env, "evaluation"):
            simulators = self._env.simulators(seeds.reshape(-1).astype(np.int64))
            try:
                return self._play(
                    simulators, state, action_key, seeds.shape, num_episodes, deterministic, limit
                )
            finally:
                simulators.close()

    def _play(
        self,
        simulators: Any,
        state: TrainState,
        key: jax.Array,
        shape: tuple[int, ...],
        num_episodes: int,
        deterministic: bool,
        limit: int,
    ) -> EpisodeStats:
        acting = ActingState(state.policy_params, state.obs_statistics)
        sims, columns = int(np.prod(shape)), shape[-1]
        # Episode e is played by simulator e mod columns.
        quota = np.array([len(range(n, num_episodes, columns)) for n in range(columns)])
        left = np.broadcast_to(quota, shape).reshape(-1).copy()
        returns = np.zeros((sims, int(quota.max())))
        lengths = np.zeros((sims, int(quota.max())), np.int32)
        played, rows = np.zeros(sims, np.int64), np.arange(sims)
        obs, t = simulators.reset(), 0
        keys = None
        while rows.size:
            if t % _KEYS == 0:
                key, block = jax.random.split(key)
                keys = self._keys(block)
                if len(shape) == 2:
                    keys = jnp.broadcast_to(keys, (shape[0], _KEYS))
            batch = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), obs)
            env_action, _, _ = self._act[deterministic](acting, keys, np.int32(t % _KEYS), batch)
            actions = np.asarray(env_action).reshape(sims, *env_action.shape[len(shape) :])
            step = simulators.step(actions[rows], None if rows.size == sims else rows)
            returns[rows, played[rows]] += step.reward[rows]
            lengths[rows, played[rows]] += 1
            ended = np.zeros(sims, bool)
            ended[rows] = step.terminated[rows] | step.truncated[rows]
            ended[rows] |= lengths[rows, played[rows]] >= limit
            obs, t = step.obs, t + 1
            if ended.any():
                played[ended] += 1
                left[ended] -= 1
                again = ended & (left > 0)
                if again.any():
                    obs = simulators.restart(again)
                rows = np.flatnonzero(left > 0)
        order = [(e % columns, e // columns) for e in range(num_episodes)]
        column, episode = np.array(order).T

        def arranged(values: np.ndarray, dtype: Any) -> jax.Array:
            per_policy = values.reshape(*shape, -1)[..., column, episode]
            return jnp.asarray(per_policy.astype(dtype))

        return EpisodeStats(arranged(returns, np.float32), arranged(lengths, np.int32))
