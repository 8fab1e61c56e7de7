"""Many trainings in parallel: settings × seeds, vmapped, in slices that fit in memory."""

from trpo_jax.experiments.sweep.result import Row, SweepResult
from trpo_jax.experiments.sweep.settings import Setting, grid, random_settings, static_settings
from trpo_jax.experiments.sweep.training import sweep

__all__ = ["Row", "Setting", "SweepResult", "grid", "random_settings", "static_settings", "sweep"]
