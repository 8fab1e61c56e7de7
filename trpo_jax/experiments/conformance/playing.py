"""Play an environment with random actions and write everything down, on the device or the host."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.common import trees
from trpo_jax.envs.base import Environment, EnvStep, like, strongly_typed, where_done
from trpo_jax.envs.host import EnvironmentFailed, HostEnvironment, Simulators
from trpo_jax.spaces import ActionSpace, Box, Discrete, Observation

HASTY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Options of compilation for programs that run a few times only."""

_LOOK_PER_LEAF = 16
_LOOK = 1024


class Programs:
    """`reset` and `step` of an environment, batched and compiled once; counts their traces.

    Types of the state stay as after `reset`, as in training; what `step` returns is untouched.
    """

    def __init__(self, env: Environment):
        self.env = env
        self.num_traces = {"reset": 0, "step": 0}
        self.reset = jax.jit(self._reset, compiler_options=HASTY)
        self.step = jax.jit(self._step, compiler_options=HASTY)
        self.where_done = jax.jit(where_done, compiler_options=HASTY)

    def _reset(self, seeds: jax.Array, episodes: jax.Array) -> Any:
        self.num_traces["reset"] += 1
        states, obs = jax.vmap(self.env.reset)(jax.vmap(reset_key)(seeds, episodes))
        states = jax.tree.map(strongly_typed, states)
        return states, obs, _look((states, obs), jnp)

    def _step(self, seeds: jax.Array, number: jax.Array, states: Any, actions: jax.Array) -> Any:
        self.num_traces["step"] += 1
        keys = jax.vmap(step_key, in_axes=(0, None))(seeds, number)
        after, step = jax.vmap(self.env.step)(keys, states, actions)
        # Other static data than before compiles the next call again, which is counted.
        if trees.first_difference(after, states) is None:
            after = jax.tree.map(like, states, after)
        after = jax.tree.map(strongly_typed, after)
        return after, step, _look((after, step.obs), jnp)


def reset_key(seed: Any, episode: Any) -> jax.Array:
    """The key with which an environment begins an episode."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), episode)


def step_key(seed: Any, number: Any) -> jax.Array:
    """The key with which an environment takes a step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), number)


class CompiledSimulators(Simulators):
    """M environments of compiled programs, with the interface of those on the host."""

    def __init__(self, programs: Programs, seeds: np.ndarray):
        self.programs = programs
        self._seeds = np.asarray(seeds, np.uint32)
        self._episodes = np.zeros(len(seeds), np.uint32)
        self._number = 0
        self.states: Any = None
        self.look: Any = None
        """What the states look like, [M, features]."""

    def reset(self) -> Any:
        """Begin M episodes."""
        self.states, self._obs, self.look = self.programs.reset(self._seeds, self._episodes)
        return self._obs

    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> EnvStep:
        """Step all environments."""
        number = np.uint32(self._number)
        self._number += 1
        self.states, step, self.look = self.programs.step(self._seeds, number, self.states, actions)
        self._obs = step.obs
        return step

    def restart(self, mask: np.ndarray) -> Any:
        """Begin a new episode where `mask`."""
        self._episodes = self._episodes + mask.astype(np.uint32)
        fresh = self.programs.reset(self._seeds, self._episodes)
        if not mask.all():
            current = self.states, self._obs, self.look
            fresh = self.programs.where_done(mask, fresh, current)
        self.states, self._obs, self.look = fresh
        return self._obs


class Play(NamedTuple):
    """T steps of M environments; leaves [T, M, ...], NumPy."""

    obs: Any
    """What was acted on."""
    action: np.ndarray
    next_obs: Any
    """The observation after the action, before any reset."""
    reward: np.ndarray
    """As returned, and so the flags."""
    terminated: np.ndarray
    truncated: np.ndarray
    look: np.ndarray
    """Numbers out of the state (on the host: the observation) after the step, [T, M, features]."""
    fresh: np.ndarray
    """The same after every reset, [resets, features]."""
    first_obs: Any
    """The observations that began the first M episodes, [M, ...]."""
    error: str | None = None
    """What a step raised, with its actions, or a later reset; the play ends there."""

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.reward)

    @property
    def done(self) -> np.ndarray:
        """Whether an episode ended, bool [T, M]."""
        return self.terminated.astype(bool) | self.truncated.astype(bool)

    @property
    def lengths(self) -> np.ndarray:
        """Steps of the episode up to and including each, [T, M]."""
        lengths, current = np.zeros(self.done.shape, int), np.zeros(self.done.shape[1], int)
        for row, ends in zip(lengths, self.done, strict=True):
            row[:] = current + 1
            current = np.where(ends, 0, row)
        return lengths


class RandomActions:
    """Allowed actions, with those not tried yet first in every other choice."""

    def __init__(self, space: ActionSpace, seed: int):
        self.space = space
        self._rng = np.random.default_rng(seed)
        if not isinstance(space, Box):
            sizes = (space.num_actions,) if isinstance(space, Discrete) else space.num_categories
            self._sizes = tuple(sizes)
            self.counts = [np.zeros(size, int) for size in self._sizes]

    def __call__(self, obs: Any, num_envs: int) -> np.ndarray:
        """Actions for observations [M, ...]."""
        if isinstance(self.space, Box):
            return np.stack([self._inside(self.space) for _ in range(num_envs)])
        mask = obs.action_mask if isinstance(obs, Observation) else None
        allowed = np.ones((num_envs, sum(self._sizes)), bool) if mask is None else np.asarray(mask)
        parts = np.split(allowed, np.cumsum(self._sizes)[:-1], axis=1)
        chosen = [[self._choice(i, row) for row in part] for i, part in enumerate(parts)]
        actions = np.asarray(chosen, np.int32).T
        return actions[:, 0] if isinstance(self.space, Discrete) else actions

    def _choice(self, dimension: int, allowed: np.ndarray) -> int:
        options, counts = np.flatnonzero(allowed), self.counts[dimension]
        if not len(options):
            options = np.arange(len(allowed))
        if self._rng.random() < 0.5:
            options = options[counts[options] == counts[options].min()]
        action = int(self._rng.choice(options))
        counts[action] += 1
        return action

    def _inside(self, space: Box) -> np.ndarray:
        low, high = (
            np.broadcast_to(np.asarray(b, float), space.shape) for b in (space.low, space.high)
        )
        bounded = (np.abs(low) < 1e30) & (np.abs(high) < 1e30)
        unit = self._rng.random(space.shape)
        if self._rng.random() < 0.25:
            unit = np.round(unit)  # a corner
        span = np.where(bounded, high, 1) - np.where(bounded, low, 0)
        drawn = np.where(
            bounded, np.where(bounded, low, 0) + span * unit, self._rng.normal(size=space.shape)
        )
        return np.clip(drawn, low, high).astype(np.float32)


def simulators_of(env: Environment, programs: Programs | None, seeds: np.ndarray) -> Simulators:
    """Simulators of either kind of environment."""
    if isinstance(env, HostEnvironment):
        return _tried("simulators(seeds)", lambda: env.simulators(seeds))
    assert programs is not None
    return CompiledSimulators(programs, seeds)


def play(
    simulators: Simulators,
    num_steps: int,
    choose: Any,
    *,
    max_seconds: float = np.inf,
    max_bytes: float = np.inf,
    extra_resets: int = 0,
) -> Play:
    """Play up to `num_steps` steps, restarting what ends.

    `choose` is a `RandomActions`, or actions [T, M, ...] to play again. Ends early where time or
    the memory for observations runs out (after two steps at least), or where a step or a later
    reset raises. Raises `EnvironmentFailed` if the first reset does.
    """
    obs = _tried("reset", lambda: _copied(simulators.reset()))
    num_envs = len(jax.tree.leaves(obs)[0])
    first_obs, error, records = obs, None, []
    fresh = [_look_of(simulators, obs)]
    bytes_per_step = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(obs))
    start = time.perf_counter()
    for number in range(num_steps):
        if number == 2:
            start = time.perf_counter()  # all is compiled now
        late = time.perf_counter() - start > max_seconds or number * bytes_per_step > max_bytes
        if late and number > 2:
            break
        actions = choose(obs, num_envs) if callable(choose) else choose[number]
        try:
            step = _copied(simulators.step(actions)._replace(metrics=None))
        except Exception as raised:
            shown = np.array2string(actions, separator=", ", threshold=20).replace("\n", "")
            error = f"step {number} with actions {shown} raises {_one_line(raised)}"
            break
        look = _look_of(simulators, step.obs)
        records.append((obs, actions, *step[:4], look))
        obs = step.obs
        done = np.asarray(step.terminated, bool) | np.asarray(step.truncated, bool)
        if done.any():
            try:
                obs = _copied(simulators.restart(done))
            except Exception as raised:
                error = f"the reset after step {number} raises {_one_line(raised)}"
                break
            fresh.append(_look_of(simulators, obs)[done])
    for _ in range(extra_resets if error is None else 0):
        obs = _tried("reset", lambda: _copied(simulators.restart(np.ones(num_envs, bool))))
        fresh.append(_look_of(simulators, obs))
    return _stacked(records, np.concatenate(fresh), first_obs, error)


def _stacked(records: list[Any], fresh: np.ndarray, first_obs: Any, error: str | None) -> Play:
    if not records:
        none = np.zeros((0, len(jax.tree.leaves(first_obs)[0])))
        return Play(first_obs, none, first_obs, none, none, none, none, fresh, first_obs, error)
    obs, action, next_obs, reward, terminated, truncated, look = (
        jax.tree.map(lambda *leaves: np.stack(leaves), *column)
        for column in zip(*records, strict=True)
    )
    return Play(obs, action, next_obs, reward, terminated, truncated, look, fresh, first_obs, error)


def _tried(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        raise EnvironmentFailed(f"{what} raises {_one_line(error)}") from error


def _copied(tree: Any) -> Any:
    """Arrays of our own, since the next step may overwrite those that came."""
    return jax.tree.map(np.array, tree)


def _look_of(simulators: Simulators, obs: Any) -> np.ndarray:
    if isinstance(simulators, CompiledSimulators):
        return np.asarray(simulators.look)
    return _look(obs, np)


def _look(tree: Any, xp: Any) -> Any:
    """The first numbers of each leaf [M, ...], side by side as float32 [M, features]."""
    parts = []
    for leaf in jax.tree.leaves(tree):
        array = xp.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool:
            parts.append(array.reshape(array.shape[0], -1)[:, :_LOOK_PER_LEAF].astype(np.float32))
    return xp.concatenate(parts, axis=1)[:, :_LOOK]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
