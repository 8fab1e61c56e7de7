"""Chunks of updates between two visits of the host: one compiled program for any number."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.common import compilation
from trpo_jax.config import HParams
from trpo_jax.envs.host import HostEnvironment
from trpo_jax.learner.host_trajectory import trajectory_spec
from trpo_jax.learner.learn import learn
from trpo_jax.learner.monitoring import UpdateMetrics
from trpo_jax.learner.trpo import Agent

MAX_CHUNK = 100
"""Maximum number of updates between two visits."""

Update = Callable[[Any, HParams], tuple[Any, UpdateMetrics]]
"""(states, hparams) -> (states, metrics [lanes, ...])."""


def is_on_host(agent: Agent) -> bool:
    """Whether an agent's functions run on the host: they take several states as they are."""
    return isinstance(agent.parts.env, HostEnvironment)


def init_lanes(agent: Agent, seeds: Sequence[int] | jax.Array) -> Any:
    """The states of several seeds before the first update."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    return agent.init(keys) if is_on_host(agent) else jax.vmap(agent.init)(keys)


def one_lane(agent: Agent) -> Update:
    """The update of a single state."""

    def update(state: Any, hparams: HParams) -> tuple[Any, UpdateMetrics]:
        state, metrics = agent.update(state, hparams)
        return state, jax.tree.map(lambda leaf: leaf[None], metrics)

    return update


def seed_lanes(agent: Agent) -> Update:
    """The update of several states in parallel, with the same hyperparameters."""
    if is_on_host(agent):
        return agent.update
    return jax.vmap(agent.update, in_axes=(0, None))


def setting_lanes(agent: Agent) -> Update:
    """The update of several states in parallel, each with its own hyperparameters."""
    if is_on_host(agent):
        return agent.update
    return jax.vmap(agent.update)


def metrics_spec(agent: Agent, states: Any, hparams: HParams) -> UpdateMetrics:
    """Shapes and types of the metrics [lanes, ...] of one update of several states."""
    if not is_on_host(agent):
        return jax.eval_shape(setting_lanes(agent), states, hparams)[1]
    number = states.key.shape[0]
    trajectories = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((number, *leaf.shape), leaf.dtype),
        trajectory_spec(agent.parts),
    )
    return jax.eval_shape(
        jax.vmap(functools.partial(learn, agent.parts)), states, trajectories, hparams
    )[1]


def make_advance(agent: Agent, update: Update, shardings: Any = None) -> Any:
    """(state, hparams, count) -> (state, history [lanes, MAX_CHUNK, ...]); `count` updates filled.

    The number of updates is an argument of the compiled program, so the points at which the host
    looks in change no bit of the result. `shardings` are those of state and history. For an agent
    on the host it is a loop, and the history has `count` updates.
    """
    if is_on_host(agent):
        return _host_loop(update)

    @functools.partial(jax.jit, out_shardings=shardings, compiler_options=compilation.options())
    def advance(state: Any, hparams: HParams, count: jax.Array) -> tuple[Any, UpdateMetrics]:
        empty = jax.tree.map(
            lambda leaf: jnp.zeros((leaf.shape[0], MAX_CHUNK, *leaf.shape[1:]), leaf.dtype),
            jax.eval_shape(update, state, hparams)[1],
        )

        def body(i: Any, carried: tuple[Any, UpdateMetrics]) -> tuple[Any, UpdateMetrics]:
            state, history = carried
            state, metrics = update(state, hparams)
            return state, jax.tree.map(lambda all, one: all.at[:, i].set(one), history, metrics)

        return jax.lax.fori_loop(0, count, body, (state, empty))

    return advance


def _host_loop(update: Update) -> Any:
    def advance(state: Any, hparams: HParams, count: Any) -> tuple[Any, UpdateMetrics]:
        history = []
        for _ in range(int(count)):
            state, metrics = update(state, hparams)
            history.append(jax.device_get(metrics))
        return state, jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *history)

    return advance


def compiled(program: Any, *arguments: Any) -> Any:
    """A program compiled ahead of its first call; a loop on the host as it is."""
    return program.lower(*arguments).compile() if hasattr(program, "lower") else program


def first_updates(history: UpdateMetrics, count: int) -> UpdateMetrics:
    """The filled part of a history."""
    return jax.tree.map(lambda leaf: leaf[:, :count], history)
