"""The pure program: TrainState in, TrainState out."""

from trpo_jax.learner.advantage import gae
from trpo_jax.learner.evaluation import EpisodeStats
from trpo_jax.learner.monitoring import Alarms, UpdateMetrics
from trpo_jax.learner.normalization import RunningStatistics
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.policy_step import PolicyStep
from trpo_jax.learner.rollout import rollout
from trpo_jax.learner.sharding import shard_state
from trpo_jax.learner.trpo import Agent, make_trpo
from trpo_jax.learner.types import Batch, TrainState, Trajectory
from trpo_jax.learner.value import fit_value, fit_value_lbfgs

__all__ = [
    "Agent",
    "Alarms",
    "Batch",
    "EpisodeStats",
    "PolicyStep",
    "RunningStatistics",
    "TrainState",
    "Trajectory",
    "UpdateMetrics",
    "fit_value",
    "fit_value_lbfgs",
    "gae",
    "make_objective",
    "make_trpo",
    "rollout",
    "shard_state",
]
