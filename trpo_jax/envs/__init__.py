"""Environments: one interface for every suite."""

from trpo_jax.envs.base import Box, Discrete, Environment, EnvStep, MultiDiscrete
from trpo_jax.envs.registry import list_environments, make_env

__all__ = [
    "Box",
    "Discrete",
    "EnvStep",
    "Environment",
    "MultiDiscrete",
    "list_environments",
    "make_env",
]
