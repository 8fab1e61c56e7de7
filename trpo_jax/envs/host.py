"""Environments that step in NumPy, outside the compiled program."""

import abc
from typing import Any, NoReturn

import jax
import numpy as np

from trpo_jax.envs.base import Environment, EnvStep


class EnvironmentFailed(ValueError):
    """A simulator raised an error; `__cause__` holds it."""


class Simulators(abc.ABC):
    """M environments that live on the host: they change in place and take and return NumPy arrays.

    They never reset by themselves, so no final observation is lost: the caller restarts those that
    ended. Arrays that are returned may be overwritten by the next call.
    """

    @abc.abstractmethod
    def reset(self) -> Any:
        """Begin M episodes, as the seeds determine them; observations with leaves [M, ...]."""

    @abc.abstractmethod
    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> EnvStep:
        """Step the environments `rows` (None: all) with actions [rows, ...].

        Returns what happened, with leaves [M, ...]; entries of other rows mean nothing.
        """

    @abc.abstractmethod
    def restart(self, mask: np.ndarray) -> Any:
        """Begin a new episode where `mask` [M]; the current observations of all, [M, ...]."""

    def close(self) -> None:  # noqa: B027 - many have nothing to close
        """Free what they hold."""


class HostEnvironment(Environment):
    """An environment that steps in NumPy. Subclass it to write your own.

    It describes the environment and makes simulators of it; an agent makes them for each run. The
    attributes are those of `Environment`, and `obs_spec` must be given.
    """

    @abc.abstractmethod
    def simulators(self, seeds: np.ndarray) -> Simulators:
        """Simulators of M environments; int64 `seeds` [M] in [0, 2³¹) determine all they do."""

    def reset(self, key: jax.Array) -> NoReturn:
        """Refused: only simulators can be reset."""
        self._refuse()

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> NoReturn:
        """Refused: only simulators can step."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"{self.name} steps on the host and cannot be traced: call the functions of its agent "
            "outside jit, vmap and scan (init takes keys [seeds] for several seeds at once), or "
            "env.simulators(seeds) for the environment alone"
        )


def refuse_tracing(env: Environment, function: str, *trees: Any) -> None:
    """Raise `ValueError` if a function of a host environment's agent is being traced."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees)):
        raise ValueError(
            f"{function} of an agent in {env.name} steps on the host and cannot be traced: call it "
            "outside jit, vmap and scan; it is compiled inside, and takes states [seeds, ...] from "
            "init(keys [seeds])"
        )
