"""A training state on disk by itself, without a run."""

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp

from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.experiments.chunks import init_lanes
from trpo_jax.experiments.files import create_directory, require_path
from trpo_jax.learner.agent import Agent, require_agent
from trpo_jax.learner.types import TrainState

_ONLY = 0
"""The number under which the one state of a directory is stored."""


def save(state: TrainState, path: str | Path) -> Path:
    """Write a state to `path`, a new or empty directory, whole or not at all; returns it.

    It may be of one seed or of several (leaves [seeds, ...]). A run on disk does this by itself:
    see `train_run`. Raises `ValueError` if `state` is none, or cannot be written there.
    """
    if not isinstance(state, TrainState):
        raise ValueError(f"state={type(state).__name__} must be a TrainState, from agent.init")
    directory = create_directory(require_path("path", path))
    with contextlib.closing(Checkpoints(directory)) as checkpoints:
        checkpoints.save(_ONLY, state, {"seeds": list(jnp.shape(state.key))})
    return directory


def restore(path: str | Path, agent: Agent) -> TrainState:
    """Read a state that `save` wrote to `path`, bit for bit; `agent` is like that which made it.

    Training continues as if it had not been interrupted; environments on the host, whose simulators
    are not in a state, begin new episodes. Raises `ValueError` if the directory holds no state, a
    damaged one, or one of an agent with other networks or another environment.
    """
    require_agent("agent", agent)
    directory = require_path("path", path)
    with contextlib.closing(Checkpoints(directory)) as checkpoints:
        if checkpoints.updates() != [_ONLY]:
            raise ValueError(
                f"path={directory} holds no state written by trpo_jax.save; a run directory is "
                "read by trpo_jax.load_run"
            )
        seeds = checkpoints.note(_ONLY).get("seeds", [])
        like = init_lanes(agent, range(seeds[0])) if seeds else agent.init(jax.random.key(0))
        return checkpoints.restore(_ONLY, like)
