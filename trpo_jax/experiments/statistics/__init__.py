"""What may be concluded from returns: intervals for one look, and sequences for many.

NumPy and scipy on plain arrays; nothing here knows of policies, environments or files.
"""

from trpo_jax.experiments.statistics.bootstrap import bootstrap_interval
from trpo_jax.experiments.statistics.scores import (
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)
from trpo_jax.experiments.statistics.sequences import (
    Moments,
    lower_bound,
    radius,
    spent,
    upper_bound,
)

__all__ = [
    "Moments",
    "bootstrap_interval",
    "interquartile_mean",
    "lower_bound",
    "performance_profile",
    "probability_of_improvement",
    "radius",
    "spent",
    "stratified_interval",
    "upper_bound",
]
