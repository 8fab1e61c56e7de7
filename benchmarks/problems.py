"""What is measured on: batches, synthetic and real, with their networks; and the library's steps.

All that the benchmarks use of the library's insides stands here, once: how networks, batches and
objectives are made, how a policy step, a value fit and a curvature product are called.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import trpo_jax
from trpo_jax import HParams, TRPOConfig
from trpo_jax.common import trees
from trpo_jax.learner import batch as batches
from trpo_jax.learner import trust_region_settings
from trpo_jax.learner.bookkeeping import scale_rewards
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.types import Batch, TrainState
from trpo_jax.learner.value import fit_value, init_value_optimizer
from trpo_jax.policies import Critic, Policy, networks
from trpo_jax.solver import Objective, trust_region_step
from trpo_jax.solver.objective import curvature_product, evaluation

ALL_ITERATIONS = HParams(cg_tol=0.0)
"""Conjugate gradients that never stop early."""
cast, dot, norm = trees.cast, trees.dot, trees.norm


class Shape(NamedTuple):
    """What an update works on."""

    batch: int
    obs: int
    actions: int
    hidden: tuple[int, ...]
    discrete: bool = False

    def __str__(self) -> str:
        return f"{self.batch}×{self.obs}, {'×'.join(map(str, self.hidden))}"


TINY = Shape(64, 3, 2, (8,))
"""For the tests."""


class Problem(NamedTuple):
    """A policy, a critic and a batch drawn from the policy, as a rollout would leave them."""

    policy: Policy
    critic: Critic
    params: Any
    value_params: Any
    batch: Batch

    @property
    def objective(self) -> Objective:
        """The surrogate and the KL."""
        return make_objective(self.policy, 0.0)

    @property
    def num_params(self) -> int:
        """Of the policy."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def make_networks(obs: int, actions: int, hidden: tuple[int, ...], discrete: bool):
    """Tanh policy and critic on flat observations."""
    body = networks.Body(((obs,),), tuple(hidden), "tanh")
    head = networks.CategoricalHead(actions) if discrete else networks.GaussianHead(actions, 0.0)
    return networks.make_policy(body, head), networks.make_critic(body)


def make_batch(policy, params, *, obs, action, advantage, value_target, value=None) -> Batch:
    """The batch of transitions in which the policy took these actions; all of them count."""
    distribution = policy.apply(params, obs)
    return Batch(
        obs=obs,
        action=action,
        distribution=distribution,
        log_prob=distribution.log_prob(action),
        entropy=distribution.entropy(),
        advantage=advantage,
        value=value_target if value is None else value,
        value_target=value_target,
        weight=jnp.ones_like(advantage),
    )


def make_problem(shape: Shape, seed: int = 0) -> Problem:
    """Standard normal observations and advantages; the target is a smooth function of obs."""
    policy, critic = make_networks(shape.obs, shape.actions, shape.hidden, shape.discrete)
    keys = jax.random.split(jax.random.key(seed), 5)
    example = jnp.zeros(shape.obs)
    params, value_params = policy.init(keys[0], example), critic.init(keys[1], example)
    obs = jax.random.normal(keys[2], (shape.batch, shape.obs))
    batch = make_batch(
        policy,
        params,
        obs=obs,
        action=policy.apply(params, obs).sample(keys[3]),
        advantage=jax.random.normal(keys[4], (shape.batch,)),
        value=critic.apply(value_params, obs),
        value_target=3 * jnp.sin(jnp.sum(obs, axis=-1)),
    )
    return Problem(policy, critic, params, value_params, batch)


def policy_step(policy, config: TRPOConfig = TRPOConfig(), hparams: HParams = ALL_ITERATIONS):  # noqa: B008 - frozen
    """(params, batch) -> (params, info): the library's policy step."""
    objective = make_objective(policy, 0.0)
    settings = trust_region_settings(hparams.as_arrays(), config)
    return lambda params, batch: trust_region_step(objective, params, batch, **settings)


def changed_step(objective: Callable = lambda it: it, batch: Callable = lambda it: it):
    """A policy step for `make_trpo`: the library's, on a changed objective or batch."""

    def step(given_objective, params, given_batch, hparams, config):
        changed = objective(given_objective), params, batch(given_batch)
        return trust_region_step(*changed, **trust_region_settings(hparams, config))

    return step


def in_micro_batches(config: TRPOConfig, size: int | None) -> TRPOConfig:
    """Settings with which a batch is taken in parts of so many examples; None: whole."""
    return config.replace(chunk_size=size)


def value_fit(apply, epochs: int, minibatch: int, rate=1e-3):
    """(key, params, optimizer, batch) -> (params, optimizer): the library's fit of the critic."""

    def fit(key, params, optimizer, batch: Batch):
        return fit_value(
            *(key, params, optimizer),
            **regression(apply, batch),
            learning_rate=rate,
            num_epochs=epochs,
            minibatch_size=min(minibatch, batch.weight.size),
        )[:2]

    return fit


def regression(apply: Callable, batch: Batch) -> dict[str, Any]:
    """What a fit of the critic is given."""
    return {
        **{"apply": apply, "obs": batch.obs},
        **{"target": batch.value_target, "weight": batch.weight},
    }


def start_of_fit(value_params):
    """State of the critic's optimiser before the first fit."""
    return init_value_optimizer(value_params)


def environment_of(state: TrainState):
    """(states of the environments, observations) in which a run stands."""
    return state.actor.env_state, state.actor.obs


def without_environment(state: TrainState) -> TrainState:
    """A run's numbers: neither what its environments keep, nor its key."""
    return state.replace(actor=state.actor.replace(env_state=()), key=())


def prepared(agent: trpo_jax.Agent, config: TRPOConfig, hparams: HParams):
    """(state, trajectory) -> what the second half of an update begins with; its `.batch`."""
    numbers = hparams.as_arrays() if isinstance(hparams.max_kl, float) else hparams

    def prepare(state, trajectory):
        reward = scale_rewards(state, trajectory, numbers, config).reward
        return batches.prepare_batch(agent.parts, state, trajectory, reward, numbers)

    return prepare


def next_problem(agent: trpo_jax.Agent, config: TRPOConfig, state, hparams) -> Problem:
    """The policy of a run, and the batch of its next update."""
    batch = prepared(agent, config, hparams)(*agent.rollout(state)).batch
    return Problem(agent.policy, agent.critic, state.policy_params, state.value_params, batch)


class Case(NamedTuple):
    """Where real batches come from: environment, settings, and after how many updates."""

    env_id: str
    env_kwargs: dict[str, Any]
    config: TRPOConfig = TRPOConfig()
    hparams: HParams = HParams()
    stages: tuple[int, ...] = (20,)

    def draw(self) -> list[Problem]:
        """Train one run; a batch at each of the stages."""
        agent = trpo_jax.make_trpo(trpo_jax.make_env(self.env_id, **self.env_kwargs), self.config)
        networks = agent.policy, agent.critic

        @jax.jit
        def draw(state):
            return next_problem(agent, self.config, state, self.hparams)[2:]

        state, done, problems = agent.init(jax.random.key(0)), 0, []
        for stage in self.stages:
            state, _ = agent.train(state, self.hparams, num_updates=stage - done)
            done = stage
            problems.append(Problem(*networks, *draw(state)))
        return problems


CASES = {
    "CartPole": Case("CartPole-v1", {}),
    "Pendulum": Case("Pendulum-v1", {}),
    "hopper": Case("brax/hopper", {"backend": "spring"}, TRPOConfig(normalize_observations=True)),
}


class FlatProblem(NamedTuple):
    """The trust-region problem of one batch, on parameters [P] as one vector."""

    flat: jax.Array
    gradient: jax.Array
    evaluate: Callable
    """vector -> (surrogate, mean KL)."""
    product: Callable
    """v -> H v."""


def flat_problem(policy, params, batch: Batch, config: TRPOConfig = TRPOConfig()) -> FlatProblem:  # noqa: B008 - frozen
    """Gradient, evaluation and curvature product of the surrogate and its KL."""
    objective = make_objective(policy, 0.0)
    flat, unravel = ravel_pytree(params)
    evaluate = evaluation(objective, batch, chunk_size=config.chunk_size)
    product = curvature_product(
        objective, params, batch, curvature=config.curvature, chunk_size=config.chunk_size
    )
    return FlatProblem(
        flat=flat,
        gradient=jax.grad(lambda vector: evaluate(unravel(vector))[0])(flat),
        evaluate=lambda vector: evaluate(unravel(vector)),
        product=lambda vector: ravel_pytree(product(unravel(vector)))[0],
    )


@functools.cache
def gradient_of(policy):
    """Compiled (params, batch) -> ∇L [P]."""
    return jax.jit(lambda params, batch: flat_problem(policy, params, batch).gradient)


@functools.cache
def solver(policy, iterations: int, dtype: str):
    """Compiled (params, batch, right-hand side, damping) -> `CGResult`; never stops early.

    Everything is computed in `dtype`, for float64 the products too. To be called by `in_double`.
    """

    def solve(params, batch, rhs, damping):
        params, batch, rhs = cast((params, batch, rhs), dtype)
        product, damping = flat_problem(policy, params, batch).product, jnp.asarray(damping, dtype)
        return trpo_jax.cg_solve(
            lambda vector: product(vector) + damping * vector, rhs, max_iters=iterations, tol=0.0
        )

    return jax.jit(solve)


@functools.cache
def exact_product(policy):
    """Compiled (params, batch, vector, damping) -> (H + λI) vector in float64, by `in_double`."""

    def multiply(params, batch, vector, damping):
        params, batch, vector = cast((params, batch, vector), jnp.float64)
        return flat_problem(policy, params, batch).product(vector) + damping * vector

    return jax.jit(multiply)


def in_double(fn: Callable, *arguments):
    """What `fn` returns where float64 exists, as NumPy arrays."""
    with jax.enable_x64(True):
        return jax.device_get(fn(*arguments))


def with_settings(preset: trpo_jax.Preset, settings: dict[str, Any]) -> trpo_jax.Preset:
    """The preset with some fields of either kind changed."""
    static = {field.name for field in dataclasses.fields(trpo_jax.TRPOConfig)}
    config = {name: value for name, value in settings.items() if name in static}
    traced = {name: value for name, value in settings.items() if name not in static}
    return preset._replace(
        config=preset.config.replace(**config), hparams=preset.hparams.replace(**traced)
    )
