"""brax environments, and brax-style objects."""

import contextlib
import copy
import io
import warnings
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from trpo_jax.envs.base import Environment, EnvStep
from trpo_jax.envs.wrappers import transformed
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

_EPISODE_LENGTH = 1000
_BACKENDS = ("generalized", "spring", "positional", "mjx")
_SELF_RESETTING = ("AutoResetWrapper", "VmapWrapper", "DomainRandomizationVmapWrapper")


def list_ids() -> list[str]:
    """The ids of the environments that can be trained."""
    return sorted(brax_envs._envs)


def make(
    name: str, /, episode_length: int | None = None, action_repeat: int = 1, **kwargs
) -> Environment:
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
    return limited(BraxEnvironment(env, name), episode_length, action_repeat)


def from_object(env: Any, episode_length: int | None = None, action_repeat: int = 1) -> Environment:
    """An environment from an object of brax, or in its style."""
    return limited(BraxEnvironment(env), episode_length, action_repeat)


def limited(env: "BraxEnvironment", episode_length: int | None, action_repeat: int) -> Environment:
    """The environment with a time limit: without `episode_length` its own, or else 1000 steps."""
    if episode_length is None and env.max_episode_steps is None:
        episode_length = _EPISODE_LENGTH
    return transformed(env, episode_length=episode_length, action_repeat=action_repeat)


class BraxEnvironment(Environment):
    """A brax environment.

    Each episode starts from a fresh initial state. `done` terminates; the limit of brax's
    `EpisodeWrapper`, if it is wrapped in one, truncates.
    """

    costly_reset = True
    _model = "sys"
    """The attribute of the innermost object that `randomize` changes."""

    def __init__(self, env: Any, name: str | None = None):
        self.name = name or type(getattr(env, "unwrapped", env)).__name__.lower()
        _refuse_self_resetting(env, self.name)
        self._env = env
        self.max_episode_steps = _own_limit(env)
        self.action_space = Box(-1.0, 1.0, (int(env.action_size),))
        self._takes_typed_keys = _takes_typed_keys(env, self.name)
        _, obs = jax.eval_shape(self.reset, jax.random.key(0))
        self.obs_shape = shapes_of(policy_part(obs))

    @property
    def unwrapped(self) -> Any:
        """The brax environment."""
        return self._env

    @property
    def parameters(self) -> Any:
        """The physical model; `AttributeError` if there is none."""
        return getattr(_innermost(self._env), self._model)

    def with_parameters(self, parameters: Any) -> Self:
        """The same environment with another physical model."""
        other = copy.copy(self)
        other.recipe = None
        other._env = _with_model(self._env, self._model, parameters)
        return other

    def reset(self, key: jax.Array):
        """Start an episode from a fresh initial state."""
        state = self._env.reset(key if self._takes_typed_keys else jax.random.key_data(key))
        return state, _with_roles(state.obs)

    def step(self, key: jax.Array, state: Any, action: jax.Array):
        """One step; brax is deterministic and needs no key."""
        del key
        state = self._env.step(state, action)
        cut = jnp.asarray((state.info or {}).get("truncation", False), bool)
        return state, EnvStep(
            obs=_with_roles(state.obs),
            reward=state.reward,
            terminated=(state.done > 0) & ~cut,
            truncated=cut,
            metrics=_scalars(state.metrics),
        )


def _innermost(env: Any) -> Any:
    while vars(env).get("env") is not None:
        env = env.env
    return env


def _with_model(env: Any, attribute: str, model: Any) -> Any:
    """A copy of an object, and of all that it wraps, with another model inside."""
    env, inner = copy.copy(env), vars(env).get("env")
    if inner is None:
        setattr(env, attribute, model)
    else:
        env.env = _with_model(inner, attribute, model)
    return env


def _scalars(metrics: Any) -> dict[str, jax.Array]:
    """The metrics that are scalars, as far as an object in brax's style has any."""
    return {name: value for name, value in (metrics or {}).items() if jnp.ndim(value) == 0}


def _with_roles(obs: Any) -> Any:
    """brax's convention for dictionaries: "state" for the policy, "privileged_state" for V."""
    if isinstance(obs, Mapping) and obs.keys() == {"state", "privileged_state"}:
        return Observation(policy=obs["state"], critic=obs["privileged_state"])
    return obs


def _own_limit(env: Any) -> int | None:
    """Steps after which brax's EpisodeWrapper ends an episode; None without it."""
    while env is not None:
        if type(env).__name__ == "EpisodeWrapper":
            return -(-env.episode_length // env.action_repeat)
        env = vars(env).get("env")
    return None


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
