"""A trained policy as a file that runs without this library."""

from trpo_jax.experiments.export.exporting import export_policy

__all__ = ["export_policy"]
