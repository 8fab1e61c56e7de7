"""The learner: pure functions from `TrainState` to `TrainState`."""

from trpo_jax.learner.advantage import gae
from trpo_jax.learner.algorithms import trpo_step
from trpo_jax.learner.constrained import cpo_step, lagrangian_step
from trpo_jax.learner.evaluation import EpisodeStats
from trpo_jax.learner.monitoring import Alarms, UpdateMetrics
from trpo_jax.learner.normalization import RunningStatistics
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.parts import Parts, PolicyStep, ValueFit
from trpo_jax.learner.policy_step import StepInfo
from trpo_jax.learner.rollout import rollout
from trpo_jax.learner.settings import trust_region_settings
from trpo_jax.learner.sharding import shard_state
from trpo_jax.learner.trpo import Agent, make_trpo
from trpo_jax.learner.types import ActorState, Batch, BatchCosts, TrainState, Trajectory
from trpo_jax.learner.value import ValueFitInfo, fit_value, fit_value_lbfgs

__all__ = [
    "ActorState",
    "Agent",
    "Alarms",
    "Batch",
    "BatchCosts",
    "EpisodeStats",
    "Parts",
    "PolicyStep",
    "RunningStatistics",
    "StepInfo",
    "TrainState",
    "Trajectory",
    "UpdateMetrics",
    "ValueFit",
    "ValueFitInfo",
    "cpo_step",
    "fit_value",
    "fit_value_lbfgs",
    "gae",
    "lagrangian_step",
    "make_objective",
    "make_trpo",
    "rollout",
    "shard_state",
    "trpo_step",
    "trust_region_settings",
]
