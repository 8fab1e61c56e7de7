"""Environments: one interface for every suite."""

from trpo_jax.envs.base import Environment, EnvStep
from trpo_jax.envs.host import HostEnvironment, Simulators
from trpo_jax.envs.registry import list_environments, make_env
from trpo_jax.spaces import Box, Discrete, MultiDiscrete, Observation

__all__ = [
    "Box",
    "Discrete",
    "EnvStep",
    "Environment",
    "HostEnvironment",
    "MultiDiscrete",
    "Observation",
    "Simulators",
    "list_environments",
    "make_env",
]
