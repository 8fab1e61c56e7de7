"""Chunks of updates between two visits of the host: one compiled program for any number."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.config import HParams
from trpo_jax.learner.monitoring import UpdateMetrics
from trpo_jax.learner.trpo import Agent

MAX_CHUNK = 100
"""Maximum number of updates between two visits."""

Update = Callable[[Any, HParams], tuple[Any, UpdateMetrics]]
"""(states, hparams) -> (states, metrics [lanes, ...])."""


def one_lane(agent: Agent) -> Update:
    """The update of a single state."""

    def update(state: Any, hparams: HParams) -> tuple[Any, UpdateMetrics]:
        state, metrics = agent.update(state, hparams)
        return state, jax.tree.map(lambda leaf: leaf[None], metrics)

    return update


def seed_lanes(agent: Agent) -> Update:
    """The update of several states in parallel, with the same hyperparameters."""
    return jax.vmap(agent.update, in_axes=(0, None))


def setting_lanes(agent: Agent) -> Update:
    """The update of several states in parallel, each with its own hyperparameters."""
    return jax.vmap(agent.update)


def make_advance(update: Update, shardings: Any = None) -> Any:
    """(state, hparams, count) -> (state, history [lanes, MAX_CHUNK, ...]); `count` updates filled.

    The number of updates is an argument of the compiled program, so the points at which the host
    looks in change no bit of the result. `shardings` are those of state and history.
    """

    @functools.partial(jax.jit, out_shardings=shardings)
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


def first_updates(history: UpdateMetrics, count: int) -> UpdateMetrics:
    """The filled part of a history."""
    return jax.tree.map(lambda leaf: leaf[:, :count], history)
