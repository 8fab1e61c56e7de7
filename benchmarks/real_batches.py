"""Parameters, batches and products as they come up in training, for studies of the solver."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import trpo_jax
from trpo_jax.learner.batch import prepare_batch
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.trpo import Agent
from trpo_jax.solver import Objective


class Lanes(NamedTuple):
    """Leaves [L, …]: what the policy step of each lane begins with."""

    params: Any
    batch: Any
    hparams: trpo_jax.HParams


def draw_lanes(agent: Agent, config: trpo_jax.TRPOConfig, settings: list, updates: int) -> Lanes:
    """Trains a run per setting and draws the batch of its next update."""
    hparams = trpo_jax.HParams.stack(settings)

    def run(lane):
        key, setting = lane
        state, _ = agent.train(agent.init(key), setting, num_updates=updates)
        return state.policy_params, draw_batch(agent, config, state, setting)

    keys = jax.random.split(jax.random.key(1), len(settings))
    params, batch = jax.jit(lambda x: jax.lax.map(run, x, batch_size=8))((keys, hparams))
    return Lanes(params, batch, hparams)


def draw_batch(agent: Agent, config: trpo_jax.TRPOConfig, state, hparams):
    after, trajectory = agent.rollout(state)
    networks = {"policy": agent.policy, "critic": agent.critic}
    return prepare_batch(after, trajectory, hparams, **networks, config=config).batch


class Problem(NamedTuple):
    """The trust-region problem of one batch, on flat parameters, without the solver's machinery."""

    flat: jax.Array
    gradient: jax.Array
    evaluate: Any
    product: Any


def flat_problem(policy, params, batch) -> Problem:
    """Gradient, evaluation and Gauss–Newton product of the surrogate and its KL."""
    objective: Objective = make_objective(policy, 0.0)
    flat, unravel = ravel_pytree(params)
    share = batch.weight / jnp.sum(batch.weight)

    def predict(candidate):
        return objective.predict(unravel(candidate), batch)

    def evaluate(candidate):
        outputs = predict(candidate)
        gain, divergence = objective.gain(outputs, batch), objective.divergence(outputs, batch)
        return jnp.sum(share * gain), jnp.sum(share * divergence)

    def weighted_product(outputs, tangent):
        product = objective.fisher_product(outputs, tangent)
        return jax.tree.map(lambda leaf: share[:, None] * leaf, product)

    gradient = jax.grad(lambda candidate: evaluate(candidate)[0])(flat)
    product = trpo_jax.gauss_newton_product(predict, weighted_product, flat)
    return Problem(flat, gradient, evaluate, product)


class Case(NamedTuple):
    """A real batch: which environment, after how many updates, with which settings."""

    env_id: str
    updates: int
    env_kwargs: dict[str, Any]
    config: trpo_jax.TRPOConfig = trpo_jax.TRPOConfig()


CASES = {
    "CartPole": Case("CartPole-v1", 20, {}),
    "Pendulum": Case("Pendulum-v1", 20, {}),
    "hopper": Case(
        "brax/hopper", 20, {"backend": "spring"}, trpo_jax.TRPOConfig(normalize_observations=True)
    ),
}


def draw_problem(name: str):
    """(policy, params, batch) of a case."""
    case = CASES[name]
    env = trpo_jax.make_env(case.env_id, **case.env_kwargs)
    agent = trpo_jax.make_trpo(env, case.config)
    hparams = trpo_jax.HParams()
    state, _ = agent.train(agent.init(jax.random.key(0)), hparams, num_updates=case.updates)
    batch = jax.jit(lambda s: draw_batch(agent, case.config, s, hparams.as_arrays()))(state)
    return agent.policy, state.policy_params, batch
