"""Generalised advantage estimation."""

import chex
import jax
import jax.numpy as jnp


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    gamma: jax.Array | float,
    gae_lambda: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
    """Advantages and λ-returns along trajectories that end and start again; all [T, N].

        δₜ = rₜ + γ (1 − terminatedₜ) V(s′ₜ) − V(sₜ)
        Aₜ = δₜ + γ λ (1 − terminatedₜ)(1 − truncatedₜ) Aₜ₊₁,   A_T = 0

    `value` is V(sₜ); `next_value` is V(s′ₜ), of the observation *before* any automatic reset, so
    that a truncated episode bootstraps from where it was cut and nothing leaks from the next one.
    Returns (Aₜ, Aₜ + V(sₜ)). λ = 0 gives the one-step temporal difference, λ = 1 the discounted
    return with bootstrap minus V. Schulman et al. 2016, eq. 11–16.
    """
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    chex.assert_rank(reward, {1, 2})
    bootstrap = gamma * (1 - terminated.astype(value.dtype))
    delta = reward + bootstrap * next_value - value
    decay = bootstrap * gae_lambda * (1 - truncated.astype(value.dtype))

    def backwards(later: jax.Array, step: tuple[jax.Array, jax.Array]):
        step_delta, step_decay = step
        advantage = step_delta + step_decay * later
        return advantage, advantage

    _, advantage = jax.lax.scan(
        backwards, jnp.zeros_like(delta[0]), (delta, decay), reverse=True, unroll=8
    )
    return advantage, advantage + value
