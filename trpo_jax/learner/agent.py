"""What an agent offers, and how its functions read their arguments."""

import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.common.checks import require_whole_number
from trpo_jax.config import HParams
from trpo_jax.envs.base import observation_spec
from trpo_jax.learner.evaluation import EpisodeStats
from trpo_jax.learner.memory import initial_carry, require_own_carries
from trpo_jax.learner.monitoring import UpdateMetrics
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.types import TrainState, Trajectory
from trpo_jax.policies.policy import Critic, Policy, RecurrentCritic, RecurrentPolicy

DEFAULT_HPARAMS = HParams()


class Agent(NamedTuple):
    """The functions that make up an agent. All are pure and compile on first use.

    They compose with `jit`, `vmap`, `scan` and sharding.
    """

    init: Callable[..., TrainState]
    """(key, policy_params=None, value_params=None) -> state; parameters not given are drawn. Safe
    under `vmap`."""
    update: Callable[..., tuple[TrainState, UpdateMetrics]]
    """(state, hparams) -> (state, metrics): rollout, advantages, policy step, value fit."""
    train: Callable[..., tuple[TrainState, UpdateMetrics]]
    """(state, hparams, num_updates=…) -> (state, history): a scan of `update`."""
    act: Callable[..., Any]
    """(state, key, obs [..., *obs_shape], deterministic=False) -> action for the environment.

    With a memory: (state, key, obs, deterministic=False, carry=…) -> (action, carry); begin each
    episode with `initial_carry(n)` for n observations."""
    evaluate: Callable[..., EpisodeStats]
    """(state, key, num_episodes=128, deterministic=True, max_steps=None) -> `EpisodeStats`."""
    rollout: Callable[[TrainState], tuple[TrainState, Trajectory]]
    """state -> (state, trajectory): the first half of `update`."""
    learn: Callable[..., tuple[TrainState, UpdateMetrics]]
    """(state, trajectory, hparams) -> (state, metrics): the second half. Refuses stale data."""
    policy: Policy | RecurrentPolicy
    """The policy network as functions."""
    critic: Critic | RecurrentCritic
    """The value network as functions."""
    parts: Parts
    """All parts of the agent."""
    initial_carry: Callable[[int], Any]
    """n -> the policy's memories of n environments at the beginning of an episode; None if it has
    no memory."""


def act_with(
    compiled: Callable[..., Any],
    state: TrainState,
    key: jax.Array,
    obs: Any,
    deterministic: bool = False,
    carry: Any = None,
) -> Any:
    """`Agent.act`, given the compiled function."""
    if lead := jnp.shape(getattr(state, "key", 0)):
        raise ValueError(
            f"state.key has shape {lead}, and act takes the state of one seed; pass that of number "
            "i, jax.tree.map(lambda leaf: leaf[i], state)"
        )
    return compiled(
        state, typed_key(key), _as_arrays(obs), deterministic=deterministic, carry=carry
    )


def _as_arrays(obs: Any) -> Any:
    """Lists of numbers as arrays; other trees leaf by leaf."""
    if isinstance(obs, list):
        return jnp.asarray(obs)
    return jax.tree.map(jnp.asarray, obs, is_leaf=_is_list_of_numbers)


def _is_list_of_numbers(node: Any) -> bool:
    return isinstance(node, list) and all(
        isinstance(entry, bool | int | float | np.generic) or _is_list_of_numbers(entry)
        for entry in node
    )


def act_and_remember(
    agent: Agent, state: TrainState, key: jax.Array, obs: Any, deterministic: bool, carry: Any
) -> tuple[Any, Any]:
    """(action, carry) of an agent with or without memory, whose carry is then None."""
    if carry is None:
        return agent.act(state, key, obs, deterministic=deterministic), None
    return agent.act(state, key, obs, deterministic=deterministic, carry=carry)


def initial_carry_of(parts: Parts, number: int = 1) -> Any:
    """`Agent.initial_carry`, given the parts."""
    require_whole_number("n", number)
    return initial_carry(parts.policy, int(number))


def evaluate_with(
    compiled: Callable[..., EpisodeStats],
    state: TrainState,
    key: jax.Array,
    num_episodes: int = 128,
    deterministic: bool = True,
    max_steps: int | None = None,
) -> EpisodeStats:
    """`Agent.evaluate`, given the function that plays."""
    require_whole_number("num_episodes", num_episodes)
    if max_steps is not None:
        require_whole_number("max_steps", max_steps)
    return compiled(state, typed_key(key), int(num_episodes), deterministic, max_steps)


def typed_key(key: Any) -> jax.Array:
    """A typed key; one from the older `PRNGKey` is converted."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype != jnp.uint32:
        raise ValueError(f"key={key!r} must be a random key; use jax.random.key(0)")
    return jax.random.wrap_key_data(key)


def require_agent(name: str, value: Any) -> None:
    """Raise `ValueError` unless the argument `name` is an agent."""
    if not isinstance(value, Agent):
        came = " ".join(reprlib.repr(value).split())
        raise ValueError(f"{name}={came} must be an Agent, from make_trpo")


def require_own_state(state: TrainState, parts: Parts, lanes: bool = False) -> None:
    """Raise `ValueError` unless it is a state whose observations have this agent's shapes.

    With `lanes` it may be several, with the axes of their keys in front.
    """
    if not isinstance(state, TrainState):
        came = " ".join(reprlib.repr(state).split())
        raise ValueError(f"state={came} must be a TrainState, from agent.init")
    lead = jnp.shape(state.key) if lanes else ()
    spec, num_envs = observation_spec(parts.env), parts.config.num_envs
    shapes = jax.tree.map(jnp.shape, state.actor.obs)
    wanted = jax.tree.map(lambda leaf: (*lead, num_envs, *leaf.shape), spec)
    if shapes != wanted:
        raise ValueError(
            f"state.actor.obs has shape {shapes}; this agent's is {wanted}: take a state "
            "of its own `init`, and `jax.vmap` for several states"
        )
    require_own_carries(parts, state.actor.carry, lead)


def scalars(hparams: HParams) -> HParams:
    """Hyperparameters as scalar arrays. Raises `ValueError` if they have a leading axis."""
    if not isinstance(hparams, HParams):
        raise ValueError(f"hparams={hparams!r} must be an HParams")
    arrays = hparams.as_arrays()
    for name, value in vars(arrays).items():
        if value.ndim:
            raise ValueError(
                f"{name} has shape {value.shape}; one run takes one number: vmap over the settings"
            )
    return arrays
