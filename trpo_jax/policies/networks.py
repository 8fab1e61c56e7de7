"""The built-in actor and critic: flax modules, exposed as pure functions."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from trpo_jax.policies.distributions import (
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    masked,
)
from trpo_jax.policies.initializers import bound, draw
from trpo_jax.policies.policy import Critic, Params, Policy
from trpo_jax.spaces import Observation, policy_part

Shapes = tuple[tuple[int, ...], ...]
Convolutions = tuple[tuple[int, int, int], ...]
"""Per layer: channels, side of the square filter, stride; a side is a multiple of its stride."""

MINATAR: Convolutions = ((16, 3, 1),)
"""Young & Tian 2019."""
NATURE: Convolutions = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Mnih et al. 2015, for the images of Atari."""

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": nn.tanh,
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "silu": nn.silu,
    "gelu": nn.gelu,
}
_SATURATION = 0.99


def _patches(images: jax.Array, side: int, stride: int) -> jax.Array:
    """Every `stride`-th square, [B, height, width, channels] -> [B, rows, columns, side² · …].

    A convolution is a matrix product with these. In curvature products XLA's own convolution on CPU
    is 16 times slower, and slower still when `vmap` turns it into a grouped convolution. With a
    stride, the image is first cut into blocks of `stride` × `stride` pixels, which become channels.
    """
    size, channels = images.shape[0], images.shape[3]
    width = side // stride
    rows, columns = (_convolved(length, side, stride) for length in images.shape[1:3])
    height_used, width_used = rows + width - 1, columns + width - 1
    if stride > 1:
        used = images[:, : height_used * stride, : width_used * stride]
        blocks = used.reshape(size, height_used, stride, width_used, stride, channels)
        images = blocks.swapaxes(2, 3).reshape(size, height_used, width_used, -1)
    shifted = [images[:, i : i + rows, j : j + columns] for i in range(width) for j in range(width)]
    return jnp.concatenate(shifted, axis=-1)


def _convolved(length: int, side: int, stride: int) -> int:
    """Length of one axis of an image after a convolution without padding."""
    return (length - side) // stride + 1


def smallest_image(convolutions: Convolutions) -> int:
    """Side of the smallest square image that these convolutions reduce to one position."""
    smallest = 1
    for _, side, stride in reversed(convolutions):
        smallest = (smallest - 1) * stride + side
    return smallest


def _narrow_product(x: jax.Array, kernel: jax.Array, _: Any, precision: Any) -> jax.Array:
    """x · kernel for a kernel with few columns, with the signature that `nn.Dense` expects.

    XLA on CPU computes the kernel's gradient, xᵀ · dy, at a tenth of the usual rate if dy is tall
    and narrow. With the kernel transposed the gradient becomes dyᵀ · x; the barrier keeps XLA from
    undoing the transposition.
    """
    rows = jax.lax.optimization_barrier(kernel.T)
    return jax.lax.dot_general(x, rows, (((x.ndim - 1,), (1,)), ((), ())), precision=precision)


def last_layer(num_outputs: int, gain: float) -> nn.Dense:
    """A linear layer from features to a few outputs."""
    return nn.Dense(
        num_outputs, kernel_init=bound(gain), precision="highest", dot_general=_narrow_product
    )


class Body(nn.Module):
    """Hidden layers: observations with any leading axes to features [..., hidden_sizes[-1]].

    If there are convolutions, the one image among the leaves goes through them first. A tree of
    arrays is flattened into one vector; uint8 is scaled to [0, 1].
    Everything runs at the highest matrix precision, so that an update recomputes the probabilities
    of the rollout on every device.
    """

    obs_shapes: Shapes
    """Shapes of the leaves of one observation, in order."""
    hidden_sizes: tuple[int, ...]
    activation: str
    convolutions: Convolutions = ()

    @nn.compact
    def __call__(self, obs: Any) -> jax.Array:
        """Features of a batch of observations, a tree of [..., *shape]."""
        activate = _ACTIVATIONS[self.activation]
        init = bound(1.0 if self.activation == "tanh" else 2.0**0.5)
        leaves = jax.tree.leaves(obs)
        batch_shape = leaves[0].shape[: leaves[0].ndim - len(self.obs_shapes[0])]
        parts = [
            _as_floating(leaf).reshape(-1, *shape)
            for leaf, shape in zip(leaves, self.obs_shapes, strict=True)
        ]
        for channels, side, stride in self.convolutions:
            (image,) = (i for i, shape in enumerate(self.obs_shapes) if len(shape) == 3)
            conv = nn.Dense(channels, kernel_init=init, precision="highest")
            parts[image] = activate(conv(_patches(parts[image], side, stride)))
            self.sow("intermediates", "units", parts[image])
        flat = [part.reshape(part.shape[0], -1) for part in parts]
        x = flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=-1)
        for size in self.hidden_sizes:
            x = activate(nn.Dense(size, kernel_init=init, precision="highest")(x))
            self.sow("intermediates", "units", x)
        return x.reshape(*batch_shape, x.shape[-1])


def _as_floating(leaf: jax.Array) -> jax.Array:
    """A leaf as float32; uint8, such as that of an image, scaled to [0, 1]."""
    if leaf.dtype == jnp.uint8:
        return leaf.astype(jnp.float32) / 255
    return leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.astype(jnp.float32)


class CategoricalHead(nn.Module):
    """Features to a `Categorical` over `num_actions`."""

    num_actions: int

    @nn.compact
    def __call__(self, features: jax.Array, action_mask: jax.Array | None = None) -> Categorical:
        """The small last layer makes the first policy nearly uniform."""
        return Categorical(masked(last_layer(self.num_actions, 0.01)(features), action_mask))


class MultiCategoricalHead(nn.Module):
    """Features to a `MultiCategorical` with one choice per entry of `num_categories`."""

    num_categories: tuple[int, ...]

    @nn.compact
    def __call__(
        self, features: jax.Array, action_mask: jax.Array | None = None
    ) -> MultiCategorical:
        """One layer gives the logits of all dimensions."""
        logits = last_layer(sum(self.num_categories), 0.01)(features)
        return MultiCategorical(masked(logits, action_mask), num_categories=self.num_categories)


class GaussianHead(nn.Module):
    """Features to a `DiagonalGaussian`.

    log σ is a parameter that does not depend on the state; or, if `state_dependent`, the output of
    a second linear layer, which starts near `initial_log_std`.
    """

    num_dimensions: int
    initial_log_std: float
    state_dependent: bool = False
    bounds: Literal["clip", "tanh"] = "clip"

    @nn.compact
    def __call__(
        self, features: jax.Array, action_mask: jax.Array | None = None
    ) -> DiagonalGaussian:
        """The mean depends on the state; log σ is broadcast to the batch. Masks do not apply."""
        assert action_mask is None
        mean = last_layer(self.num_dimensions, 0.01)(features)
        if self.state_dependent:
            log_std = self.initial_log_std + last_layer(self.num_dimensions, 0.01)(features)
        else:
            initial = nn.initializers.constant(self.initial_log_std)
            log_std = self.param("log_std", initial, (self.num_dimensions,), jnp.float32)
            log_std = jnp.broadcast_to(log_std, mean.shape)
        return DiagonalGaussian(mean=mean, log_std=log_std, bounds=self.bounds)


class Actor(nn.Module):
    """A body followed by a head."""

    body: Body
    head: nn.Module

    def __call__(self, obs: Any) -> Distribution:
        """The action distribution for a batch of observations, with their mask if they have one."""
        mask = obs.action_mask if isinstance(obs, Observation) else None
        return self.head(self.body(policy_part(obs)), mask)


class ValueNetwork(nn.Module):
    """A body followed by one linear output."""

    body: Body

    @nn.compact
    def __call__(self, obs: Any) -> jax.Array:
        """V(obs), one number per observation."""
        return last_layer(1, 1.0)(self.body(obs))[..., 0]


def make_policy(body: Body, head: nn.Module) -> Policy:
    """A policy with the given body and one of the three heads."""
    actor = Actor(body, head)
    actor_apply: Callable[..., Any] = actor.apply

    def apply_with_units(params: Params, obs: Any):
        distribution, captured = actor_apply(params, obs, mutable=["intermediates"])
        body = captured.get("intermediates", {}).get("body", {})
        return distribution, list(body.get("units", ()))

    return Policy(init=_initializer(actor), apply=actor_apply, apply_with_units=apply_with_units)


def make_critic(body: Body) -> Critic:
    """A critic with the given body."""
    network = ValueNetwork(body)
    value_apply: Callable[..., Any] = network.apply
    return Critic(init=_initializer(network), apply=value_apply)


def _initializer(network: nn.Module) -> Callable[[jax.Array, Any], Params]:
    """For modules whose initialisers return bounds, such as those of this file."""

    def init(key: jax.Array, obs: Any) -> Params:
        return draw(key, network.init(key, obs))

    return init


def idle_sides(activation: str, layers: Sequence[jax.Array], weight: jax.Array) -> list[jax.Array]:
    """Per hidden layer, which units stay on which flat side of their activation; [sides, units].

    `layers` are activations [B, ..., units]; examples whose `weight` [B] is 0 do not count. A unit
    (for convolutions, a channel) is idle if, over all examples, it is saturated with one sign
    throughout, |a| > 0.99, for tanh; or if its output stays at or below zero for the others. For
    relu that means that no gradient passes; for the smoother ones, that the unit works only on its
    flat side. The result for a batch is the conjunction of the results for its parts.
    """

    def idle(units: jax.Array) -> jax.Array:
        counts = (weight > 0).reshape(-1, *(1,) * (units.ndim - 1))
        tests = [units <= 0]
        if activation == "tanh":
            tests = [units > _SATURATION, units < -_SATURATION]
        examples = tuple(range(units.ndim - 1))
        return jnp.stack([jnp.all(test | ~counts, axis=examples) for test in tests])

    return [idle(units) for units in layers]


def share_of_idle(layers: Sequence[jax.Array]) -> jax.Array:
    """[layers]: fraction of units that are idle on some side, given [sides, units] per layer."""
    shares = [jnp.mean(jnp.any(sides, axis=0)) for sides in layers]
    return jnp.stack(shares) if shares else jnp.zeros((0,))
