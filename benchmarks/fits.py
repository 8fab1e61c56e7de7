"""Ways to fit the critic, for `value_fit.py`: the library's two and what could replace them.

Each minimises Σ w (V(obs) − target)² / Σ w over a batch and carries a state from fit to fit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from trpo_jax import cg_solve, gauss_newton_product
from trpo_jax.learner.types import Batch
from trpo_jax.learner.value import fit_value, fit_value_lbfgs, init_value_optimizer

Apply = Callable[[Any, jax.Array], jax.Array]


class Fit(NamedTuple):
    """A fit with its settings filled in."""

    init: Callable[[Any], Any]
    """params -> state."""
    run: Callable[[jax.Array, Apply, Any, Any, Batch], tuple[Any, Any]]
    """(key, apply, params, state, batch) -> (params, state)."""


def adam(epochs: int, minibatch: int, rate: float) -> Fit:
    """The library's own."""

    def run(key, apply, params, state, batch):
        params, state, _ = fit_value(
            key,
            params,
            state,
            **_data(apply, batch),
            learning_rate=rate,
            num_epochs=epochs,
            minibatch_size=min(minibatch, batch.obs.shape[0]),
        )
        return params, state

    return Fit(init_value_optimizer, run)


def _data(apply: Apply, batch: Batch) -> dict[str, Any]:
    """What both of the library's fits are given."""
    return {
        "apply": apply,
        "obs": batch.obs,
        "target": batch.value_target,
        "weight": batch.weight,
    }


def _loss(apply: Apply, batch: Batch, unravel: Callable):
    def loss(flat):
        errors = batch.weight * (apply(unravel(flat), batch.obs) - batch.value_target) ** 2
        return jnp.sum(errors) / jnp.sum(batch.weight)

    return loss


def lbfgs(iterations: int) -> Fit:
    """The library's other one."""

    def run(key, apply, params, state, batch):
        params, _ = fit_value_lbfgs(params, **_data(apply, batch), num_iterations=iterations)
        return params, state

    return Fit(lambda params: (), run)


def levenberg_marquardt(steps: int, cg_iterations: int) -> Fit:
    """(Jᵀ W J + λ I) Δ = −Jᵀ W (V − target) by `cg_solve`; λ shrinks after a success, else grows.

    W are the weights, divided by their sum. λ is carried on. Levenberg 1944; Marquardt 1963.
    """

    def run(key, apply, params, damping, batch):
        flat, unravel = ravel_pytree(params)
        loss, share = _loss(apply, batch, unravel), batch.weight / jnp.sum(batch.weight)

        def step(carry, _):
            current, damping = carry
            product = gauss_newton_product(
                lambda p: apply(unravel(p), batch.obs), lambda values, u: share * u, current
            )
            before, gradient = jax.value_and_grad(loss)(current)
            solution = cg_solve(
                lambda v: product(v) + damping * v, -gradient / 2, max_iters=cg_iterations, tol=1e-3
            )
            candidate = current + solution.x
            better = loss(candidate) < before
            damping = jnp.clip(jnp.where(better, damping / 2, damping * 4), 1e-6, 1e6)
            return (jnp.where(better, candidate, current), damping), None

        (fitted, damping), _ = jax.lax.scan(step, (flat, damping), length=steps)
        return unravel(fitted), damping

    return Fit(lambda params: jnp.float32(0.1), run)


def candidates(epochs: int, rate: float = 1e-3) -> dict[str, Fit]:
    """Adam with these settings, and its rivals; larger steps where there are fewer."""
    return {
        "Adam, minibatch 128": adam(epochs, 128, rate),
        "Adam, half the epochs, rate × 1.4": adam(epochs // 2, 128, 1.4 * rate),
        "Adam, a quarter of the epochs, rate × 2": adam(max(1, epochs // 4), 128, 2 * rate),
        "Adam, minibatch 512, rate × 2": adam(epochs, 512, 2 * rate),
        "L-BFGS, 10 iterations": lbfgs(10),
        "L-BFGS, 5 iterations": lbfgs(5),
        "Levenberg–Marquardt, 1 × 10 CG": levenberg_marquardt(1, 10),
        "Levenberg–Marquardt, 3 × 10 CG": levenberg_marquardt(3, 10),
        "Adam, half the epochs, rate × 3": adam(epochs // 2, 128, 3 * rate),
        "Adam, a quarter of the epochs, rate × 6": adam(max(1, epochs // 4), 128, 6 * rate),
        "Adam, whole batch, rate × 4": adam(2 * epochs, 1 << 30, 4 * rate),
    }
