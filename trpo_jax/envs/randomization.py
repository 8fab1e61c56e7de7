"""Domain randomisation: the parameters of an environment are drawn anew for every episode."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.envs.base import Environment, EnvState, Obs, strongly_typed
from trpo_jax.envs.wrappers import Wrapper
from trpo_jax.spaces import Observation, critic_view, policy_part

_FORM = "randomize(key, parameters) -> parameters or (parameters, privileged)"
_PLAYGROUNDS_FORM = "randomize(parameters, keys) -> (parameters, in_axes)"

Draw = Callable[[jax.Array], tuple[Any, Any]]
"""key -> (parameters, privileged)."""


class RandomizedState(NamedTuple):
    """State of a `Randomized` environment."""

    inner: EnvState
    drawn: list[jax.Array]
    """The leaves of the parameters that depend on the key; all environments share the others."""
    privileged: Any
    """What only the critic sees; None if nothing."""


class Randomized(Wrapper):
    """An environment whose parameters are drawn at each reset and last for the episode.

    `fn(key, parameters)` returns parameters of the same structure and shapes, or a pair of these
    and `privileged`, an array or a tree of arrays. The critic then sees (what it saw before,
    privileged), which the built-in networks flatten into one vector; the policy sees what it saw
    before. Playground's form, `fn(parameters, keys [1])` -> (parameters, in_axes), is recognised.
    """

    def __init__(self, env: Environment, fn: Callable[..., Any]):
        super().__init__(env)
        self.randomize = fn
        self._split_up()

    def with_parameters(self, parameters: Any) -> Self:
        """The same with other parameters to start from."""
        other = super().with_parameters(parameters)
        other._split_up()
        return other

    def _split_up(self) -> None:
        """Find the form of the function, and which leaves it draws."""
        base = self.parameters
        self._draw, leaves = _in_either_form(self.randomize, base, self.name)
        self._is_drawn = [
            isinstance(leaf, jax.core.Tracer) and leaf is not old
            for leaf, old in zip(leaves, jax.tree.leaves(base), strict=True)
        ]
        fixed = zip(leaves, self._is_drawn, strict=True)
        self._fixed = [None if is_drawn else leaf for leaf, is_drawn in fixed]
        self._structure: Any = jax.tree.structure(base)

    def reset(self, key: jax.Array):
        """Draw parameters and start an episode with them."""
        reset_key, draw_key = jax.random.split(key)
        parameters, privileged = self._draw(draw_key)
        leaves = zip(jax.tree.leaves(parameters), self._is_drawn, strict=True)
        drawn = [strongly_typed(leaf) for leaf, is_drawn in leaves if is_drawn]
        privileged = jax.tree.map(strongly_typed, privileged)
        inner, obs = self._env_with(drawn).reset(reset_key)
        return RandomizedState(inner, drawn, privileged), _with_privileged(obs, privileged)

    def step(self, key: jax.Array, state: RandomizedState, action: jax.Array):
        """One step with the parameters of the episode."""
        inner, step = self._env_with(state.drawn).step(key, state.inner, action)
        obs = _with_privileged(step.obs, state.privileged)
        return state._replace(inner=inner), step._replace(obs=obs)

    def inner_state(self, state: RandomizedState) -> EnvState:
        """The state of `env`."""
        return state.inner

    def _env_with(self, drawn: list[jax.Array]) -> Any:
        rest, env = iter(drawn), self.env
        pairs = zip(self._fixed, self._is_drawn, strict=True)
        leaves = [next(rest) if is_drawn else leaf for leaf, is_drawn in pairs]
        parameters = jax.tree.unflatten(self._structure, leaves)
        return env.with_parameters(parameters)  # type: ignore[attr-defined]


def randomized(env: Environment, fn: Callable[..., Any]) -> Environment:
    """The environment with parameters that `fn` draws at each reset, as in `Randomized`.

    Raises `ValueError` if `env` has no parameters, or `fn` does not fit them.
    """
    if not callable(fn):
        raise ValueError(f"randomize={fn!r} must be a function: {_FORM}")
    if not (hasattr(env, "parameters") and hasattr(env, "with_parameters")):
        raise ValueError(
            f"randomize={_name(fn)}: {env.name} has no parameters to draw; environments of gymnax, "
            "brax, playground, craftax and xminigrid have, and any with an attribute `parameters` "
            "and a method `with_parameters(parameters)`"
        )
    return Randomized(env, fn)


def _with_privileged(obs: Obs, privileged: Any) -> Obs:
    if privileged is None:
        return obs
    mask = obs.action_mask if isinstance(obs, Observation) else None
    return Observation(policy_part(obs), (critic_view(obs), privileged), mask)


def _in_either_form(fn: Callable[..., Any], base: Any, name: str) -> tuple[Draw, list[Any]]:
    """`fn` as key -> (parameters, privileged), and the leaves that it gives for a traced key."""
    refusals = []
    for form in (_from_key, _from_keys):
        draw = form(fn, base)
        leaves: list[Any] = []

        def trace(key: jax.Array, draw: Draw = draw, leaves: list[Any] = leaves) -> Any:
            parameters, privileged = draw(key)
            leaves.extend(jax.tree.leaves(parameters))
            return jax.tree.map(jnp.asarray, privileged)

        try:
            jax.eval_shape(trace, jax.eval_shape(lambda: jax.random.key(0)))
            return draw, leaves
        except Exception as error:
            refusals.append(error)
    ours, playgrounds = (f"{type(e).__name__}: {str(e).partition(chr(10))[0]}" for e in refusals)
    raise ValueError(
        f"randomize={_name(fn)} does not fit {name}; as {_FORM}: {ours}; "
        f"as {_PLAYGROUNDS_FORM}: {playgrounds}"
    ) from refusals[0]


def _from_key(fn: Callable[..., Any], base: Any) -> Draw:
    """From `fn(key, parameters)`."""

    def draw(key: jax.Array) -> tuple[Any, Any]:
        returned = fn(key, base)
        privileged = None
        same: Any = jax.tree.structure(returned)
        if same != jax.tree.structure(base) and _is_pair(returned):
            returned, privileged = returned
        _require_like(returned, base)
        return returned, privileged

    return draw


def _from_keys(fn: Callable[..., Any], base: Any) -> Draw:
    """From `fn(parameters, keys)`, in which the leaves that are drawn get an axis for the keys."""

    def draw(key: jax.Array) -> tuple[Any, Any]:
        returned = fn(base, key[None])
        if not _is_pair(returned):
            raise ValueError("it returns no pair")
        parameters, in_axes = returned
        shared = jax.tree.leaves(parameters)
        is_drawn: list[bool] = []

        def own(one: Any) -> list[jax.Array]:
            leaves = jax.tree.leaves(one)
            is_drawn.extend(leaf is not old for leaf, old in zip(leaves, shared, strict=True))
            return [leaf for leaf, drawn in zip(leaves, is_drawn, strict=True) if drawn]

        rows = iter(jax.vmap(own, in_axes=(in_axes,))(parameters))
        pairs = zip(shared, is_drawn, strict=True)
        leaves = [next(rows)[0] if drawn else leaf for leaf, drawn in pairs]
        parameters = jax.tree.unflatten(jax.tree.structure(parameters), leaves)
        _require_like(parameters, base)
        return parameters, None

    return draw


def _require_like(parameters: Any, base: Any) -> None:
    """Raise `ValueError` unless structure and shapes are those of the base."""
    difference = trees.first_difference(parameters, base)
    if difference is not None:
        raise ValueError(f"parameters of another structure: {difference}")
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    for (path, new), old in zip(leaves, jax.tree.leaves(base), strict=True):
        if jnp.shape(new) != jnp.shape(old):
            raise ValueError(
                f"{jax.tree_util.keystr(path)} has shape {jnp.shape(new)}; it must stay "
                f"{jnp.shape(old)}"
            )


def _is_pair(value: Any) -> bool:
    return type(value) is tuple and len(value) == 2


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", repr(fn))
