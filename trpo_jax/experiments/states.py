"""The agent of a run, and its states: initial, stored, and in between."""

import contextlib
import json
import reprlib
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.config import HParams
from trpo_jax.envs import Box, make_env
from trpo_jax.experiments import run_directory as layout
from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.experiments.chunks import (
    MAX_CHUNK,
    Update,
    init_lanes,
    is_on_host,
    make_advance,
    one_lane,
    seed_lanes,
)
from trpo_jax.experiments.run_directory import Run
from trpo_jax.experiments.specification import RunSpec, SweepSpec, plain_hparams
from trpo_jax.learner import beginning
from trpo_jax.learner.agent import require_own_state
from trpo_jax.learner.trpo import Agent, make_trpo
from trpo_jax.learner.types import TrainState


def make_agent(spec: RunSpec | SweepSpec, **brought: Any) -> Agent:
    """The agent of a run. Raises `ValueError` if environment or settings cannot work.

    `brought` are the parts that the specification does not name: `env`, and those of `make_trpo`.
    """
    if spec.config.algorithm == "trpo_adaptive_damping" and spec.hparams.cg_damping == 0:
        raise ValueError(
            f"cg_damping={spec.hparams.cg_damping} with algorithm=trpo_adaptive_damping: the "
            "damping is adapted by factors and would stay zero; use a positive value"
        )
    brought = {name: part for name, part in brought.items() if part is not None}
    missing = [name for name in getattr(spec, "own", ()) if name not in brought]
    if missing:
        raise ValueError(
            f"the run was trained with {', '.join(missing)} of its own, which its directory does "
            f"not hold; in Python: trpo_jax.load_run(path, {'=…, '.join(missing)}=…)"
        )
    env = brought.pop("env", None) or make_env(spec.env_id, **spec.env_kwargs)
    return make_trpo(env, spec.config, **brought)


def spec_of(agent: Agent, hparams: HParams, seed: int, num_seeds: int) -> RunSpec:
    """The specification of a run of an agent that was made in Python.

    Raises `ValueError` if hyperparameters are several numbers.
    """
    hparams, seed, num_seeds = plain_hparams(hparams), int(seed), int(num_seeds)
    env, config, own = agent.parts.env, agent.parts.config, agent.parts.own
    env_id, env_kwargs = env.recipe or (env.name, {})
    if env.recipe is None or not _is_plain(env_kwargs):
        own, env_kwargs = ("env", *own), {}
    continuous = isinstance(env.action_space, Box)
    return RunSpec(env_id, env_kwargs, config, hparams, seed, num_seeds, own, continuous)


def _is_plain(kwargs: dict[str, Any]) -> bool:
    """Whether keywords survive a round trip through JSON."""
    try:
        return json.loads(json.dumps(kwargs)) == kwargs
    except (TypeError, ValueError):
        return False


def initial_state(agent: Agent, spec: RunSpec) -> Any:
    """The state before the first update, with a leading axis if there are several seeds."""
    if spec.num_seeds == 1:
        return agent.init(jax.random.key(spec.seed))
    return init_lanes(agent, spec.seeds)


def require_state(agent: Agent, spec: RunSpec, state: Any) -> None:
    """Raise `ValueError` unless a run can begin with `state`, the argument `initial_state`."""
    if not isinstance(state, TrainState):
        came = " ".join(reprlib.repr(state).split())
        raise ValueError(f"initial_state={came} must be a TrainState, from agent.init")
    lead = () if spec.num_seeds == 1 else (spec.num_seeds,)
    if jnp.shape(state.key) != lead:
        raise ValueError(
            f"initial_state.key has shape {jnp.shape(state.key)}; num_seeds={spec.num_seeds} takes "
            f"{lead}: one state for one seed, and leaves [num_seeds, ...] for several"
        )
    wanted = _shapes_of_state(agent, spec, state)
    difference = trees.first_difference(state, wanted)
    if difference is not None:
        raise ValueError(f"initial_state{difference}: it must be a state of this agent's `init`")
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    for (path, leaf), like in zip(leaves, jax.tree.leaves(wanted), strict=True):
        shape, dtype = jnp.shape(leaf), getattr(leaf, "dtype", type(leaf).__name__)
        if (shape, dtype) != (like.shape, like.dtype):
            raise ValueError(
                f"initial_state{jax.tree_util.keystr(path)} has shape {shape} and type {dtype}; "
                f"this agent's has {like.shape} and {like.dtype}: take a state of its own `init`"
            )


def _shapes_of_state(agent: Agent, spec: RunSpec, state: TrainState) -> Any:
    """Shapes and types of an agent's state; on the host, where `init` cannot be traced, those of
    all but the actor, whose observations are checked."""
    if not is_on_host(agent):
        return jax.eval_shape(lambda: initial_state(agent, spec))
    require_own_state(state, agent.parts, lanes=True)
    nobody: Any = None

    def without_actor(key: jax.Array) -> TrainState:
        keys = jax.random.split(key, 3)
        return beginning.initial_state(agent.parts, keys, nobody, None, None)

    shapes = jax.vmap(without_actor) if state.key.ndim else without_actor
    return jax.eval_shape(shapes, state.key).replace(actor=state.actor)


def lane(spec: RunSpec, state: Any, seed: int | None) -> Any:
    """The state of one seed of a run; None: the first."""
    seed = spec.seed if seed is None else seed
    if seed not in spec.seeds:
        raise ValueError(
            f"seed={seed} is not one of this run; it has {', '.join(map(str, spec.seeds))}"
        )
    if spec.num_seeds == 1:
        return state
    return jax.tree.map(lambda leaf: leaf[seed - spec.seed], state)


def updates_done(run: Run) -> int:
    """Number of updates up to the last checkpoint."""
    return max(Checkpoints(run.path / layout.CHECKPOINTS).updates(), default=0)


def final_state(run: Run, agent: Agent, which: str = "last") -> Any:
    """The state of a run at its "last" or "best" checkpoint, or at a numbered one."""
    checkpoints = Checkpoints(run.path / (layout.BEST if which == "best" else layout.CHECKPOINTS))
    updates = checkpoints.updates()
    if not updates:
        raise ValueError(f"run={run.path} has no checkpoint in {which!r} yet; train it for longer")
    if which in ("last", "best"):
        update = updates[-1]
    elif which.isdigit() and int(which) in updates:
        update = int(which)
    else:
        there = ", ".join(map(str, updates))
        raise ValueError(f"checkpoint={which} does not exist; use last, best or one of {there}")
    with contextlib.closing(checkpoints):
        return checkpoints.restore(update, initial_state(agent, run.spec))


def state_at(run: Run, agent: Agent, updates: int) -> Any:
    """The state after `updates` updates: trained on from the nearest checkpoint before."""
    with contextlib.closing(Checkpoints(run.path / layout.CHECKPOINTS)) as checkpoints:
        earlier = [update for update in checkpoints.updates() if update <= updates]
        done = max(earlier, default=0)
        if done:
            state = checkpoints.restore(done, initial_state(agent, run.spec))
        else:
            state = initial_state(agent, run.spec)
    advance = make_advance(agent, make_lanes(agent, run.spec))
    hparams = run.spec.hparams.as_arrays()
    while done < updates:
        count = min(MAX_CHUNK, updates - done)
        state, _ = advance(state, hparams, jnp.int32(count))
        done += count
    return state


def make_lanes(agent: Agent, spec: RunSpec) -> Update:
    """The update of all seeds of a run, in parallel."""
    return seed_lanes(agent) if spec.num_seeds > 1 else one_lane(agent)
