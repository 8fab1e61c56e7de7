"""Real linear systems (H + λI) x = g: batches of policies in training, solved in two precisions."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import trpo_jax
from claim_studies.settings import Task, get_task
from trpo_jax.learner.batch import prepare_batch
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.types import Batch, TrainState
from trpo_jax.policies.networks import Policy
from trpo_jax.solver import trees
from trpo_jax.solver.conjugate_gradient import CGResult, cg_solve
from trpo_jax.solver.curvature import gauss_newton_product
from trpo_jax.solver.precision import in_float64


class Problem(NamedTuple):
    """A policy in training, with a batch drawn from it."""

    env_id: str
    num_updates: int
    """How long the policy has been trained."""
    policy: Policy
    params: Any
    batch: Batch
    gradient: jax.Array
    """[P]: ∇L at the parameters, as one vector."""


@functools.cache
def at_stages(env_id: str, stages: tuple[int, ...], quick: bool) -> list[Problem]:
    """Train with TRPO, δ = 0.01, and take a batch after each number of updates."""
    task = get_task(env_id, quick)
    agent = trpo_jax.make_trpo(task.make_env(), task.config)
    state, done, problems = agent.init(jax.random.key(0)), 0, []
    for stage in stages:
        for _ in range(stage - done):
            state, _ = agent.update(state, task.hparams())
        done = stage
        problems.append(problem_of(agent, task, state))
    return problems


def problem_of(agent: trpo_jax.Agent, task: Task, state: TrainState) -> Problem:
    """Draw a batch from the policy of a state."""
    _, trajectory = agent.rollout(state)
    prepare = jax.jit(
        lambda state, trajectory: (
            prepare_batch(
                state,
                trajectory,
                task.hparams(),
                policy=agent.policy,
                critic=agent.critic,
                config=task.config,
            ).batch
        )
    )
    batch = prepare(state, trajectory)
    gradient = jax.jit(lambda params, batch: _gradient(agent.policy, params, batch))
    return Problem(
        task.env_id,
        int(state.num_updates),
        agent.policy,
        state.policy_params,
        batch,
        gradient(state.policy_params, batch),
    )


def matvec(policy: Policy, params: Any, batch: Batch, damping: jax.Array):
    """v ↦ (H + λI) v for vectors [P], in the precision of its arguments."""
    objective = make_objective(policy, 0.0)
    flat, unravel = ravel_pytree(params)
    share = batch.weight / jnp.sum(batch.weight)

    def weighted(outputs, tangent):
        product = objective.fisher_product(outputs, tangent)
        return jax.tree.map(lambda leaf: share[:, None] * leaf, product)

    product = gauss_newton_product(
        lambda theta: objective.predict(unravel(theta), batch), weighted, flat
    )
    return lambda vector: product(vector) + damping * vector


@functools.cache
def solver(policy: Policy, iterations: int, dtype: str):
    """Compiled (params, batch, right-hand side, damping) -> `CGResult`; never stops early."""

    def solve(params, batch, rhs, damping) -> CGResult:
        return cg_solve(matvec(policy, params, batch, damping), rhs, max_iters=iterations, tol=0.0)

    return jax.jit(_in_double(solve) if dtype == "float64" else solve)


@functools.cache
def exact_product(policy: Policy):
    """Compiled (params, batch, vector, damping) -> (H + λI) vector, computed in float64."""

    def multiply(params, batch, vector, damping):
        return matvec(policy, params, batch, damping)(vector)

    return jax.jit(_in_double(multiply))


def _in_double(fn):
    """`fn` of float64 arguments; `in_float64` only makes room for them and casts the result back.

    A solution is therefore known to float32's last digit, as it is to the library's own step.
    """
    return in_float64(lambda *arguments: fn(*trees.cast(arguments, jnp.float64)))


def _gradient(policy: Policy, params: Any, batch: Batch) -> jax.Array:
    objective = make_objective(policy, 0.0)
    flat, unravel = ravel_pytree(params)

    def surrogate(theta: jax.Array) -> jax.Array:
        gain = objective.gain(objective.predict(unravel(theta), batch), batch)
        return jnp.sum(batch.weight * gain) / jnp.sum(batch.weight)

    return jax.grad(surrogate)(flat)
