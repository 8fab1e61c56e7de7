"""Action spaces and observations: the types that policies and environments share."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Actions 0 … num_actions − 1."""

    num_actions: int
    """Number of actions, >= 1."""


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """A vector of independent choices; dimension i has num_categories[i] categories."""

    num_categories: tuple[int, ...]
    """Number of categories of each dimension; an action is int32 [dimensions]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """Real arrays of any shape between two bounds, either of which may be infinite."""

    low: Any
    """Lower bound: a number, or an array of `shape`; −∞ for none."""
    high: Any
    """Upper bound, likewise."""
    shape: tuple[int, ...]
    """Shape of an action. The policy acts on the flat vector [dimensions]."""

    @property
    def num_dimensions(self) -> int:
        """Number of real components of an action."""
        return math.prod(self.shape)

    def bounds(self) -> tuple[jax.Array, jax.Array]:
        """Lower and upper bounds of the components, float32 [num_dimensions] each."""
        low = jnp.broadcast_to(jnp.asarray(self.low, jnp.float32), self.shape).reshape(-1)
        high = jnp.broadcast_to(jnp.asarray(self.high, jnp.float32), self.shape).reshape(-1)
        return low, high

    def from_policy(self, action: jax.Array, bounds: str) -> jax.Array:
        """Map an unbounded policy action [..., dimensions] into the box, [..., *shape].

        Where both bounds are finite, the action is clipped (`bounds="clip"`) or squashed
        (`bounds="tanh"`) to [−1, 1] and scaled to the bounds. Otherwise it is only clipped.
        """
        lead = range(action.ndim - 1)
        low, high, bounded = (
            jnp.expand_dims(each, lead) for each in (*self.bounds(), self.is_bounded())
        )
        unit = jnp.tanh(action) if bounds == "tanh" else jnp.clip(action, -1, 1)
        span = jnp.where(bounded, high - low, 0)
        inside = jnp.where(bounded, low, 0) + span * (unit + 1) / 2
        boxed = jnp.where(bounded, inside, action)
        return jnp.clip(boxed, low, high).reshape(*action.shape[:-1], *self.shape)

    def from_unit(self, action: jax.Array) -> jax.Array:
        """Map an action [..., dimensions] in (0, 1) into the box, [..., *shape].

        For distributions such as Beta. 0 and 1 map to the bounds; raises `ValueError` unless these
        are finite.
        """
        if not self.is_bounded().all():
            raise ValueError(f"low={self.low}, high={self.high}: bounds must be finite for (0, 1)")
        low, high = (jnp.expand_dims(each, range(action.ndim - 1)) for each in self.bounds())
        inside = low + (high - low) * action
        return jnp.clip(inside, low, high).reshape(*action.shape[:-1], *self.shape)

    def is_bounded(self) -> np.ndarray:
        """bool [num_dimensions]: whether both bounds of a component are finite."""
        bounds = np.broadcast_to(self.low, self.shape), np.broadcast_to(self.high, self.shape)
        return np.logical_and(*(np.abs(bound) < 1e30 for bound in bounds)).reshape(-1)


ActionSpace = Discrete | MultiDiscrete | Box


class Observation(NamedTuple):
    """An observation with parts for the critic alone, or with an action mask.

    If the observation is one array, or a plain dictionary or tuple of arrays, return that instead.
    """

    policy: Any
    """What the policy sees: an array, or a tree of arrays."""
    critic: Any = None
    """All that the critic sees, such as the privileged state of a simulator. None: the critic sees
    what the policy sees."""
    action_mask: Any = None
    """bool [num_actions], or for MultiDiscrete [Σ num_categories] side by side: which actions are
    allowed. None: all."""


def mask_size(space: ActionSpace) -> int | None:
    """Length of a space's action mask; None if its actions cannot be masked."""
    if isinstance(space, Discrete):
        return space.num_actions
    return sum(space.num_categories) if isinstance(space, MultiDiscrete) else None


def policy_part(obs: Any) -> Any:
    """The policy's part of an observation, without the mask."""
    return obs.policy if isinstance(obs, Observation) else obs


def policy_view(obs: Any) -> Any:
    """What a policy is given: its part of the observation, with the mask if there is one."""
    if not isinstance(obs, Observation):
        return obs
    return obs.policy if obs.action_mask is None else obs._replace(critic=None)


def critic_view(obs: Any) -> Any:
    """What a critic is given: its part of the observation, or else the policy's."""
    if not isinstance(obs, Observation):
        return obs
    return obs.policy if obs.critic is None else obs.critic


def shapes_of(tree: Any) -> Any:
    """The shapes of a tree of arrays, as in `Environment.obs_shape`: a tuple for one array, a tree
    of tuples for a tree."""
    return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)


def leading_axes(tree: Any, shapes: Any) -> tuple[int, ...]:
    """The leading axes of a tree of arrays, in front of `shapes`; all leaves must share them.

    Raises `ValueError` if a leaf has another shape, or the structures differ.
    """
    structure: Any = jax.tree.structure(tree)
    wanted_structure: Any = jax.tree.structure(shapes, is_leaf=is_shape)
    leaves, wanted = jax.tree.leaves(tree), jax.tree.leaves(shapes, is_leaf=is_shape)
    got = [np.shape(leaf) for leaf in leaves]
    leads = {
        shape[: len(shape) - len(want)] if shape[len(shape) - len(want) :] == want else None
        for shape, want in zip(got, wanted, strict=False)
    }
    if structure != wanted_structure or None in leads or len(leads) != 1:
        found = got[0] if len(got) == 1 and structure == jax.tree.structure(0) else shapes_of(tree)
        raise ValueError(f"obs has shape {found}; it must end in {shapes}")
    return leads.pop()  # type: ignore[return-value]


def is_shape(node: Any) -> bool:
    """Whether a node of a tree of shapes is a shape: a tuple of whole numbers."""
    return isinstance(node, tuple) and all(isinstance(size, int | np.integer) for size in node)
