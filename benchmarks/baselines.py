"""Vanilla policy gradient and PPO as policy steps of the library, and nothing more.

Rollout, advantages, critic, networks and metrics are the library's own, so that a comparison with
TRPO compares the policy step alone:

    agent = trpo_jax.make_trpo(env, config, policy_step=baselines.ppo())
    agent = trpo_jax.make_trpo(env, config, policy_step=baselines.vanilla_policy_gradient())
    agent = trpo_jax.make_trpo(env, config.replace(line_search=False))  # natural policy gradient

The learning rate is part of the step's state, so that a sweep over it is a `vmap`:
`with_learning_rate(state, rate)`. What each step reports of the KL is measured on its batch, after
all of its gradient steps.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from trpo_jax import HParams, TRPOConfig
from trpo_jax.learner import PolicyStep, StepInfo, TrainState
from trpo_jax.learner.types import Batch
from trpo_jax.solver import Objective


class PPOSettings(NamedTuple):
    """What PPO needs beyond `HParams`. The defaults are those of its authors' MuJoCo runs."""

    learning_rate: float = 3e-4
    """Adam's step size, constant."""
    clip: float = 0.2
    """ε: the ratio counts within [1 − ε, 1 + ε]."""
    num_epochs: int = 10
    """Passes over the batch."""
    minibatch_size: int = 64
    """Examples per gradient step; must divide the batch."""
    max_gradient_norm: float = 0.5
    """The gradient of a minibatch is shortened to this."""


@functools.cache  # the same step twice, so that `make_trpo` returns the same agent
def vanilla_policy_gradient(learning_rate: float = 1e-2) -> PolicyStep:
    """One step of Adam along ∇L at π_old per batch, where ∇L is the policy gradient.

    Williams 1992; Sutton et al. 2000. Advantages and critic are those of the learner.
    """
    optimizer = _adam(learning_rate)

    def apply(key, objective, params, state, batch, hparams, config):
        del key, hparams, config
        flat, unravel = ravel_pytree(params)
        gradient = jax.grad(lambda theta: evaluate(objective, unravel(theta), batch)[0])(flat)
        updates, state = optimizer.update(-gradient, state)
        return _finish(objective, unravel(flat + updates), batch, state)

    return PolicyStep(init=lambda params: optimizer.init(ravel_pytree(params)[0]), apply=apply)


@functools.cache
def ppo(settings: PPOSettings = PPOSettings()) -> PolicyStep:  # noqa: B008 - immutable
    """Adam on the clipped surrogate over shuffled minibatches, several epochs per batch.

    Advantages are standardised once more within each minibatch, the gradient's norm is bounded,
    Adam has ε = 1e-5, as is usual (Huang et al. 2022). The loss is `clipped_surrogate`.
    Schulman et al. 2017, eq. 7 and algorithm 1.
    """
    optimizer = _adam(settings.learning_rate, settings.max_gradient_norm)

    def apply(key, objective, params, state, batch, hparams, config):
        flat, unravel = ravel_pytree(params)
        size, batch_size = settings.minibatch_size, batch.weight.shape[0]
        if batch_size % size:
            raise ValueError(
                f"minibatch_size={size} does not divide the batch of {batch_size}; use a divisor"
            )

        def gain(theta: jax.Array, rows: Batch) -> jax.Array:
            return clipped_surrogate(objective, unravel(theta), rows, settings.clip, hparams)

        def minibatch_step(carry, rows: Batch):
            theta, state = carry
            updates, state = optimizer.update(-jax.grad(gain)(theta, rows), state)
            return (theta + updates, state), None

        def epoch(carry, _):
            theta, state, order = carry
            rows = jax.tree.map(lambda x: x[order].reshape(-1, size, *x.shape[1:]), batch)
            (theta, state), _ = jax.lax.scan(minibatch_step, (theta, state), rows)
            return (theta, state, reshuffle[order]), None

        # As in the library's value fit, two sorts shuffle all epochs.
        bits = jax.random.bits(key, (2, batch_size))
        order, reshuffle = jnp.argsort(bits, axis=-1)
        (theta, state, _), _ = jax.lax.scan(epoch, (flat, state, order), length=settings.num_epochs)
        return _finish(objective, unravel(theta), batch, state)

    return PolicyStep(init=lambda params: optimizer.init(ravel_pytree(params)[0]), apply=apply)


def clipped_surrogate(
    objective: Objective, params: Any, batch: Batch, clip: float, hparams: HParams
) -> jax.Array:
    """Σ w [min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) + c H(π)] / Σ w, with A standardised, ρ = π/π_old."""
    distribution = objective.predict(params, batch)
    total = jnp.maximum(jnp.sum(batch.weight), 1e-8)

    def mean(values: jax.Array) -> jax.Array:
        return jnp.sum(batch.weight * values) / total

    centred = batch.advantage - mean(batch.advantage)
    advantage = centred / (jnp.sqrt(mean(centred**2)) + 1e-8)
    ratio = jnp.exp(distribution.log_prob(batch.action) - batch.log_prob)
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    surrogate = jnp.minimum(ratio * advantage, clipped * advantage)
    return mean(surrogate + hparams.entropy_coef * distribution.entropy())


def evaluate(objective: Objective, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The unclipped surrogate L and the mean KL(π_old‖π) on a batch."""
    outputs, weight = objective.predict(params, batch), objective.weight(batch)
    gain = jnp.sum(weight * objective.gain(outputs, batch)) / jnp.sum(weight)
    return gain, jnp.sum(weight * objective.divergence(outputs, batch)) / jnp.sum(weight)


def one_step(step: PolicyStep, objective: Objective, params: Any, batch: Batch, hparams=HParams()):  # noqa: B008
    """(params, state, info) of a step from a fresh state."""
    given = params, step.init(params), batch, hparams, TRPOConfig()
    return step.apply(jax.random.key(0), objective, *given)


def with_learning_rate(state: TrainState, learning_rate: jax.Array | float) -> TrainState:
    """The state of a run whose baseline goes on with another step size; it may be traced."""
    adam = state.policy_step_state
    rate = jnp.asarray(learning_rate, jnp.float32)
    hyperparams = {**adam.hyperparams, "learning_rate": rate}
    return state.replace(policy_step_state=adam._replace(hyperparams=hyperparams))


def _adam(learning_rate: float, max_gradient_norm: float | None = None):
    """Adam over one flat vector, with its step size in its state."""

    def build(learning_rate):
        adam = optax.adam(learning_rate, eps=1e-8 if max_gradient_norm is None else 1e-5)
        if max_gradient_norm is None:
            return adam
        return optax.chain(optax.clip_by_global_norm(max_gradient_norm), adam)

    return optax.inject_hyperparams(build, hyperparam_dtype=jnp.float32)(learning_rate)


def _finish(objective: Objective, params: Any, batch: Batch, state: Any):
    """The new parameters with the record of how far they went; every step is accepted."""
    improvement, kl = evaluate(objective, params, batch)
    return params, state, StepInfo(accepted=jnp.bool_(True), kl=kl, improvement=improvement)
