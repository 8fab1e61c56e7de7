"""Environments of suites whose functions take a parameter object."""

import copy
from typing import Any, Self

from trpo_jax.envs.base import Environment


class ParameterizedEnvironment(Environment):
    """An environment whose suite's parameter object lies in `_params`."""

    _params: Any

    @property
    def params(self) -> Any:
        """Its parameters."""
        return self._params

    @property
    def parameters(self) -> Any:
        """What `randomize` changes: its parameters."""
        return self._params

    def with_parameters(self, parameters: Any) -> Self:
        """The same environment with other parameters; its spaces stay."""
        other = copy.copy(self)
        other.recipe = None
        other._params = parameters
        return other
