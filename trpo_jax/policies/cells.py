"""Memory cells: flax modules that go through whole sequences.

Each maps (carry [N, ...], x [T, N, features], reset bool [T, N]) to (outputs [T, N, size], carry
after the last step). Whatever does not depend on the memory is computed for all steps at once; the
rest is a scan over time. Everything runs at the highest matrix precision, so that an update
recomputes the probabilities of the rollout on every device.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from trpo_jax.policies.initializers import bound

LONGEST = 100.0
"""Steps after which the slowest unit of a new memory has forgotten all but 1/e."""

Outputs = tuple[Any, Any]


def _timescales(size: int) -> jax.Array:
    """Biases of the gate that keeps, σ(b) = τ / (1 + τ): τ from 1 to `LONGEST`, evenly in log τ.

    So a new memory has units for every length of time. Tallec & Ollivier 2018, section 2.
    """
    return jnp.linspace(0.0, math.log(LONGEST), size)


def _biases(*parts: str, size: int) -> Callable[..., jax.Array]:
    """An initialiser of biases, side by side: "keep" for the gate that keeps, or "zero"."""

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        del key, shape
        rows = [_timescales(size) if part == "keep" else jnp.zeros(size) for part in parts]
        return jnp.concatenate(rows).astype(dtype)

    return init


def _from_inputs(size: int, *parts: str) -> nn.Dense:
    """What all steps take from their inputs alone, one block of `size` columns for each part."""
    return nn.Dense(
        len(parts) * size,
        kernel_init=bound(1.0),
        bias_init=_biases(*parts, size=size),
        precision="highest",
        name="inputs",
    )


_product = functools.partial(jnp.matmul, precision="highest")


def _anew(reset: jax.Array, carry: jax.Array) -> jax.Array:
    """Memories [N, size], zero where `reset` [N]."""
    return jnp.where(reset[:, None], 0, carry)


class GRU(nn.Module):
    """A gated recurrent unit; the carry is its output h, [N, size].

        r = σ(W_r x + U_r h + b_r),   z = σ(W_z x + U_z h + b_z)
        n = tanh(W_n x + b_n + r (U_n h + c)),   h ← (1 − z) n + z h

    The equations of flax's `GRUCell`. Cho et al. 2014.
    """

    size: int
    rematerialize: bool = False

    @nn.compact
    def __call__(self, carry: jax.Array, x: jax.Array, reset: jax.Array) -> Outputs:
        """All outputs, and the last memory."""
        size = self.size
        inputs = _from_inputs(size, "zero", "keep", "zero")(x)
        kernel = self.param("recurrent", bound(1.0), (size, 3 * size))
        bias = self.param("candidate_bias", nn.initializers.zeros, (size,), jnp.float32)

        def step(h: jax.Array, row: tuple[jax.Array, jax.Array]) -> Outputs:
            from_input, starts = row
            h = _anew(starts, h)
            from_memory = _product(h, kernel)
            gates = nn.sigmoid(from_input[:, : 2 * size] + from_memory[:, : 2 * size])
            r, z = gates[:, :size], gates[:, size:]
            n = nn.tanh(from_input[:, 2 * size :] + r * (from_memory[:, 2 * size :] + bias[None]))
            h = n + z * (h - n)
            return h, h

        carry, outputs = _scan(step, carry, (inputs, reset), self.rematerialize)
        return outputs, carry

    def initial_carry(self, number: int) -> jax.Array:
        """Zeros."""
        return jnp.zeros((number, self.size), jnp.float32)


class LSTM(nn.Module):
    """A long short-term memory; the carry is (c, h), [N, size] each.

        i, f, o = σ(W x + U h + b),   g = tanh(W_g x + U_g h + b_g)
        c ← f c + i g,   h ← o tanh(c)

    The equations of flax's `LSTMCell`. Hochreiter & Schmidhuber 1997; Gers et al. 2000.
    """

    size: int
    rematerialize: bool = False

    @nn.compact
    def __call__(self, carry: Any, x: jax.Array, reset: jax.Array) -> Outputs:
        """All outputs h, and the last memory."""
        size = self.size
        inputs = _from_inputs(size, "zero", "keep", "zero", "zero")(x)
        kernel = self.param("recurrent", bound(1.0), (size, 4 * size))

        def step(carry: Any, row: tuple[jax.Array, jax.Array]) -> Outputs:
            from_input, starts = row
            c, h = (_anew(starts, each) for each in carry)
            total = from_input + _product(h, kernel)
            gates = nn.sigmoid(total[:, : 3 * size])
            i, f, o = gates[:, :size], gates[:, size : 2 * size], gates[:, 2 * size :]
            c = f * c + i * nn.tanh(total[:, 3 * size :])
            h = o * nn.tanh(c)
            return (c, h), h

        carry, outputs = _scan(step, carry, (inputs, reset), self.rematerialize)
        return outputs, carry

    def initial_carry(self, number: int) -> Any:
        """Zeros."""
        zeros = jnp.zeros((number, self.size), jnp.float32)
        return zeros, zeros


class MinGRU(nn.Module):
    """A minimal GRU, whose gates see the input alone: a parallel scan over time.

        z = σ(W_z x + b_z),   h ← z h + (1 − z) tanh(W_n x + b_n)

    Linear in h, so T steps take about log₂ T parallel ones; the carry is h, [N, size].
    Feng et al. 2024; Martin & Cundy 2018.
    """

    size: int
    rematerialize: bool = False

    @nn.compact
    def __call__(self, carry: jax.Array, x: jax.Array, reset: jax.Array) -> Outputs:
        """All outputs, and the last memory."""
        size = self.size
        inputs = _from_inputs(size, "keep", "zero")(x)
        z = nn.sigmoid(inputs[..., :size])
        added = (1 - z) * nn.tanh(inputs[..., size:])
        kept = jnp.where(reset[..., None], 0, z)
        run = jax.checkpoint(linear_recurrence) if self.rematerialize else linear_recurrence
        outputs = run(kept, added, carry)
        return outputs, outputs[-1]

    def initial_carry(self, number: int) -> jax.Array:
        """Zeros."""
        return jnp.zeros((number, self.size), jnp.float32)


def linear_recurrence(factor: jax.Array, added: jax.Array, first: jax.Array) -> jax.Array:
    """hₜ = factorₜ hₜ₋₁ + addedₜ for all t, by a parallel scan; [T, ...] each, h₀ = `first` [...].

    Blelloch 1990, section 1.4.
    """

    def join(left: Any, right: Any) -> Any:
        return left[0] * right[0], left[1] * right[0] + right[1]

    added = added.at[0].add(factor[0] * first)
    return jax.lax.associative_scan(join, (factor, added))[1]


def _scan(step: Callable[..., Any], carry: Any, rows: Any, rematerialize: bool) -> Any:
    return jax.lax.scan(jax.checkpoint(step) if rematerialize else step, carry, rows)


CELLS: dict[str, Callable[..., Any]] = {"gru": GRU, "lstm": LSTM, "mingru": MinGRU}
"""Keys: `TRPOConfig.memory`. A new cell is written here and named there."""
