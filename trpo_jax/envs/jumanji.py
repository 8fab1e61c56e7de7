"""Jumanji environments (jumanji >= 1.1)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import jumanji
import numpy as np
from jumanji import specs
from jumanji.env import Environment as JumanjiBase

from trpo_jax.common.checks import require_whole_number
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

_ONE_REWARD_PER_AGENT = (
    "it pays one reward to each agent; pass "
    "jumanji.wrappers.MultiToSingleWrapper(jumanji.make({name!r})), which pays their sum"
)
REFUSED = {
    "Connector-v3": _ONE_REWARD_PER_AGENT.format(name="Connector-v3"),
    "LevelBasedForaging-v0": _ONE_REWARD_PER_AGENT.format(name="LevelBasedForaging-v0"),
    "SearchAndRescue-v0": _ONE_REWARD_PER_AGENT.format(name="SearchAndRescue-v0"),
    "Sokoban-v0": "it downloads its levels when it is created; pass a generator=… that does not",
}
"""Ids that cannot be trained, and why."""

_NOT_OURS_TO_STEP = ("VmapWrapper", "AutoResetWrapper", "VmapAutoResetWrapper")


def list_ids() -> list[str]:
    """The ids of the environments that can be trained, sorted."""
    return sorted(jumanji.registered_environments() - REFUSED.keys())


def make(name: str, /, **kwargs) -> "JumanjiEnvironment":
    """An environment from its Jumanji id; `kwargs`, such as `time_limit`, go to its class."""
    if name not in jumanji.registered_environments():
        raise ValueError(f"environment {name!r} is unknown to Jumanji; use one of list_ids()")
    brings_levels = name == "Sokoban-v0" and kwargs.get("generator") is not None
    if name in REFUSED and not brings_levels:
        raise ValueError(f"environment {name!r} is refused: {REFUSED[name]}")
    if kwargs.get("time_limit") is not None:
        require_whole_number("time_limit", kwargs["time_limit"])
    try:
        env = jumanji.make(name, **kwargs)
    except TypeError as error:
        raise ValueError(f"environment {name!r} does not take {kwargs}: {error}") from None
    return JumanjiEnvironment(env, name)


def from_object(env: Any) -> "JumanjiEnvironment":
    """An environment from an object of Jumanji's, wrapped or not."""
    return JumanjiEnvironment(env)


class JumanjiEnvironment(Environment):
    """A Jumanji environment.

    Observations become plain dictionaries, or one array if there is only one beside the mask.
    `step_count` becomes the fraction of the time limit that has passed (whole, it runs to 4000 in
    Snake and saturates a network); all other numbers stay as they are.

    The field `action_mask` becomes the mask. If it covers all combinations of several choices, the
    action is one number for the combination, `Discrete`. Where a choice is left with nothing
    although the episode goes on (an agent of MMST that has finished, blocks of FlatPack that no
    longer fit), everything is allowed: it has no effect.

    An episode is truncated if its last step has a discount above 0, else terminated: nearly all of
    Jumanji's own time limits terminate. The scalars in `extras` are its metrics.
    """

    def __init__(self, env: Any, name: str | None = None):
        if not isinstance(env, JumanjiBase):
            raise ValueError(f"{env!r} is not a jumanji.Environment; pass the one beneath it")
        self.name = name or type(env.unwrapped).__name__
        _refuse_batches_and_resets(env, self.name)
        self._env = env
        self._action_spec = env.action_spec
        timestep = self._described()
        mask = getattr(timestep.observation, "action_mask", None)
        choices = _choices(env.action_spec, mask)
        self._max_step_count = _max_step_count(env)
        self._joint = choices if mask is not None and choices == mask.shape else None
        self.action_space = _action_space(env.action_spec, choices, self._joint, self.name)
        obs = jax.eval_shape(self._observe, timestep.observation)
        self.obs_shape = shapes_of(policy_part(obs))

    @property
    def unwrapped(self) -> Any:
        """The Jumanji environment."""
        return self._env

    def reset(self, key: jax.Array):
        """Start an episode."""
        state, timestep = self._env.reset(key)
        return state, self._observe(timestep.observation)

    def step(self, key: jax.Array, state: Any, action: jax.Array):
        """One step; what is random in it comes from a key in the state."""
        del key
        state, timestep = self._env.step(state, self._decode(action))
        ended, alive = timestep.last(), timestep.discount > 0
        extras = timestep.extras or {}
        return state, EnvStep(
            obs=self._observe(timestep.observation),
            reward=timestep.reward,
            terminated=ended & ~alive,
            truncated=ended & alive,
            metrics={name: value for name, value in extras.items() if jnp.ndim(value) == 0},
        )

    def _described(self) -> Any:
        """The shapes of what a step returns; refuses rewards for several agents."""
        state, _ = jax.eval_shape(self._env.reset, jax.random.key(0))
        _, timestep = jax.eval_shape(self._env.step, state, self._action_spec.generate_value())
        if timestep.reward.shape or timestep.discount.shape:
            raise ValueError(
                f"{self.name} pays {timestep.reward.shape[0]} rewards at a time, one to each "
                "agent; wrap it in jumanji.wrappers.MultiToSingleWrapper, which pays their sum"
            )
        return timestep

    def _observe(self, observation: Any) -> Any:
        policy = _plain(observation)
        if not isinstance(policy, dict):
            return policy
        mask = policy.pop("action_mask", None)
        if self._max_step_count is not None and "step_count" in policy:
            policy["step_count"] = policy["step_count"] / jnp.float32(self._max_step_count)
        if len(policy) == 1:
            (policy,) = policy.values()
        return policy if mask is None else Observation(policy, action_mask=self._mask(mask))

    def _mask(self, mask: jax.Array) -> jax.Array:
        if self._joint is not None:
            mask = mask.reshape(-1)
        return (mask | ~jnp.any(mask, axis=-1, keepdims=True)).reshape(-1)

    def _decode(self, action: jax.Array) -> jax.Array:
        """The action as Jumanji takes it."""
        spec = self._action_spec
        if self._joint is not None:
            action = jnp.stack(jnp.unravel_index(action, self._joint))
        return action.reshape(spec.shape).astype(spec.dtype)


def _plain(tree: Any) -> Any:
    """Named tuples and dataclasses, nested as they may be, as dictionaries."""
    fields = tree._fields if hasattr(tree, "_fields") else getattr(tree, "__dataclass_fields__", ())
    return {name: _plain(getattr(tree, name)) for name in fields} if fields else tree


def _max_step_count(env: Any) -> int | None:
    """The most that `step_count` can be, from the time limit or the spec; None if not known."""
    limit = getattr(env, "time_limit", None)
    if limit is None:
        limit = getattr(getattr(env.observation_spec, "step_count", None), "maximum", None)
    return None if limit is None else max(int(limit), 1)


def _choices(spec: Any, mask: Any) -> tuple[int, ...] | None:
    """The number of choices in each dimension of an action in whole numbers."""
    if isinstance(spec, specs.DiscreteArray):
        return (int(spec.num_values),)
    if isinstance(spec, specs.MultiDiscreteArray):
        return tuple(np.asarray(spec.num_values).reshape(-1).tolist())
    counted = isinstance(spec, specs.BoundedArray) and jnp.issubdtype(spec.dtype, jnp.integer)
    if not counted or np.any(np.asarray(spec.minimum) != 0):
        return None
    sizes = np.broadcast_to(np.asarray(spec.maximum, int) + 1, spec.shape)
    if mask is not None and mask.shape[:-1] == sizes.shape:
        # MultiCVRP's spec counts one node more than there is; its mask does not.
        sizes = np.minimum(sizes, mask.shape[-1])
    return tuple(sizes.reshape(-1).tolist())


def _action_space(
    spec: Any, choices: tuple[int, ...] | None, joint: tuple[int, ...] | None, name: str
) -> ActionSpace:
    if joint is not None:
        return Discrete(math.prod(joint))
    if choices is not None:
        return Discrete(choices[0]) if spec.shape == () else MultiDiscrete(choices)
    if isinstance(spec, specs.BoundedArray) and jnp.issubdtype(spec.dtype, jnp.floating):
        return Box(np.asarray(spec.minimum), np.asarray(spec.maximum), tuple(spec.shape))
    raise ValueError(
        f"action spec {spec} of {name} is not supported; DiscreteArray, MultiDiscreteArray and "
        "BoundedArray are, whole numbers from 0"
    )


def _refuse_batches_and_resets(env: Any, name: str) -> None:
    while env is not None:
        if type(env).__name__ in _NOT_OURS_TO_STEP:
            raise ValueError(
                f"{name} is wrapped in Jumanji's {type(env).__name__}; pass the environment "
                "without it: trpo_jax does batching and automatic reset"
            )
        env = vars(env).get("_env")
