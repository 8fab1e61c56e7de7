"""Generalised advantage estimation."""

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
    return with bootstrap minus V. Steps [T] of one trajectory do as well. Raises `ValueError` if
    the shapes differ. Schulman et al. 2016, eq. 11–16.
    """
    reward, value, next_value, terminated, truncated = _of_one_shape(
        reward=reward,
        value=value,
        next_value=next_value,
        terminated=terminated,
        truncated=truncated,
    )
    dtype = jnp.result_type(reward, value, next_value)
    reward, value, next_value = (
        x.astype(dtype if jnp.issubdtype(dtype, jnp.floating) else float)
        for x in (reward, value, next_value)
    )
    bootstrap = gamma * (1 - terminated.astype(value.dtype))
    # What follows a terminal step has no value, not even one that is not finite.
    delta = reward + bootstrap * jnp.where(terminated, 0, next_value) - value
    decay = bootstrap * gae_lambda * (1 - truncated.astype(value.dtype))

    def backwards(later: jax.Array, step: tuple[jax.Array, jax.Array]):
        step_delta, step_decay = step
        advantage = step_delta + step_decay * later
        return advantage, advantage

    _, advantage = jax.lax.scan(
        backwards, jnp.zeros_like(delta[0]), (delta, decay), reverse=True, unroll=8
    )
    return advantage, advantage + value


def _of_one_shape(**arrays: jax.Array) -> list[jax.Array]:
    """As arrays. Raises `ValueError` unless all are [T] or [T, N] with the same T ≥ 1 and N."""
    shape = jnp.shape(arrays["reward"])
    if len(shape) not in (1, 2) or shape[0] == 0:
        raise ValueError(f"reward has shape {shape}; it must be [T] or [T, N], with T >= 1 steps")
    for name, array in arrays.items():
        if jnp.shape(array) != shape:
            raise ValueError(
                f"{name} has shape {jnp.shape(array)}, reward {shape}; all must have one entry per "
                "step (next_value is V of the next observation, so value needs no extra row)"
            )
    return [jnp.asarray(array) for array in arrays.values()]
