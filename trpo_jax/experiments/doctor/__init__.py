"""`doctor`: a diagnosis of a run from its metrics."""

from trpo_jax.experiments.doctor.diagnosis import RULES, diagnose, examine
from trpo_jax.experiments.doctor.dump import dump
from trpo_jax.experiments.doctor.findings import Diagnosis, Finding

__all__ = ["RULES", "Diagnosis", "Finding", "diagnose", "dump", "examine"]
