"""Rollouts in environments that step on the host: the policy acts compiled, they step in NumPy.

S seeds and N environments per seed are M = S · N simulators. A `TrainState` does not hold their
states; it holds a fingerprint of everything they were given since they were made: their seeds, all
actions, and what they answered. Simulators are used only by a state with their fingerprint, so a
transition never joins two histories.
"""

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.envs.base import EnvStep, metric_names, observation_spec
from trpo_jax.envs.host import EnvironmentFailed, HostEnvironment, Simulators
from trpo_jax.learner.acting import Decision, decide
from trpo_jax.learner.assembly import example_observation
from trpo_jax.learner.bookkeeping import begin_again, begin_episodes, count_step
from trpo_jax.learner.normalization import RunningStatistics, init_tree_statistics
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.rollout import transitions
from trpo_jax.learner.small_draws import for_small_draws
from trpo_jax.learner.types import ActorState, TrainState, Trajectory
from trpo_jax.spaces import policy_view

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
        self._act = acting_program(parts, deterministic=False)
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
            state = state.replace(actor=_begun_anew(state.actor, obs, before))
        try:
            with naming(self._env, "step"):
                record, obs = self._steps(run, state, action_keys)
        except BaseException:
            run.simulators.close()
            raise
        lead = before.shape[:-1]
        history = (np.moveaxis(record.action, 0, len(lead)), obs)
        fingerprint = _fingerprint(lead, before, history)
        self._keep(fingerprint, Begun(run.simulators, obs))
        actor = state.actor.replace(env_state=jnp.asarray(fingerprint), obs=_on_device(obs))
        return state.replace(key=next_key, actor=actor), record, state

    def _steps(self, run: Begun, state: TrainState, keys: jax.Array) -> tuple[Record, Any]:
        config, simulators = self._parts.config, run.simulators
        acting = ActingState(state.policy_params, state.obs_statistics)
        lead = (*state.key.shape, config.num_envs)
        obs = run.obs
        seen, rest = _empty(config.num_steps, obs), None
        for t in range(config.num_steps):
            _write(seen, t, obs)  # before the step, which may overwrite it
            env_action, action, log_prob = map(
                np.asarray, self._act(acting, keys, np.int32(t), obs)
            )
            step = simulators.step(env_action.reshape(-1, *env_action.shape[len(lead) :]))
            row = (action, log_prob, unmerged(step, lead))
            rest = _empty(config.num_steps, row) if rest is None else rest
            _write(rest, t, row)
            after = rest[2]
            ended = after.terminated[t] | after.truncated[t]
            if not all_finite(after.reward[t], step.obs):
                finite = np.isfinite(after.reward[t]) & finite_rows(step.obs, lead)
                after.truncated[t] |= ~finite
                ended |= ~finite
            fresh = simulators.restart(ended.reshape(-1)) if ended.any() else step.obs
            obs = unmerged(fresh, lead)
        assert rest is not None
        return Record(seen, *rest), jax.tree.map(np.copy, obs)

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


def complete(
    parts: Parts, start: TrainState, end: TrainState, record: Record
) -> tuple[TrainState, Trajectory]:
    """The trajectory of a record, and the state after it with its episodes; traced.

    `start` and `end` are the states before and after the rollout.
    """
    shape = record.step.reward.shape
    step = record.step._replace(
        reward=jnp.asarray(record.step.reward, jnp.float32),
        truncated=record.step.truncated & ~record.step.terminated,
        metrics={
            name: jnp.where(jnp.isfinite(value), value, 0)
            for name, value in (record.step.metrics or {}).items()
        },
    )

    def advance(episodes: Any, one: EnvStep) -> Any:
        counted = count_step(episodes, one)
        return begin_again(counted, one.terminated | one.truncated), counted

    per_step = step._replace(obs=())
    episodes, counted = jax.lax.scan(advance, start.actor.episodes, per_step)
    rows = jax.tree.map(_as_rows, (record.obs, record.action, record.log_prob, step))
    obs, action, log_prob, flat_step = rows
    counted = jax.tree.map(
        lambda leaf: _as_rows(leaf) if leaf.shape[:2] == shape else leaf, counted
    )
    acting = ActingState(start.policy_params, start.obs_statistics)
    distribution = decide(parts, acting, jax.random.key(0), obs, deterministic=True).distribution
    flat = transitions(
        parts.env, start.num_updates, obs, action, log_prob, distribution, flat_step, counted
    )
    trajectory = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), flat)
    return end.replace(actor=end.actor.replace(episodes=episodes)), trajectory


def trajectory_spec(parts: Parts) -> Trajectory:
    """Shapes and types of a trajectory [T, N, ...]; nothing steps."""
    num_steps, num_envs, env = parts.config.num_steps, parts.config.num_envs, parts.env

    def row(obs: Any) -> Any:
        key, zeros = jax.random.key(0), jnp.zeros(num_envs)
        example = example_observation(env)
        params = parts.policy.init(key, policy_view(example))
        statistics = init_tree_statistics(observation_spec(env))
        chosen = decide(parts, ActingState(params, statistics), key, obs)
        log_prob = chosen.distribution.log_prob(chosen.action)
        metrics = dict.fromkeys(metric_names(env), zeros)
        step = EnvStep(obs, zeros, zeros > 0, zeros > 0, metrics)
        episodes = begin_episodes(num_envs, metric_names(env))
        return transitions(
            env, jnp.int32(0), obs, chosen.action, log_prob, chosen.distribution, step, episodes
        )

    obs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((num_envs, *leaf.shape), leaf.dtype),
        observation_spec(env),
    )
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((num_steps, *leaf.shape), leaf.dtype),
        jax.eval_shape(row, obs),
    )


def acting_program(parts: Parts, deterministic: bool) -> Callable[..., Any]:
    """(acting state, keys [T], t, obs [N, ...]) -> (action for the environment, action, log-prob).

    Compiled; with keys [S, T] everything has a leading axis of seeds.
    """

    def act(state: ActingState, keys: jax.Array, t: jax.Array, obs: Any) -> Any:
        chosen: Decision = decide(parts, state, for_small_draws(keys[t]), obs, deterministic)
        log_prob = chosen.distribution.log_prob(chosen.action)
        return chosen.env_action, chosen.action, log_prob

    one, several = jax.jit(act), jax.jit(jax.vmap(act, in_axes=(0, 0, None, 0)))
    return lambda state, keys, t, obs: (several if keys.ndim == 2 else one)(state, keys, t, obs)


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
        raise EnvironmentFailed(
            f"{function} of {env.name} raised {type(error).__name__}: {error}"
        ) from error


def _draw(key: jax.Array, num_steps: int, num_envs: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The next key, a key for each step, and seeds in case that episodes begin anew."""
    keys = jax.random.split(key, 2 + num_steps)
    return keys[0], keys[2:], draw_seeds(keys[1], num_envs)


def draw_seeds(key: jax.Array, number: int) -> jax.Array:
    """Seeds for simulators, uint32 in [0, 2³¹)."""
    return jax.random.bits(key, (number,), jnp.uint32) >> 1


def _begun_anew(actor: ActorState, obs: Any, fingerprint: np.ndarray) -> ActorState:
    """The actor with new episodes; the mean return of earlier ones is remembered."""
    num_envs = actor.episodes.lengths.shape[-1]
    fresh = begin_episodes(num_envs, actor.episodes.metrics)
    fresh = jax.tree.map(lambda new, old: jnp.broadcast_to(new, old.shape), fresh, actor.episodes)
    episodes = fresh.replace(
        num_begun=actor.episodes.num_begun + 1,
        last_mean_return=actor.episodes.last_mean_return,
        any_ended=actor.episodes.any_ended,
    )
    return actor.replace(env_state=jnp.asarray(fingerprint), obs=_on_device(obs), episodes=episodes)


def _empty(num_steps: int, row: Any) -> Any:
    """Buffers for T rows like this one."""
    return jax.tree.map(lambda leaf: np.empty((num_steps, *leaf.shape), leaf.dtype), row)


def _write(buffers: Any, t: int, row: Any) -> None:
    for buffer, leaf in zip(jax.tree.leaves(buffers), jax.tree.leaves(row), strict=True):
        buffer[t] = leaf


def unmerged(tree: Any, lead: tuple[int, ...]) -> Any:
    """Views [S, N, ...] of arrays [M, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), tree)


def all_finite(reward: np.ndarray, obs: Any) -> bool:
    """A quick test; false alarms are settled row by row."""
    total = reward.sum() + sum(
        leaf.sum() for leaf in jax.tree.leaves(obs) if leaf.dtype.kind == "f"
    )
    return bool(np.isfinite(total))


def finite_rows(obs: Any, lead: tuple[int, ...]) -> np.ndarray:
    """bool [*lead]: whether all numbers of an observation are finite; leaves [M, ...]."""
    checks = [
        np.isfinite(leaf).reshape(leaf.shape[0], -1).all(axis=1)
        for leaf in jax.tree.leaves(obs)
        if leaf.dtype.kind == "f"
    ]
    return np.logical_and.reduce(checks).reshape(lead) if checks else np.ones(lead, bool)


def _as_rows(leaf: jax.Array) -> jax.Array:
    """[T, N, ...] -> [T · N, ...]."""
    return leaf.reshape(-1, *leaf.shape[2:])


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
