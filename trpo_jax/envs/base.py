"""The interface of an environment, and the batched steps that all environments share."""

import abc
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.spaces import ActionSpace, Discrete, MultiDiscrete

DEFAULT_MAX_STEPS = 1000
"""Steps of an episode where an environment has no time limit and a number is needed."""
EnvState = Any
Obs = Any
"""An array, a tree of arrays, or an `Observation` of these."""


class EnvStep(NamedTuple):
    """What one step of an environment returns, before any automatic reset."""

    obs: Obs
    """The observation after the action, even if the action ended the episode."""
    reward: Any
    """Scalar."""
    terminated: Any
    """bool: the episode reached a terminal state, whose value is zero."""
    truncated: Any
    """bool: the episode was cut off, for example by a time limit, and its last state keeps its
    value. If both flags are set, `terminated` wins."""
    metrics: Any = None
    """What else the step measured, for the reports only: a dictionary of scalars by name, such as
    success or the terms of the reward, with the same names at every step; None for none. Reports
    count a value that is not finite as 0."""
    cost: Any = None
    """What the step costs, for a constraint on the cost per episode: a scalar, or a dictionary of
    scalars by name, the same at every step, which are recorded one by one and constrained by their
    sum; None for none."""


class Environment(abc.ABC):
    """One environment as pure functions of its state. Subclass it to write your own.

    Example: a corridor of five cells; the agent starts at cell 0 and is rewarded at the last one.

        class Corridor(Environment):
            name = "corridor"
            obs_shape = (1,)
            action_space = Discrete(2)
            max_episode_steps = 20

            def reset(self, key):
                return {"cell": jnp.int32(0), "time": jnp.int32(0)}, jnp.zeros(1)

            def step(self, key, state, action):
                cell = jnp.clip(state["cell"] + 2 * action - 1, 0, 4)
                time = state["time"] + 1
                return {"cell": cell, "time": time}, EnvStep(
                    obs=cell[None] / 4,
                    reward=jnp.float32(cell == 4),
                    terminated=cell == 4,
                    truncated=time >= self.max_episode_steps,
                )

    Neither function resets by itself; the library does `vmap`, `jit` and the automatic reset.
    Instances are compared by identity: keep one and reuse it, because each new one compiles again.
    """

    name: str
    """The name used in messages and run directories."""
    obs_shape: Any
    """Shape of one observation: a tuple of at least one size. For a tree, the same tree of tuples;
    for an `Observation`, the shape of its `policy` only."""
    action_space: ActionSpace
    """Discrete, MultiDiscrete or Box."""
    max_episode_steps: int | None = None
    """Time limit that `step` enforces by truncation, if it has one."""
    recipe: tuple[str, dict[str, Any]] | None = None
    """Id and keywords with which `make_env` recreates it; None if it was made another way."""
    obs_spec: Any = None
    """Shapes and types of one observation, a tree of `ShapeDtypeStruct`. None: `reset` and `step`
    are traced for it."""
    metrics: tuple[str, ...] | None = None
    """Names of the metrics that `step` reports. None: `step` is traced for them."""
    costs: tuple[str, ...] | None = None
    """Names of the costs that `step` reports, ("cost",) for a scalar. None: as with metrics."""
    costly_reset: bool = False
    """Whether a reset costs about as much as a step, so that one per step would be expensive."""

    @abc.abstractmethod
    def reset(self, key: jax.Array) -> tuple[EnvState, Obs]:
        """key -> (state, obs): the beginning of an episode.

        The observation is an array; a dictionary or tuple of arrays, which the built-in networks
        flatten into one vector; or an `Observation`, which says what only the critic sees and which
        actions are allowed. Floating arrays become float32. Integers and bools keep their type and
        are never normalised, so images may be uint8.
        """

    @abc.abstractmethod
    def step(self, key: jax.Array, state: EnvState, action: jax.Array) -> tuple[EnvState, EnvStep]:
        """(key, state, action) -> (next state, what happened). Never resets.

        The action is an int32 scalar (Discrete), int32 [dimensions] (MultiDiscrete) or float32
        [*shape] inside the bounds (Box).
        """


def observation_spec(env: Environment) -> Obs:
    """Shapes and types of one observation, a tree of `ShapeDtypeStruct`; traced at most once.

    Floating arrays are float32, and so are arrays whose type differs between `reset` and `step`.
    """
    return _traced(env)[0] if env.obs_spec is None else env.obs_spec


def metric_names(env: Environment) -> tuple[str, ...]:
    """Names of the metrics that the steps of an environment report; traced at most once."""
    return _traced(env)[1] if env.metrics is None else tuple(env.metrics)


def cost_names(env: Environment) -> tuple[str, ...]:
    """Names of the costs that the steps of an environment report; traced at most once."""
    return _traced(env)[2] if env.costs is None else tuple(env.costs)


def named_costs(cost: Any) -> dict[str, Any]:
    """`EnvStep.cost` as a dictionary: a scalar has the name "cost", and None gives an empty one."""
    if cost is None:
        return {}
    return dict(cost) if isinstance(cost, Mapping) else {SCALAR_COST: cost}


SCALAR_COST = "cost"
"""The name of a cost that has none."""


@functools.lru_cache(maxsize=64)
def _traced(env: Environment) -> tuple[Obs, tuple[str, ...], tuple[str, ...]]:
    """The types of an observation and the names of metrics and costs, from a traced step."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    first, later, metrics, costs = jax.eval_shape(lambda key: _first_step(env, key), key)
    return jax.tree.map(_common_type, first, later), tuple(metrics), tuple(costs)


def _first_step(env: Environment, key: jax.Array) -> tuple[Obs, Obs, dict, dict]:
    """The first observation, and observation, metrics and costs after an action, as arrays."""
    state, first = env.reset(key)
    # brax's step writes into the dictionaries it is given.
    _, step = env.step(key, jax.tree.map(jnp.asarray, state), some_action(env.action_space))
    reported = dict(step.metrics or {}), named_costs(step.cost)
    return jax.tree.map(jnp.asarray, (first, step.obs, *reported))


def _common_type(first: Any, later: Any) -> jax.ShapeDtypeStruct:
    same = first.dtype == later.dtype and not jnp.issubdtype(first.dtype, jnp.inexact)
    return jax.ShapeDtypeStruct(first.shape, first.dtype if same else jnp.float32)


def some_action(space: ActionSpace) -> jax.Array:
    """Some action of a space, in the type that `step` takes."""
    if isinstance(space, Discrete):
        return jnp.zeros((), jnp.int32)
    if isinstance(space, MultiDiscrete):
        return jnp.zeros(len(space.num_categories), jnp.int32)
    return jnp.zeros(space.shape, jnp.float32)


def reset_batch(env: Environment, keys: jax.Array) -> tuple[EnvState, Obs]:
    """Start N episodes from keys [N]; returns states and observations with leading axis N."""
    states, obs = jax.vmap(env.reset)(keys)
    return jax.tree.map(strongly_typed, states), _in_type(env, obs)


def step_batch(
    env: Environment, keys: jax.Array, states: EnvState, actions: jax.Array
) -> tuple[EnvState, EnvStep]:
    """Step N environments with keys [N], without reset.

    Observations have the types of `observation_spec`, rewards are float32, flags are bool, and
    `truncated` is false wherever the episode terminated. If an observation, reward or cost is not
    finite, the episode is truncated: a simulation that blew up restarts instead of spoiling the
    run. Metrics and costs are dictionaries of float32 [N], empty if the environment has none.
    """
    next_states, step = jax.vmap(env.step)(keys, states, actions)
    next_states = jax.tree.map(like, states, next_states)
    obs = _in_type(env, step.obs)
    terminated = jnp.asarray(step.terminated, bool)
    reward = jnp.asarray(step.reward, jnp.float32)
    finite = finite_rows(obs) & jnp.isfinite(reward)
    costs = {name: jnp.asarray(x, jnp.float32) for name, x in named_costs(step.cost).items()}
    for values in costs.values():
        finite &= jnp.isfinite(values)
    return next_states, EnvStep(
        obs=obs,
        reward=reward,
        terminated=terminated,
        truncated=(jnp.asarray(step.truncated, bool) | ~finite) & ~terminated,
        metrics={
            name: jnp.asarray(value, jnp.float32) for name, value in (step.metrics or {}).items()
        },
        cost=costs,
    )


def _in_type(env: Environment, obs: Obs) -> Obs:
    """Observations cast to the types of `observation_spec`."""
    return jax.tree.map(lambda x, spec: jnp.asarray(x, spec.dtype), obs, observation_spec(env))


def finite_rows(obs: Obs) -> jax.Array:
    """[N]: for each of N environments, whether all numbers in a tree of [N, ...] are finite."""
    checks = [
        jnp.all(jnp.isfinite(leaf.reshape(leaf.shape[0], -1)), axis=-1)
        for leaf in jax.tree.leaves(obs)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    rows = jax.tree.leaves(obs)[0].shape[0]
    return functools.reduce(jnp.logical_and, checks) if checks else jnp.ones(rows, bool)


def where_done(done: jax.Array, fresh: Any, current: Any) -> Any:
    """For each of N environments, `fresh` if it is done, else `current`; trees of [N, ...]."""

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(done.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(pick, fresh, current)


def strongly_typed(leaf: Any) -> jax.Array:
    """An array without weak type, so that state carried by a scan keeps its type."""
    array = jnp.asarray(leaf)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    return jax.lax.convert_element_type(array, array.dtype)


def like(before: jax.Array, after: Any) -> jax.Array:
    """`after` cast to the type of `before`; raises `ValueError` if that could lose information."""
    after = jnp.asarray(after)
    if after.shape != before.shape or (
        after.dtype != before.dtype and not np.can_cast(after.dtype, before.dtype, "same_kind")
    ):
        raise ValueError(
            f"a leaf of the environment's state is {before.dtype}{before.shape} after reset "
            f"but {after.dtype}{after.shape} after step; return the same type from both"
        )
    return after if after.dtype == before.dtype else after.astype(before.dtype)
