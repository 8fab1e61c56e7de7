"""Rollouts in environments that step on the host: the policy acts compiled, they step in NumPy.

S seeds and N environments per seed are M = S · N simulators. A `TrainState` does not hold their
states; it holds a fingerprint of everything they were given since they were made: their seeds, all
actions, and what they answered. Simulators are used only by a state with their fingerprint, so a
transition never joins two histories.
"""

import contextlib
import functools
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.envs.base import EnvStep
from trpo_jax.envs.host import EnvironmentFailed, HostEnvironment, Simulators
from trpo_jax.learner.acting import Decision, decide
from trpo_jax.learner.bookkeeping import begin_episodes
from trpo_jax.learner.memory import begun_anew, first_carries
from trpo_jax.learner.normalization import RunningStatistics
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.small_draws import for_small_draws
from trpo_jax.learner.types import ActorState, TrainState

_KEPT = 32
"""Runs whose simulators are kept, per agent."""
_WORDS = 4


class ActingState(NamedTuple):
    """The part of a `TrainState` that a policy needs to act."""

    policy_params: Any
    obs_statistics: RunningStatistics


class Record(NamedTuple):
    """What a rollout brought, in NumPy: leaves [T, N, ...]; with several seeds [T, S, N, ...]."""

    obs: Any
    action: np.ndarray
    log_prob: np.ndarray
    step: EnvStep
    """Before restarts; rewards and observations as they came, finite or not."""


class Begun(NamedTuple):
    """Simulators that an agent holds, and the observations they stand at."""

    simulators: Simulators
    obs: Any


class HostRollouts:
    """The rollouts of one agent, and the simulators of its runs.

    The simulators of the newest few runs are kept; those of others are closed, and their states
    begin new episodes if they are ever used again.
    """

    def __init__(self, parts: Parts):
        assert isinstance(parts.env, HostEnvironment)
        self._parts, self._env = parts, parts.env
        self._runs: OrderedDict[bytes, Begun] = OrderedDict()
        self._act, self._anew = acting_programs(parts, deterministic=False), forgetting(parts)
        self._draw = per_seed(lambda key: _draw(key, parts.config.num_steps, parts.config.num_envs))

    def begin(self, drawn: jax.Array) -> tuple[Any, np.ndarray]:
        """Make simulators from seeds [..., N] and begin episodes: observations and fingerprint."""
        seeds = np.asarray(drawn)
        lead = seeds.shape[:-1]
        with naming(self._env, "reset"):
            simulators = self._env.simulators(seeds.reshape(-1).astype(np.int64))
            obs = jax.tree.map(np.copy, unmerged(simulators.reset(), seeds.shape))
        fingerprint = _fingerprint(lead, np.zeros((*lead, _WORDS), np.uint32), (seeds, obs))
        self._keep(fingerprint, Begun(simulators, obs))
        return obs, fingerprint

    def rollout(self, state: TrainState) -> tuple[TrainState, Record, TrainState]:
        """T steps of every simulator: the state after, the record, and the state it started from.

        The last differs from `state` only if its simulators are gone: then episodes begin anew.
        """
        next_key, action_keys, seeds = self._draw(state.key)
        before = np.asarray(state.actor.env_state)
        run = self._runs.pop(before.tobytes(), None)
        if run is None:
            obs, before = self.begin(seeds)
            run = self._runs.pop(before.tobytes())
            state = state.replace(actor=_begun_anew(self._parts, state.actor, obs, before))
        try:
            with naming(self._env, "step"):
                record, obs, carry = self._steps(run, state, action_keys)
        except BaseException:
            run.simulators.close()
            raise
        lead = before.shape[:-1]
        history = (np.moveaxis(record.action, 0, len(lead)), obs)
        fingerprint = _fingerprint(lead, before, history)
        self._keep(fingerprint, Begun(run.simulators, obs))
        carries = state.actor.carry
        actor = state.actor.replace(
            env_state=jnp.asarray(fingerprint),
            obs=_on_device(obs),
            carry=carries and carries.replace(policy=carry),
        )
        return state.replace(key=next_key, actor=actor), record, state

    def _steps(self, run: Begun, state: TrainState, keys: jax.Array) -> tuple[Record, Any, Any]:
        num_steps, simulators = self._parts.config.num_steps, run.simulators
        acting = ActingState(state.policy_params, state.obs_statistics)
        carry = state.actor.policy_carry
        lead = (*state.key.shape, self._parts.config.num_envs)
        act = self._act[state.key.ndim]
        obs = merged(run.obs, len(lead))
        seen, rest = _Rows(num_steps), _Rows(num_steps)
        for t in range(num_steps):
            seen.write(t, obs)  # before the step, which may overwrite it
            chosen, carry = act(acting, keys, np.int32(t), unmerged(obs, lead), carry)
            env_action, action, log_prob = merged(chosen, len(lead))
            step = simulators.step(env_action)
            rest.write(t, (action, log_prob, step))
            ended = step.terminated | step.truncated
            if not all_finite(step):
                finite = finite_rows(step)
                rest.tree[2].truncated[t] |= ~finite
                ended |= ~finite
            obs = simulators.restart(ended) if ended.any() else step.obs
            carry = self._anew(carry, ended.reshape(lead))
        record = unmerged(Record(seen.tree, *rest.tree), (num_steps, *lead), 2)
        return record, jax.tree.map(np.copy, unmerged(obs, lead)), carry

    def _keep(self, fingerprint: np.ndarray, run: Begun) -> None:
        self.forget(fingerprint)
        self._runs[fingerprint.tobytes()] = run
        while len(self._runs) > _KEPT:
            self._runs.popitem(last=False)[1].simulators.close()

    def forget(self, fingerprint: np.ndarray) -> None:
        """Close the simulators with a fingerprint, if there are any."""
        run = self._runs.pop(fingerprint.tobytes(), None)
        if run is not None:
            run.simulators.close()


def acting_programs(parts: Parts, deterministic: bool) -> tuple[Callable[..., Any], ...]:
    """(acting state, keys [T], t, obs [N, ...], carry) -> ((action for the environment, action,
    log-prob), carry).

    Compiled: the first for one seed, the second for keys [S, T] and all else with an axis of seeds.
    """

    def act(state: ActingState, keys: jax.Array, t: jax.Array, obs: Any, carry: Any) -> Any:
        key = for_small_draws(keys[t])
        chosen: Decision = decide(parts, state, key, obs, deterministic, carry)
        log_prob = chosen.distribution.log_prob(chosen.action)
        return (chosen.env_action, chosen.action, log_prob), chosen.carry

    return jax.jit(act), jax.jit(jax.vmap(act, in_axes=(0, 0, None, 0, 0)))


def forgetting(parts: Parts) -> Callable[[Any, np.ndarray], Any]:
    """(carry [N, ...] or [S, N, ...], ended) -> carry, fresh where `ended` [N] or [S, N]."""
    one = functools.partial(begun_anew, parts.policy)
    programs = {1: jax.jit(one), 2: jax.jit(jax.vmap(one))}

    def forget(carry: Any, ended: np.ndarray) -> Any:
        return programs[ended.ndim](carry, ended) if carry is not None and ended.any() else carry

    return forget


def per_seed(function: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
    """A compiled function whose first argument is a key or has one; also for several seeds.

    With keys [S], `in_axes` are those of `vmap`.
    """
    one, several = jax.jit(function), jax.jit(jax.vmap(function, in_axes=in_axes))

    def call(first: Any, *rest: Any) -> Any:
        key = getattr(first, "key", first)
        return (several if key.ndim else one)(first, *rest)

    return call


@contextlib.contextmanager
def naming(env: HostEnvironment, function: str) -> Iterator[None]:
    """Turn errors of an environment's own code into `EnvironmentFailed`."""
    try:
        yield
    except EnvironmentFailed:
        raise
    except Exception as error:
        message = " ".join(str(error).split())  # one line, whatever the simulator says
        raise EnvironmentFailed(
            f"{function} of {env.name} raised {type(error).__name__}: {message}"
        ) from error


def _draw(key: jax.Array, num_steps: int, num_envs: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The next key, a key for each step, and seeds in case that episodes begin anew."""
    keys = jax.random.split(key, 2 + num_steps)
    return keys[0], keys[2:], draw_seeds(keys[1], num_envs)


def draw_seeds(key: jax.Array, number: int) -> jax.Array:
    """Seeds for simulators, uint32 in [0, 2³¹)."""
    return jax.random.bits(key, (number,), jnp.uint32) >> 1


def _begun_anew(parts: Parts, actor: ActorState, obs: Any, fingerprint: np.ndarray) -> ActorState:
    """The actor with new episodes; the mean return of earlier ones is remembered."""
    begun = begin_episodes(parts.env, actor.episodes.lengths.shape[-1]), first_carries(parts)
    fresh, carry = jax.tree.map(
        lambda new, old: jnp.broadcast_to(new, old.shape), begun, (actor.episodes, actor.carry)
    )
    costs = actor.episodes.costs
    episodes = fresh.replace(
        costs=costs and costs.replace(totals=fresh.costs.totals),
        num_begun=actor.episodes.num_begun + 1,
        last_mean_return=actor.episodes.last_mean_return,
        any_ended=actor.episodes.any_ended,
    )
    return actor.replace(
        env_state=jnp.asarray(fingerprint), obs=_on_device(obs), episodes=episodes, carry=carry
    )


class _Rows:
    """A tree of arrays [T, ...], written row by row; the first row tells shapes and types."""

    def __init__(self, num_rows: int):
        self.tree: Any = None
        self._num_rows = num_rows
        self._leaves: list[np.ndarray] = []

    def write(self, t: int, row: Any) -> None:
        """Write row t."""
        if self.tree is None:
            self.tree = jax.tree.map(
                lambda leaf: np.empty((self._num_rows, *leaf.shape), leaf.dtype), row
            )
            self._leaves = jax.tree.leaves(self.tree)
        for buffer, leaf in zip(self._leaves, jax.tree.leaves(row), strict=True):
            buffer[t] = leaf


def merged(tree: Any, axes: int) -> Any:
    """NumPy arrays [M, ...] of arrays [N, ...] or [S, N, ...]: with 1 or 2 leading axes."""
    if axes == 1:
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[axes:]), tree)


def unmerged(tree: Any, lead: tuple[int, ...], axes: int = 1) -> Any:
    """Views [*lead, ...] of arrays whose first `axes` axes are those of `lead`, merged or not."""
    if len(lead) == axes:
        return tree
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[axes:]), tree)


def all_finite(step: EnvStep) -> bool:
    """A quick test of rewards, observations and costs; false alarms are settled row by row."""
    total = step.reward.sum()
    for leaf in jax.tree.leaves((step.obs, step.cost)):
        if leaf.dtype.kind == "f":
            total += leaf.sum()
    return math.isfinite(total)


def finite_rows(step: EnvStep) -> np.ndarray:
    """bool [M]: whether the reward, the costs and all numbers of the observation are finite."""
    finite = np.isfinite(step.reward)
    for leaf in jax.tree.leaves((step.obs, step.cost)):
        if leaf.dtype.kind == "f":
            finite &= np.isfinite(leaf).reshape(leaf.shape[0], -1).all(axis=1)
    return finite


def _on_device(obs: Any) -> Any:
    return jax.tree.map(jnp.asarray, obs)


def _fingerprint(lead: tuple[int, ...], before: np.ndarray, given: Any) -> np.ndarray:
    """uint32 [*lead, 4]: per seed a hash of the fingerprint before and of trees [*lead, ...]."""
    found = np.empty((*lead, _WORDS), np.uint32)
    for index in np.ndindex(*lead):
        digest = hashlib.blake2b(before[index].tobytes(), digest_size=4 * _WORDS)
        for leaf in jax.tree.leaves(given):
            digest.update(np.ascontiguousarray(leaf[index]).tobytes())
        found[index] = np.frombuffer(digest.digest(), np.uint32)
    return found
