"""A policy as StableHLO: the traced program with its parameters, for every platform at once."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.experiments.export.inputs import NOISE, Input, as_carry, as_observation
from trpo_jax.learner.acting import Acting, Decision, decide
from trpo_jax.learner.parts import Parts
from trpo_jax.policies.distributions import DiagonalGaussian, to_box
from trpo_jax.spaces import Box

PLATFORMS = ("cpu", "cuda", "tpu")


def contents(
    parts: Parts, state: Acting, inputs: tuple[Input, ...], file: Path
) -> dict[Path, bytes]:
    """The file, as `jax.export` serialises it."""
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = {each.name: jax.ShapeDtypeStruct((batch, *each.shape), each.dtype) for each in inputs}

    @jax.jit
    def policy(**arrays: jax.Array) -> Any:
        return _action(parts, state, arrays)

    exported = jax.export.export(policy, platforms=PLATFORMS)(**shapes)
    return {file: bytes(exported.serialize())}


def _action(parts: Parts, state: Acting, arrays: dict[str, jax.Array]) -> Any:
    """The action, or with a memory (action, *leaves of the carry)."""
    obs, carry, unused = as_observation(parts, arrays), as_carry(parts, arrays), jax.random.key(0)
    decision = decide(parts, state, unused, obs, deterministic=True, carry=carry)
    action = _chosen(parts, decision, arrays)
    return action if carry is None else (action, *jax.tree.leaves(decision.carry))


def _chosen(parts: Parts, decision: Decision, arrays: dict[str, jax.Array]) -> jax.Array:
    """The mode, or the sample that the noise makes, in the form that the environment takes."""
    if NOISE not in arrays:
        return decision.env_action
    space, distribution = parts.env.action_space, decision.distribution
    sample = _sample(distribution, arrays[NOISE])
    return to_box(distribution, sample, space) if isinstance(space, Box) else sample


def _sample(distribution: Any, noise: jax.Array) -> jax.Array:
    """μ + σ ε, or argmaxᵢ (logitᵢ + Gumbel noiseᵢ) of each choice. Maddison et al. 2014."""
    if isinstance(distribution, DiagonalGaussian):
        return distribution.mean + jnp.exp(distribution.log_std) * noise
    return distribution.replace(logits=distribution.logits + noise).mode()
