"""The guard: a policy in service that only a policy shown to be no worse may replace."""

from trpo_jax.experiments.guard.settings import Guard

__all__ = ["Guard"]
