"""What promises are judged by: an environment played, played again, recorded in training."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.config import TRPOConfig
from trpo_jax.envs.base import Environment
from trpo_jax.envs.host import HostEnvironment
from trpo_jax.envs.registry import make_env
from trpo_jax.experiments.conformance.playing import (
    HASTY,
    Play,
    Programs,
    RandomActions,
    play,
    simulators_of,
)
from trpo_jax.learner.trpo import make_trpo
from trpo_jax.learner.types import Trajectory
from trpo_jax.policies.from_flax import critic_from_flax, policy_from_flax
from trpo_jax.spaces import Box, mask_size

_REPLAYED = 200
_RECORD_LIMIT = 5
_RECORD_STEPS = 17


@dataclasses.dataclass
class Evidence:
    """One environment, M of it played. T steps, except of what is played again or recorded."""

    env: Environment
    programs: Programs | None
    """None for an environment that steps on the host."""
    play: Play
    replay: Play
    """The beginning of `play` again: the same seeds, the same actions."""
    untried: int
    """Number of discrete actions that were never taken."""
    record: Trajectory | None = None
    """A rollout of an agent, [T', M, ...], NumPy; None if it failed."""
    record_error: str = ""
    """Why there is none."""
    record_limit: int = _RECORD_LIMIT
    """The `episode_length` of that rollout."""

    @property
    def on_host(self) -> bool:
        """Whether it steps in NumPy."""
        return isinstance(self.env, HostEnvironment)


class _Bias(nn.Module):
    """The same outputs for every observation: compiles in no time."""

    size: int

    @nn.compact
    def __call__(self, obs: Any) -> jax.Array:
        bias = self.param("bias", nn.initializers.zeros, (self.size,))
        return jnp.broadcast_to(bias, (len(jax.tree.leaves(obs)[0]), self.size))


def gather(
    env: Environment, *, num_envs: int, num_steps: int, max_seconds: float, seed: int
) -> Evidence:
    """Play an environment, once more, and with an agent."""
    programs = None if isinstance(env, HostEnvironment) else Programs(env)
    seeds = np.random.default_rng(seed).integers(2**31, size=num_envs)
    choose = RandomActions(env.action_space, seed)
    limits: dict[str, Any] = {"max_seconds": max_seconds, "max_bytes": 2**27}
    played = _played(env, programs, seeds, num_steps, choose, **limits)
    again = min(played.num_steps, _REPLAYED)
    replayed = _played(env, programs, seeds, again, played.action, **limits, extra_resets=8)
    untried = sum(int(np.sum(counts == 0)) for counts in getattr(choose, "counts", ()))
    evidence = Evidence(env, programs, played, replayed, untried)
    if played.error is None:
        try:
            evidence.record = _record(env, num_envs, seed)
        except Exception as error:
            evidence.record_error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return evidence


def _played(env, programs, seeds, num_steps, choose, **options) -> Play:
    simulators = simulators_of(env, programs, seeds)
    try:
        return play(simulators, num_steps, choose, **options)
    finally:
        simulators.close()


def _record(env: Environment, num_envs: int, seed: int) -> Trajectory:
    """What an agent records of episodes of a few steps."""
    short = make_env(env, episode_length=_RECORD_LIMIT)
    space = env.action_space
    size = space.num_dimensions if isinstance(space, Box) else mask_size(space) or 1
    agent = make_trpo(
        short,
        TRPOConfig(num_envs=num_envs, num_steps=_RECORD_STEPS),
        policy=policy_from_flax(_Bias(size), space),
        critic=critic_from_flax(_Bias(1)),
    )

    def rollout(key: jax.Array) -> Trajectory:
        return agent.rollout(agent.init(key))[1]

    if not isinstance(env, HostEnvironment):
        rollout = jax.jit(rollout, compiler_options=HASTY)
    trajectory = rollout(jax.random.key(seed))
    return jax.tree.map(np.asarray, trajectory)
