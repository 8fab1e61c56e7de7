"""Whole episodes with a fixed policy, in environments that step on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.envs.base import (
    DEFAULT_MAX_STEPS,
    EnvStep,
    named_costs,
)
from trpo_jax.envs.host import HostEnvironment
from trpo_jax.learner.evaluation import EpisodeStats
from trpo_jax.learner.host_rollout import (
    ActingState,
    acting_programs,
    all_finite,
    draw_seeds,
    finite_rows,
    forgetting,
    merged,
    naming,
    unmerged,
)
from trpo_jax.learner.memory import initial_carry
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
        self._policy, self._anew = parts.policy, forgetting(parts)
        self._act = {mode: acting_programs(parts, mode) for mode in (False, True)}
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
        tally = _Tally((sims, int(quota.max())), self._env)
        played, rows = np.zeros(sims, np.int64), np.arange(sims)
        act = self._act[bool(deterministic)][len(shape) - 1]
        obs, t = simulators.reset(), 0
        keys = None
        carry = unmerged(initial_carry(self._policy, sims), shape)
        while rows.size:
            if t % _KEYS == 0:
                key, block = jax.random.split(key)
                keys = self._keys(block)
                if len(shape) == 2:
                    keys = jnp.broadcast_to(keys, (shape[0], _KEYS))
            (env_action, _, _), carry = act(
                acting, keys, np.int32(t % _KEYS), unmerged(obs, shape), carry
            )
            actions = merged(env_action, len(shape))
            step = simulators.step(actions[rows], None if rows.size == sims else rows)
            lengths = tally.count(step, rows, played[rows])
            ended = np.zeros(sims, bool)
            ended[rows] = step.terminated[rows] | step.truncated[rows]
            ended[rows] |= lengths >= limit
            if not all_finite(step):  # a simulation that blew up is cut
                ended[rows] |= ~finite_rows(step)[rows]
            obs, t = step.obs, t + 1
            if ended.any():
                played[ended] += 1
                left[ended] -= 1
                again = ended & (left > 0)
                if again.any():
                    obs = simulators.restart(again)
                carry = self._anew(carry, ended.reshape(shape))
                rows = np.flatnonzero(left > 0)
        order = [(e % columns, e // columns) for e in range(num_episodes)]
        column, episode = np.array(order).T

        def arranged(values: np.ndarray) -> jax.Array:
            dtype = np.int32 if values.dtype.kind == "i" else np.float32
            return jnp.asarray(values.reshape(*shape, -1)[..., column, episode].astype(dtype))

        return jax.tree.map(arranged, tally.stats())


class _Tally:
    """What is added up over the steps of episodes; arrays [simulators, episodes of each]."""

    def __init__(self, shape: tuple[int, int], env: HostEnvironment):
        self._returns, self._lengths = np.zeros(shape), np.zeros(shape, np.int32)
        self._sums = {name: np.zeros(shape) for name in env.metrics}
        self._costs = {name: np.zeros(shape) for name in env.costs}
        self._last = {name: np.zeros(shape) for name in self._sums}

    def count(self, step: EnvStep, rows: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        """Add a step of the simulators `rows` to their episodes; returns the lengths of these."""
        at = rows, episodes
        self._returns[at] += step.reward[rows]
        self._lengths[at] += 1
        for name, total in self._sums.items():
            values = step.metrics[name][rows].astype(float)
            self._last[name][at] = np.where(np.isfinite(values), values, 0)
            total[at] += self._last[name][at]
        for name, values in named_costs(step.cost).items():
            self._costs[name][at] += values[rows]
        return self._lengths[at]

    def stats(self) -> EpisodeStats:
        """The outcome, in NumPy."""
        played = np.maximum(self._lengths, 1)  # simulators differ in their number of episodes
        means = {name: total / played for name, total in self._sums.items()}
        costs = sum(self._costs.values()) if self._costs else None
        outcome: Any = (self._returns, self._lengths, means, self._last, costs, self._costs)
        return EpisodeStats(*outcome)
