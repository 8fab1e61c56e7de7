"""Objects of jaxnasium (jaxnasium >= 0.1): its environments, and its bridges to other suites."""

from typing import Any

import jax
import jax.numpy as jnp
import jaxnasium
import numpy as np

from trpo_jax.envs.base import Environment, EnvStep
from trpo_jax.spaces import (
    ActionSpace,
    Box,
    Discrete,
    MultiDiscrete,
    Observation,
    policy_part,
    shapes_of,
)


def from_object(env: Any) -> "JaxnasiumEnvironment":
    """An environment from an object of jaxnasium, with or without its wrappers."""
    if not isinstance(env, jaxnasium.Environment):
        raise ValueError(
            f"{env!r} is no environment of jaxnasium; pass what jaxnasium.make returns"
        )
    return JaxnasiumEnvironment(env)


class JaxnasiumEnvironment(Environment):
    """A jaxnasium environment for one agent.

    Its own flags stand as they are. Where a wrapper replaced `step`, whatever that resets by itself
    is reset once more. An `AgentObservation` becomes an `Observation`.
    """

    def __init__(self, env: jaxnasium.Environment):
        self.name = _innermost_name(env)
        if jaxnasium.is_wrapped(env, jaxnasium.VecEnvWrapper):
            raise ValueError(
                f"{self.name} is wrapped in jaxnasium's VecEnvWrapper; pass the environment "
                "without it: trpo_jax does batching and automatic reset"
            )
        if env.multi_agent:
            raise ValueError(f"{self.name} is for several agents; one agent is supported")
        self._env = env
        self._bare = type(env).step is jaxnasium.Environment.step
        self.action_space = _action_space(env.action_space, self.name)
        _, obs = jax.eval_shape(self.reset, jax.random.key(0))
        self.obs_shape = shapes_of(policy_part(obs))

    @property
    def unwrapped(self) -> Any:
        """The jaxnasium environment."""
        return self._env

    def reset(self, key: jax.Array):
        """Start an episode."""
        obs, state = self._env.reset(key)
        return state, _with_roles(obs)

    def step(self, key: jax.Array, state: Any, action: jax.Array):
        """One step without automatic reset."""
        step = self._env.step_env if self._bare else self._env.step
        timestep, state = step(key, state, action)
        obs = timestep.observation
        if not self._bare:
            obs = timestep.info[jaxnasium.ORIGINAL_OBSERVATION_KEY]
        return state, EnvStep(
            obs=_with_roles(obs),
            reward=timestep.reward,
            terminated=jnp.asarray(timestep.terminated, bool),
            truncated=jnp.asarray(timestep.truncated, bool),
        )


def _innermost_name(env: Any) -> str:
    while (inner := vars(env).get("_env")) is not None:
        env = inner
    return str(getattr(env, "name", type(env).__name__))


def _with_roles(obs: Any) -> Any:
    if not isinstance(obs, jaxnasium.AgentObservation):
        return obs
    mask = obs.action_mask
    if mask is not None:
        mask = jnp.concatenate([jnp.ravel(part) for part in jax.tree.leaves(mask)]).astype(bool)
    return Observation(obs.observation, obs.critic_observation, mask)


def _action_space(space: Any, name: str) -> ActionSpace:
    if isinstance(space, jaxnasium.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, jaxnasium.MultiDiscrete):
        return MultiDiscrete(tuple(int(count) for count in np.asarray(space.nvec).ravel()))
    if isinstance(space, jaxnasium.Box):
        return Box(space.low, space.high, tuple(int(size) for size in space.shape))
    raise ValueError(
        f"action space {space} of {name} is not supported; Discrete, MultiDiscrete and Box are"
    )
