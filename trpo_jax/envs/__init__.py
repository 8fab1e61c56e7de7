"""Environments: one interface for every suite."""

from trpo_jax.envs.base import Environment, EnvStep
from trpo_jax.envs.registry import list_environments, make_env
from trpo_jax.spaces import Box, Discrete, MultiDiscrete, Observation

__all__ = [
    "Box",
    "Discrete",
    "EnvStep",
    "Environment",
    "MultiDiscrete",
    "Observation",
    "list_environments",
    "make_env",
]
