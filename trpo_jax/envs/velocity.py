"""Costs of speed: 1 for every step that is faster than a limit."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from trpo_jax.common.checks import is_number
from trpo_jax.envs.base import Environment, EnvStep, metric_names, named_costs
from trpo_jax.envs.host import HostEnvironment
from trpo_jax.envs.transforms import Memory, Transform
from trpo_jax.envs.wrappers import Transformed

LIMITS = {"velocity_limit": ("x_velocity",), "speed_limit": ("x_velocity", "y_velocity")}
"""The metrics whose length each keyword of `make_env` limits; it also names the cost."""


@dataclasses.dataclass(frozen=True)
class VelocityCost(Transform):
    """Adds a cost named `name`: 1 where the velocity (v₁, …) has √(v₁² + …) > `limit`, else 0.

    A single velocity keeps its sign, so that only one direction is limited. A velocity that is NaN
    has the cost NaN, which makes the step invalid rather than free.
    """

    name: str
    metrics: tuple[str, ...]
    limit: float

    def after(self, memory: Memory, step: EnvStep) -> tuple[Memory, EnvStep]:
        """Only the cost changes."""
        parts = [step.metrics[name] for name in self.metrics]
        xp: Any = np if isinstance(parts[0], np.ndarray) else jnp
        speed = parts[0] if len(parts) == 1 else xp.sqrt(sum(part * part for part in parts))
        cost = xp.where(xp.isnan(speed), xp.nan, speed > self.limit)
        costs = named_costs(step.cost) | {self.name: xp.asarray(cost, xp.float32)}
        return memory, step._replace(cost=costs)

    def costs(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """One more."""
        return (*names, self.name)


def with_velocity_costs(env: Environment, limits: dict[str, float]) -> Environment:
    """The environment with a cost for each limit, by the names in `LIMITS`.

    An environment with a method `measuring(names)` is asked for one that has these metrics. Raises
    `ValueError` if a limit is no finite number, or the environment does not measure its velocity.
    """
    transforms = [
        VelocityCost(name, LIMITS[name], _finite(name, limit)) for name, limit in limits.items()
    ]
    needed = tuple(dict.fromkeys(metric for each in transforms for metric in each.metrics))
    measuring = getattr(env, "measuring", None)
    measured = env if measuring is None else measuring(needed)
    known = metric_names(measured)
    if lacking := [name for name in needed if name not in known]:
        shown = ", ".join(f"{name}={limit}" for name, limit in limits.items())
        raise ValueError(
            f"{shown}: {env.name} does not measure {' and '.join(lacking)}; its metrics are "
            f"{', '.join(known) or 'none'}"
        )
    if isinstance(measured, HostEnvironment):
        return measured.with_transforms(transforms, 1)
    return Transformed(measured, transforms)


def _finite(name: str, limit: Any) -> float:
    if not is_number(limit) or not math.isfinite(limit):
        raise ValueError(f"{name}={limit!r} must be a finite number, a velocity")
    return float(limit)
