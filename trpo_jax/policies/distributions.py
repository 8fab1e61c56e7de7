"""Action distributions. Each is a pytree of its parameters, with any leading batch axes.

`log_prob`, `entropy` and `kl` are sums over action dimensions. `p.kl(q)` is D(p‖q), exactly 0 for
q = p and never negative: it is a sum of terms d ↦ eᵈ − 1 − d ≥ 0, so a bound of 1e-6 can be tested
in float32. `p.fisher_product(u)` is F·u, with F the Fisher matrix of p in terms of its parameters,
which is the Hessian of D(p‖·) at p.
"""

import math
from typing import Any, Literal, Protocol, Self, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct

from trpo_jax.spaces import Box

LOG_TWO_PI = math.log(2 * math.pi)


def _excess(x: jax.Array) -> jax.Array:
    """eˣ − 1 − x, without cancellation in eˣ − 1."""
    return jnp.expm1(x) - x


@runtime_checkable
class Distribution(Protocol):
    """What a policy returns: a pytree of the distribution's parameters, with any leading axes.

    Write your own as a `flax.struct.PyTreeNode`. Leaves start with the batch axes [...]. Static
    fields are allowed; integer and bool leaves are not, because they have no derivative. Two more
    methods are optional:

    - `to_box(action, space)` maps an action into a `Box`, [..., dimensions] -> [..., *space.shape].
      By default −1 and 1 map to the bounds (`space.from_policy`); a Beta distribution, which lives
      in (0, 1), would `return space.from_unit(action)`.
    - `fisher_product(tangent)`, shaped like `self`: F·u, with F the Fisher matrix in terms of the
      parameters, the Hessian of D(self‖·) at self. Without it, set curvature="hvp".
    """

    @property
    def num_dimensions(self) -> int:
        """Number of action dimensions that log-probability, entropy and KL are summed over."""

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log p(action) in nats; action [...] or [..., dimensions], result [...]."""

    def entropy(self) -> jax.Array:
        """Entropy in nats; [...]."""

    def kl(self, other: Self) -> jax.Array:
        """D(self‖other) in nats, never negative and exactly 0 if other = self; [...]."""

    def sample(self, key: jax.Array) -> jax.Array:
        """One action per batch element; [...] or [..., dimensions]."""

    def mode(self) -> jax.Array:
        """The action that the deterministic policy takes, shaped like a sample."""


def masked(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Logits with −∞ where `mask` (bool, shaped like `logits`) forbids the action.

    At least one action of each dimension must be allowed.
    """
    return logits if mask is None else jnp.where(mask, logits, -jnp.inf)


class Categorical(struct.PyTreeNode):
    """A choice among n actions; an action is an int32 in [0, n)."""

    logits: jax.Array
    """[..., n], not necessarily normalised; −∞ masks an action."""

    @property
    def num_dimensions(self) -> int:
        """1."""
        return 1

    def log_prob(self, action: jax.Array) -> jax.Array:
        """log p(action); action [...], result [...]."""
        log_p = jax.nn.log_softmax(self.logits)
        categories = jnp.expand_dims(jnp.arange(self.logits.shape[-1]), range(action.ndim))
        chosen = action[..., None] == categories
        return jnp.sum(jnp.where(chosen, log_p, 0), axis=-1)  # a gather would transpose to scatter

    def entropy(self) -> jax.Array:
        """−Σ p log p, in nats; [...]."""
        log_p = jax.nn.log_softmax(self.logits)
        p = jnp.exp(log_p)
        return -jnp.sum(p * jnp.where(p > 0, log_p, 0), axis=-1)

    def kl(self, other: "Categorical") -> jax.Array:
        """D(self‖other) = Σ p (eᵈ − 1 − d) with d = log q − log p; [...]."""
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        p = jnp.exp(log_p)
        possible = p > 0
        d = jnp.where(possible, log_q, 0) - jnp.where(possible, log_p, 0)
        # p eᵈ = q, but for large d or a masked action (−∞) it would be 0 · ∞.
        large = ~possible | (d > 1)
        terms = jnp.where(large, jnp.exp(log_q) - p - p * d, p * _excess(jnp.where(large, 0, d)))
        return jnp.sum(terms, axis=-1)

    def sample(self, key: jax.Array) -> jax.Array:
        """One action per batch element; int32 [...]."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def mode(self) -> jax.Array:
        """The most probable action; int32 [...]."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def fisher_product(self, tangent: "Categorical") -> "Categorical":
        """(diag p − p pᵀ) u, for a tangent u of the logits."""
        p = jax.nn.softmax(self.logits)
        mean = jnp.sum(p * tangent.logits, axis=-1, keepdims=True)
        return Categorical(logits=p * (tangent.logits - mean))


class MultiCategorical(struct.PyTreeNode):
    """Independent choices, one per dimension; an action is int32 [..., dimensions]."""

    logits: jax.Array
    """[..., Σ nᵢ]: the logits of all dimensions side by side."""
    num_categories: tuple[int, ...] = struct.field(pytree_node=False)
    """nᵢ: the number of categories of each dimension."""

    @property
    def num_dimensions(self) -> int:
        """Number of choices."""
        return len(self.num_categories)

    def _parts(self) -> list[Categorical]:
        ends = [sum(self.num_categories[: i + 1]) for i in range(len(self.num_categories) - 1)]
        return [Categorical(part) for part in jnp.split(self.logits, ends, axis=-1)]

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Σᵢ log pᵢ(actionᵢ); action [..., dimensions], result [...]."""
        parts = self._parts()
        return sum((part.log_prob(action[..., i]) for i, part in enumerate(parts)), jnp.zeros(()))

    def entropy(self) -> jax.Array:
        """Sum of the entropies, in nats; [...]."""
        return sum((part.entropy() for part in self._parts()), jnp.zeros(()))

    def kl(self, other: "MultiCategorical") -> jax.Array:
        """Sum of D(selfᵢ‖otherᵢ); [...]."""
        pairs = zip(self._parts(), other._parts(), strict=True)
        return sum((mine.kl(theirs) for mine, theirs in pairs), jnp.zeros(()))

    def sample(self, key: jax.Array) -> jax.Array:
        """One action per batch element; int32 [..., dimensions]."""
        keys = jax.random.split(key, len(self.num_categories))
        samples = [part.sample(k) for part, k in zip(self._parts(), keys, strict=True)]
        return jnp.stack(samples, axis=-1)

    def mode(self) -> jax.Array:
        """The most probable choice in each dimension; int32 [..., dimensions]."""
        return jnp.stack([part.mode() for part in self._parts()], axis=-1)

    def fisher_product(self, tangent: "MultiCategorical") -> "MultiCategorical":
        """The products of the dimensions, side by side."""
        pairs = zip(self._parts(), tangent._parts(), strict=True)
        products = [part.fisher_product(u).logits for part, u in pairs]
        return self.replace(logits=jnp.concatenate(products, axis=-1))


class DiagonalGaussian(struct.PyTreeNode):
    """Independent normal variables; an action is float32 [..., dimensions], unbounded.

    Every policy clips or squashes its action in the same way before the environment sees it, so
    probability ratios and KL are those of the Gaussian.
    """

    mean: jax.Array
    """[..., dimensions]."""
    log_std: jax.Array
    """[..., dimensions]: log of the standard deviation."""
    bounds: Literal["clip", "tanh"] = struct.field(pytree_node=False, default="clip")
    """How an action is mapped into a `Box`."""

    @property
    def num_dimensions(self) -> int:
        """Number of real components of an action."""
        return self.mean.shape[-1]

    def to_box(self, action: jax.Array, space: Box) -> jax.Array:
        """The action in the box, −1 and 1 at its bounds; [..., *space.shape]."""
        return space.from_policy(action, self.bounds)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-density in nats; action [..., dimensions], result [...]."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * z**2 - self.log_std - 0.5 * LOG_TWO_PI, axis=-1)

    def entropy(self) -> jax.Array:
        """Differential entropy Σ (log σ + ½ log 2πe), in nats; [...]."""
        return jnp.sum(self.log_std + 0.5 * (1 + LOG_TWO_PI), axis=-1)

    def kl(self, other: "DiagonalGaussian") -> jax.Array:
        """D(self‖other) = ½ Σ (eˢ − 1 − s + (Δμ/σ_q)²) with s = 2 log(σ_p/σ_q); [...]."""
        s = 2 * (self.log_std - other.log_std)
        shift = (self.mean - other.mean) * jnp.exp(-other.log_std)
        return 0.5 * jnp.sum(_excess(s) + shift**2, axis=-1)

    def sample(self, key: jax.Array) -> jax.Array:
        """μ + σ ε; [..., dimensions]."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> jax.Array:
        """μ; [..., dimensions]."""
        return self.mean

    def fisher_product(self, tangent: "DiagonalGaussian") -> "DiagonalGaussian":
        """diag(1/σ², 2) u, for a tangent u of (μ, log σ)."""
        return self.replace(
            mean=tangent.mean * jnp.exp(-2 * self.log_std), log_std=2 * tangent.log_std
        )


_REQUIRED = ("log_prob", "entropy", "kl", "sample", "mode", "num_dimensions")


def require_distribution(value: Any, source: str) -> None:
    """Raise `ValueError` unless `value` is a pytree with the methods of `Distribution`."""
    missing = [name for name in _REQUIRED if not hasattr(value, name)]
    if missing:
        raise ValueError(
            f"{source} returns {type(value).__name__}, which has no {', '.join(missing)}; it must "
            "return a trpo_jax.Distribution, such as trpo_jax.Categorical(logits)"
        )
    leaves = jax.tree.leaves(value)
    kinds = [getattr(leaf, "dtype", type(leaf).__name__) for leaf in leaves]
    strange = [kind for kind in kinds if isinstance(kind, str) or not _is_inexact(kind)]
    if strange or not leaves:
        what = f"a leaf of {strange[0]}" if strange else "no array in it"
        raise ValueError(
            f"{source} returns a {type(value).__name__} with {what}; its parameters must be "
            "floating arrays of a pytree (derive it from flax.struct.PyTreeNode)"
        )


def _is_inexact(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def to_box(distribution: Any, action: jax.Array, space: Box) -> jax.Array:
    """Map an action into a box by the distribution's `to_box`, or by default as for a Gaussian."""
    own = getattr(distribution, "to_box", None)
    return own(action, space) if own is not None else space.from_policy(action, "clip")
