"""brax environments, and brax-style objects."""

import contextlib
import io
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.common.checks import require_whole_number
from trpo_jax.envs.base import Environment, EnvStep
from trpo_jax.spaces import Box, Observation, policy_part, shapes_of


@contextlib.contextmanager
def _quietly():
    """Suppress brax's notices that warp is missing and that MJX is its successor."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


class _ClipByOldNames:
    """`jax.numpy`, with the argument names of `clip` that brax.fluid uses and jax 0.10 removed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    @staticmethod
    def clip(x: jax.Array, a_min: Any = None, a_max: Any = None) -> jax.Array:
        """`jax.numpy.clip`."""
        return jnp.clip(x, a_min, a_max)


with _quietly():
    from brax import envs as brax_envs
    from brax import fluid as brax_fluid

brax_fluid.jp = _ClipByOldNames()

_BACKENDS = ("generalized", "spring", "positional", "mjx")
_SELF_RESETTING = ("AutoResetWrapper", "VmapWrapper", "DomainRandomizationVmapWrapper")


def list_ids() -> list[str]:
    """The ids of the environments that can be trained."""
    return sorted(brax_envs._envs)


def make(name: str, episode_length: int = 1000, action_repeat: int = 1, **kwargs):
    """An environment from its brax id; other keywords, such as `backend`, go to its class."""
    backend = kwargs.get("backend", _BACKENDS[0])
    if backend not in _BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; use one of {', '.join(_BACKENDS)}")
    try:
        with _quietly():
            env = brax_envs.get_environment(name, **kwargs)
    except TypeError as error:
        raise ValueError(f"environment {name!r} does not take {kwargs}: {error}") from None
    except ValueError as error:
        if "Unsupported backend" not in str(error):
            raise
        raise ValueError(
            f"backend={backend!r} is not one that brax has {name!r} for; try another of "
            f"{', '.join(_BACKENDS)}"
        ) from None
    return BraxEnvironment(env, episode_length, action_repeat, name)


class BraxEnvironment(Environment):
    """A brax environment with a time limit of `episode_length` steps.

    Each episode starts from a fresh initial state. The time limit truncates; `done` terminates.
    Each action is repeated for `action_repeat` steps of the environment, and rewards are summed.
    """

    costly_reset = True

    def __init__(
        self,
        env: Any,
        episode_length: int = 1000,
        action_repeat: int = 1,
        name: str | None = None,
    ):
        for label, value in (("episode_length", episode_length), ("action_repeat", action_repeat)):
            require_whole_number(label, value)
        self.name = name or type(getattr(env, "unwrapped", env)).__name__.lower()
        _refuse_self_resetting(env, self.name)
        self._env = env
        self._action_repeat = action_repeat
        self.max_episode_steps = -(-episode_length // action_repeat)
        self.action_space = Box(-1.0, 1.0, (int(env.action_size),))
        self._takes_typed_keys = _takes_typed_keys(env, self.name)
        _, obs = jax.eval_shape(self.reset, jax.random.key(0))
        self.obs_shape = shapes_of(policy_part(obs))

    @property
    def unwrapped(self) -> Any:
        """The brax environment."""
        return self._env

    def reset(self, key: jax.Array):
        """Start an episode from a fresh initial state."""
        state = self._env.reset(key if self._takes_typed_keys else jax.random.key_data(key))
        return (state, jnp.int32(0)), _with_roles(state.obs)

    def step(self, key: jax.Array, state: Any, action: jax.Array):
        """One step; brax is deterministic and needs no key."""
        del key
        brax_state, time = state
        brax_state, reward = self._repeat(brax_state, action)
        time = time + 1
        cut = jnp.asarray((brax_state.info or {}).get("truncation", False), bool)
        return (brax_state, time), EnvStep(
            obs=_with_roles(brax_state.obs),
            reward=reward,
            terminated=(brax_state.done > 0) & ~cut,
            truncated=(time >= self.max_episode_steps) | cut,
        )

    def _repeat(self, state: Any, action: jax.Array):
        if self._action_repeat == 1:
            state = self._env.step(state, action)
            return state, state.reward

        def once(carried, _):
            stepped = self._env.step(carried, action)
            alive = carried.done == 0
            kept = jax.tree.map(lambda new, old: jnp.where(alive, new, old), stepped, carried)
            return kept, jnp.where(alive, stepped.reward, 0)

        state, rewards = jax.lax.scan(once, state, None, length=self._action_repeat)
        return state, jnp.sum(rewards)


def _with_roles(obs: Any) -> Any:
    """brax's convention for dictionaries: "state" for the policy, "privileged_state" for V."""
    if isinstance(obs, Mapping) and obs.keys() == {"state", "privileged_state"}:
        return Observation(policy=obs["state"], critic=obs["privileged_state"])
    return obs


def _refuse_self_resetting(env: Any, name: str):
    while env is not None:
        if type(env).__name__ in _SELF_RESETTING:
            raise ValueError(
                f"{name} is wrapped in brax's {type(env).__name__}; pass the environment without "
                "it: trpo_jax does batching and automatic reset"
            )
        env = vars(env).get("env")


def _takes_typed_keys(env: Any, name: str) -> bool:
    """Whether reset takes JAX's typed keys, as opposed to uint32 key data."""
    mistakes = (TypeError, ValueError, IndexError)
    try:
        jax.eval_shape(env.reset, jax.random.key(0))
        return True
    except mistakes as error:
        refusal = error
    try:
        jax.eval_shape(env.reset, jax.random.key_data(jax.random.key(0)))
        return False
    except mistakes:
        raise ValueError(
            f"reset of {name} takes neither a typed key (jax.random.key) nor its uint32 data: "
            f"{refusal}"
        ) from refusal
