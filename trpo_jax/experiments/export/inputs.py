"""What an exported policy is given: named arrays with a batch axis, alike in every format."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from trpo_jax.envs.base import observation_spec
from trpo_jax.learner.memory import initial_carry, step
from trpo_jax.learner.parts import Parts
from trpo_jax.policies.distributions import Categorical, DiagonalGaussian, MultiCategorical
from trpo_jax.spaces import Observation, policy_part, policy_view

OBS, MASK, NOISE, CARRY = "obs", "action_mask", "noise", "carry"


class Input(NamedTuple):
    """One input of an exported policy."""

    name: str
    """"obs"; for a tree of observations "obs/" and the path of the leaf; "action_mask"; "noise";
    "carry", for a tree "carry/" and the path."""
    shape: tuple[int, ...]
    """Its shape after the batch axis."""
    dtype: np.dtype
    """Its type, that of the environment."""

    @property
    def role(self) -> str:
        """ "obs", "action_mask", "noise" or "carry"."""
        return self.name.partition("/")[0]


def observation_inputs(parts: Parts) -> tuple[Input, ...]:
    """The policy's part of an observation, leaf by leaf, in the order of the tree."""
    leaves = jax.tree_util.tree_flatten_with_path(policy_part(observation_spec(parts.env)))[0]
    inputs = tuple(Input(_name(path), tuple(leaf.shape), leaf.dtype) for path, leaf in leaves)
    names = [each.name for each in inputs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"two observations of {parts.env.name} would both be the input {twice[0]!r}; rename one"
        )
    return inputs


def mask_inputs(parts: Parts) -> tuple[Input, ...]:
    """The action mask, if the environment gives one."""
    mask = getattr(observation_spec(parts.env), "action_mask", None)
    return () if mask is None else (Input(MASK, tuple(mask.shape), mask.dtype),)


def noise_inputs(parts: Parts, params: Any) -> tuple[Input, ...]:
    """The noise that makes a sample: standard normal for a Gaussian, standard Gumbel for choices.

    Raises `ValueError` for any other distribution, whose sample is not a function of such noise.
    """
    example = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype),
        policy_view(observation_spec(parts.env)),
    )
    carry = initial_carry(parts.policy, 1)
    distribution, _ = jax.eval_shape(functools.partial(step, parts.policy), params, carry, example)
    if isinstance(distribution, DiagonalGaussian):
        size = distribution.mean.shape[-1]
    elif isinstance(distribution, Categorical | MultiCategorical):
        size = distribution.logits.shape[-1]
    else:
        raise ValueError(
            "deterministic=False needs a Gaussian or categorical policy, whose sample is made from "
            f"noise; this one is {type(distribution).__name__}: export its mode, deterministic=True"
        )
    return (Input(NOISE, (size,), np.dtype(np.float32)),)


def carry_inputs(parts: Parts) -> tuple[Input, ...]:
    """The memory of the policy, leaf by leaf; nothing if it has none. A file begins with zeros."""
    example = jax.eval_shape(lambda: initial_carry(parts.policy, 1))
    leaves = jax.tree_util.tree_flatten_with_path(example)[0]
    return tuple(
        Input(_name(path, CARRY), tuple(leaf.shape[1:]), np.dtype(leaf.dtype))
        for path, leaf in leaves
    )


def require_zeros_at_first(parts: Parts) -> None:
    """Raise `ValueError` unless memories begin with zeros, as the users of a file are told."""
    if any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(initial_carry(parts.policy, 1))):
        raise ValueError(
            "policy.initial_carry is not zero, but an exported policy begins with zeros; let it "
            "begin there"
        )


def as_carry(parts: Parts, arrays: dict[str, Any]) -> Any:
    """The inputs as the memory that the policy is given; None without memory."""
    example = jax.eval_shape(lambda: initial_carry(parts.policy, 1))
    structure: Any = jax.tree.structure(example)
    return structure.unflatten([arrays[each.name] for each in carry_inputs(parts)])


def as_observation(parts: Parts, arrays: dict[str, Any]) -> Any:
    """The inputs as the observation that the policy is given, a tree of [B, ...]."""
    structure: Any = jax.tree.structure(policy_part(observation_spec(parts.env)))
    seen = structure.unflatten([arrays[each.name] for each in observation_inputs(parts)])
    return Observation(seen, action_mask=arrays[MASK]) if MASK in arrays else seen


def _name(path: tuple[Any, ...], root: str = OBS) -> str:
    return "/".join([root, *(jax.tree_util.keystr((key,), simple=True) for key in path)])
