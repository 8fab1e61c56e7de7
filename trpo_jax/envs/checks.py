"""Checks that an environment satisfies the interface `Environment`, before compilation."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.common import trees
from trpo_jax.common.checks import require_whole_number
from trpo_jax.envs.base import (
    Environment,
    EnvStep,
    like,
    named_costs,
    some_action,
    strongly_typed,
)
from trpo_jax.envs.host import HostEnvironment
from trpo_jax.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    Observation,
    is_shape,
    mask_size,
    policy_part,
    shapes_of,
)


def check_is_environment(env: Any) -> None:
    """Raise `ValueError` unless `env` is a hashable `Environment`."""
    if not isinstance(env, Environment):
        raise ValueError(
            f"env={env!r} is not a trpo_jax.Environment; make one with trpo_jax.make_env(…)"
        )
    try:
        hash(env)
    except TypeError:
        raise ValueError(
            f"{type(env).__name__} cannot be hashed, but compiled programs are cached by "
            "environment; declare it with @dataclass(eq=False), or without dataclass"
        ) from None


def require_promises(env: Environment) -> None:
    """Raise `ValueError` with a remedy if `env` cannot be trained. Traces it, but runs nothing.

    Simulators on the host cannot be traced; of them only the description is checked.
    """
    _check_attributes(env)
    _check_action_space(env)
    if isinstance(env, HostEnvironment):
        _check_host_spec(env)
        return
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.eval_shape(lambda: some_action(env.action_space))
    jax.eval_shape(functools.partial(_check_episode, env), key, action)


def _check_attributes(env: Environment) -> None:
    for attribute in ("name", "obs_shape", "action_space"):
        if not hasattr(env, attribute):
            raise ValueError(
                f"{type(env).__name__} has no {attribute}; see trpo_jax.Environment for what an "
                "environment must have"
            )
    shapes = jax.tree.leaves(env.obs_shape, is_leaf=is_shape)
    array = is_shape(env.obs_shape) or not shapes
    if (array and not env.obs_shape) or not all(map(_is_usable_shape, shapes)):
        raise ValueError(
            f"obs_shape={env.obs_shape!r} of {env.name} must be a tuple of at least one size, such "
            "as (4,), or a tree of tuples like the observation"
        )
    if env.max_episode_steps is not None:
        require_whole_number(f"max_episode_steps of {env.name}", env.max_episode_steps)


def _check_action_space(env: Environment) -> None:
    space = env.action_space
    if isinstance(space, Discrete):
        sizes = _whole_numbers([space.num_actions])
    elif isinstance(space, MultiDiscrete):
        sizes = _whole_numbers(space.num_categories)
    elif isinstance(space, Box):
        sizes = _whole_numbers(space.shape)
    else:
        raise ValueError(
            f"action_space={space!r} of {env.name} must be a trpo_jax.Discrete, MultiDiscrete or "
            "Box"
        )
    if sizes is None:
        raise ValueError(
            f"action_space={space!r} of {env.name} must be counted in whole numbers, as "
            "Discrete(2), MultiDiscrete((2, 3)) and Box(-1, 1, (3,)) are"
        )
    fewest = min(sizes, default=1 if isinstance(space, Box) else 0)  # a Box may have shape ()
    if fewest < 1 or (isinstance(space, Box) and not _has_valid_bounds(space)):
        raise ValueError(
            f"action_space={space!r} of {env.name} has no actions; it needs at least one dimension "
            "with at least one choice, and bounds of its shape with low < high"
        )


def _check_host_spec(env: HostEnvironment) -> None:
    """Check the shapes and types that cannot be traced."""
    leaves = jax.tree.leaves(env.obs_spec)
    if not leaves or not all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves):
        raise ValueError(
            f"obs_spec={env.obs_spec!r} of {env.name}, which steps on the host, must say shapes "
            "and types of one observation, which cannot be traced there: "
            f"jax.ShapeDtypeStruct({env.obs_shape}, numpy.float32), or a tree of them"
        )
    shapes = shapes_of(policy_part(env.obs_spec))
    if shapes != env.obs_shape:
        raise ValueError(
            f"obs_spec of {env.name} has shapes {shapes}, and obs_shape={env.obs_shape!r}; give "
            "both the same, without an axis for several environments"
        )


def _is_usable_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and min(_whole_numbers(shape) or (int(shape == ()),)) >= 1


def _whole_numbers(sizes: Any) -> tuple[int, ...] | None:
    """Sizes from a tuple, list or array, as a tuple; None if they are anything else."""
    try:
        return tuple(operator.index(size) for size in sizes)
    except TypeError:
        return None


def _has_valid_bounds(space: Box) -> bool:
    try:
        low, high = (np.broadcast_to(bound, space.shape) for bound in (space.low, space.high))
    except ValueError:
        return False
    return _is_real(low.dtype) and _is_real(high.dtype) and bool(np.all(low < high))


def _check_episode(env: Environment, key: jax.Array, action: jax.Array) -> None:
    """Check what `reset` and one `step` return, traced without a batch axis."""
    begun = env.reset(key)
    if not (isinstance(begun, tuple) and len(begun) == 2):
        raise ValueError(f"reset of {env.name} returns {begun!r}; it must return (state, obs)")
    state = _as_arrays(f"reset of {env.name}", begun[0])
    _check_observation(env, "reset", begun[1])
    copy = jax.tree.map(jnp.asarray, state)  # brax's step writes into the dictionaries it is given
    stepped = env.step(key, copy, action)
    if not (isinstance(stepped, tuple) and len(stepped) == 2 and isinstance(stepped[1], EnvStep)):
        raise ValueError(
            f"step of {env.name} returns {stepped!r}; it must return (state, trpo_jax.EnvStep(…))"
        )
    after, step = _as_arrays(f"step of {env.name}", stepped[0]), stepped[1]
    for what, old, new in (("state", state, after), ("observation", begun[1], step.obs)):
        difference = trees.first_difference(new, old)
        if difference is not None:
            raise ValueError(
                f"the {what} of {env.name} has another structure after step than after reset: "
                f"{what} {difference}"
            )
    jax.tree.map(like, state, after)
    _check_observation(env, "step", step.obs)
    for field in ("reward", "terminated", "truncated"):
        _check_array(f"step of {env.name} returns {field}", getattr(step, field), ())
    metrics = {} if step.metrics is None else step.metrics
    if not isinstance(metrics, dict) or not all(isinstance(name, str) for name in metrics):
        raise ValueError(
            f"step of {env.name} returns metrics={metrics!r}; a dict of scalars by name is needed"
        )
    if env.metrics is not None and set(env.metrics) != set(metrics):
        raise ValueError(
            f"metrics={env.metrics!r} of {env.name}, but step returns {tuple(metrics)}; announce "
            "the same names, or leave the attribute out"
        )
    for name, value in metrics.items():
        _check_array(f"step of {env.name} returns metrics[{name!r}]", value, ())
    _check_costs(env, step.cost)


def _check_costs(env: Environment, cost: Any) -> None:
    costs = named_costs(cost)
    if not all(isinstance(name, str) for name in costs):
        raise ValueError(
            f"step of {env.name} returns cost={cost!r}; a scalar, or a dict of scalars by name, is "
            "needed"
        )
    if env.costs is not None and set(env.costs) != set(costs):
        raise ValueError(
            f"costs={env.costs!r} of {env.name}, but step returns {tuple(costs)}; announce the "
            'same names, ("cost",) for a scalar, or leave the attribute out'
        )
    for name, value in costs.items():
        label = "cost" if cost is value else f"cost[{name!r}]"
        _check_array(f"step of {env.name} returns {label}", value, ())


def _check_observation(env: Environment, function: str, obs: Any) -> None:
    """Check the policy's part against `obs_shape`, and the critic's part and mask for types."""
    what = f"{function} of {env.name} returns observations"
    part = policy_part(obs)
    if is_shape(env.obs_shape):
        _check_array(what, part, env.obs_shape)
    else:
        leaves = jax.tree.leaves(part)
        shapes = jax.tree.map(jnp.shape, part)
        if shapes != env.obs_shape or not all(_is_real(jnp.result_type(x)) for x in leaves):
            raise ValueError(f"{what} of shapes {shapes}; obs_shape={env.obs_shape} is announced")
    if not isinstance(obs, Observation):
        return
    for leaf in jax.tree.leaves(obs.critic):
        _check_array(f"{what} whose critic part is", leaf, jnp.shape(leaf))
    if obs.action_mask is None:
        return
    size = mask_size(env.action_space)
    if size is None:
        raise ValueError(f"{what} with an action_mask, but actions of a Box cannot be masked")
    if jnp.shape(obs.action_mask) != (size,) or jnp.result_type(obs.action_mask) != jnp.bool_:
        raise ValueError(
            f"{what} with an action_mask of {jnp.result_type(obs.action_mask)}"
            f"{jnp.shape(obs.action_mask)}; it must be bool({size},), True for allowed actions"
        )


def _as_arrays(function: str, state: Any) -> Any:
    try:
        return jax.tree.map(strongly_typed, state)
    except TypeError as error:
        raise ValueError(
            f"{function} returns a state that is not a tree of arrays: {error}"
        ) from None


def _check_array(what: str, value: Any, shape: tuple[int, ...]) -> None:
    wanted = f"one array of shape obs_shape={shape}" if shape else "a scalar of shape ()"
    if isinstance(value, bool | int | float):
        value = np.asarray(value)
    if not isinstance(value, jax.Array | np.ndarray | np.generic) or not _is_real(value.dtype):
        raise ValueError(f"{what}={value!r}; {wanted} is needed, of real numbers or bools")
    if value.shape != shape:
        raise ValueError(f"{what} of shape {value.shape}; {wanted} is needed")


def _is_real(dtype: Any) -> bool:
    """Whether it can be cast to float32: true for integers and bools, false for keys."""
    return isinstance(dtype, np.dtype) and np.can_cast(dtype, np.float32, "same_kind")
