"""`check`: whether an environment keeps the promises that training relies on."""

from trpo_jax.experiments.conformance.checking import check_environment
from trpo_jax.experiments.conformance.report import CheckedPromise, EnvironmentReport

__all__ = ["CheckedPromise", "EnvironmentReport", "check_environment"]
