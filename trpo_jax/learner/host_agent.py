"""The agent of an environment that steps on the host: the same functions, compiled in pieces."""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.common.checks import require_whole_number
from trpo_jax.config import HParams
from trpo_jax.envs.host import refuse_tracing
from trpo_jax.learner import acting
from trpo_jax.learner.agent import (
    DEFAULT_HPARAMS,
    Agent,
    act_with,
    evaluate_with,
    initial_carry_of,
    require_own_state,
    typed_key,
)
from trpo_jax.learner.beginning import initial_state
from trpo_jax.learner.bookkeeping import begin_episodes
from trpo_jax.learner.evaluation import EpisodeStats
from trpo_jax.learner.host_evaluation import HostEvaluation
from trpo_jax.learner.host_rollout import HostRollouts, draw_seeds, per_seed
from trpo_jax.learner.host_trajectory import complete
from trpo_jax.learner.learn import learn
from trpo_jax.learner.memory import first_carries
from trpo_jax.learner.monitoring import UpdateMetrics
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.types import ActorState, TrainState, Trajectory


def build_host_agent(parts: Parts) -> Agent:
    """An agent whose functions run on the host around compiled programs.

    Its functions cannot be traced. For several seeds, `init` takes keys [S]; states, trajectories
    and metrics then have a leading axis of seeds, all environments step together, and one compiled
    program learns for all seeds. Hyperparameters are shared, or one [S] per seed.
    """
    _run_in_this_thread()
    return _HostAgent(parts).functions()


def _run_in_this_thread() -> None:
    """Ask JAX to run programs on CPU in the thread that calls them.

    An action is needed before the next step, so handing each program to another thread only adds
    the time that thread takes to wake up: as long as the policy itself. JAX reads this setting when
    it first computes something; JAX_CPU_ENABLE_ASYNC_DISPATCH=1 keeps its own default.
    """
    if "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
        jax.config.update("jax_cpu_enable_async_dispatch", False)


class _HostAgent:
    def __init__(self, parts: Parts):
        self._parts = parts
        self._rollouts = HostRollouts(parts)
        self._play = HostEvaluation(parts)

        def first_state(keys: jax.Array, actor: ActorState, policy: Any, value: Any) -> TrainState:
            return initial_state(parts, keys, actor, policy, value)

        def first_keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            *keys, seed_key = jax.random.split(key, 4)
            return jnp.stack(keys), draw_seeds(seed_key, parts.config.num_envs)

        def update(start: TrainState, end: TrainState, record: Any, hparams: HParams):
            return learn(parts, *complete(parts, start, end, record), hparams)

        self._first_keys = per_seed(first_keys)
        self._first_state = (
            jax.jit(first_state),
            jax.jit(jax.vmap(first_state, in_axes=(0, 0, None, None))),
        )
        self._complete = per_seed(functools.partial(complete, parts), in_axes=(0, 0, 1))
        self._update = per_seed(update, in_axes=(0, 0, 1, 0))
        self._learn = per_seed(functools.partial(learn, parts))
        self._act = jax.jit(functools.partial(acting.act, parts), static_argnames="deterministic")

    def functions(self) -> Agent:
        """Everything as the functions of an `Agent`."""

        def evaluate(
            state: TrainState,
            key: jax.Array,
            num_episodes: int = 128,
            deterministic: bool = True,
            max_steps: int | None = None,
        ) -> EpisodeStats:
            refuse_tracing(self._parts.env, "evaluate", state, key)
            return evaluate_with(self._play, state, key, num_episodes, deterministic, max_steps)

        return Agent(
            init=self.init,
            update=self.update,
            train=self.train,
            act=functools.partial(act_with, self._act),
            evaluate=evaluate,
            rollout=self.rollout,
            learn=self.learn,
            policy=self._parts.policy,
            critic=self._parts.critic,
            parts=self._parts,
            initial_carry=functools.partial(initial_carry_of, self._parts),
        )

    def init(
        self, key: jax.Array, policy_params: Any = None, value_params: Any = None
    ) -> TrainState:
        key = typed_key(key)
        refuse_tracing(self._parts.env, "init", key)
        if key.ndim > 1:
            raise ValueError(f"key has shape {key.shape}; pass one key, or keys [seeds]")
        keys, seeds = self._first_keys(key)
        obs, fingerprint = self._rollouts.begin(seeds)
        num_envs, shape = self._parts.config.num_envs, key.shape
        episodes, carry = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, shape + leaf.shape),
            (begin_episodes(self._parts.env, num_envs), first_carries(self._parts)),
        )
        obs = jax.tree.map(jnp.asarray, obs)
        actor = ActorState(jnp.asarray(fingerprint), obs, episodes, carry)
        return self._first_state[key.ndim](keys, actor, policy_params, value_params)

    def rollout(self, state: TrainState) -> tuple[TrainState, Trajectory]:
        self._check("rollout", state)
        end, record, start = self._rollouts.rollout(state)
        end, trajectory = self._complete(start, end, record)
        return end, trajectory

    def learn(
        self, state: TrainState, trajectory: Trajectory, hparams: HParams = DEFAULT_HPARAMS
    ) -> tuple[TrainState, UpdateMetrics]:
        require_own_state(state, self._parts, lanes=True)
        return self._learn(state, trajectory, _per_seed_hparams(state, hparams))

    def update(
        self, state: TrainState, hparams: HParams = DEFAULT_HPARAMS
    ) -> tuple[TrainState, UpdateMetrics]:
        self._check("update", state, hparams)
        numbers = _per_seed_hparams(state, hparams)
        end, record, start = self._rollouts.rollout(state)
        return self._update(start, end, record, numbers)

    def train(
        self, state: TrainState, hparams: HParams = DEFAULT_HPARAMS, num_updates: int = 1
    ) -> tuple[TrainState, UpdateMetrics]:
        self._check("train", state, hparams)
        require_whole_number("num_updates", num_updates)
        history = []
        for _ in range(int(num_updates)):
            state, metrics = self.update(state, hparams)
            history.append(metrics)
        axis = state.key.ndim
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *history)

    def _check(self, function: str, state: TrainState, *more: Any) -> None:
        refuse_tracing(self._parts.env, function, state, *more)
        require_own_state(state, self._parts, lanes=True)


def _per_seed_hparams(state: TrainState, hparams: HParams) -> HParams:
    """Hyperparameters as arrays with the axes of the state's key: shared ones are repeated."""
    if not isinstance(hparams, HParams):
        raise ValueError(f"hparams={hparams!r} must be an HParams")
    lead, arrays = state.key.shape, hparams.as_arrays()
    for name, value in vars(arrays).items():
        if value.shape not in ((), lead):
            raise ValueError(
                f"{name} has shape {value.shape}; pass one number, or one per seed: {lead}"
            )
    return jax.tree.map(lambda value: jnp.broadcast_to(value, lead), arrays)
