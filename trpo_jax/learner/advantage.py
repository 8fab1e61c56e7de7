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
    """Advantages and λ-returns along trajectories of several episodes; all arrays [T, N].

        δₜ = rₜ + γ (1 − terminatedₜ) V(s′ₜ) − V(sₜ)
        Aₜ = δₜ + γ λ (1 − terminatedₜ)(1 − truncatedₜ) Aₜ₊₁,   A_T = 0

    r is `reward`, γ `gamma`, λ `gae_lambda`; `value` is V(sₜ); `next_value` is V(s′ₜ), of the
    observation *before* any automatic reset. So a truncated episode bootstraps from where it was
    cut, and nothing leaks in from the next one. Returns (Aₜ, Aₜ + V(sₜ)). λ = 0 gives the one-step
    temporal difference; λ = 1 gives the discounted return with bootstrap, minus V. A single
    trajectory [T] works too. Raises `ValueError` if the shapes differ. Schulman et al. 2016, eq.
    11–16.
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
    # After a terminal step the value is 0, even if next_value is NaN or infinite.
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
    """The arrays. Raises `ValueError` unless all are [T] or [T, N] with the same T ≥ 1 and N."""
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
