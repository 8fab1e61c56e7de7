"""The tests of a run's policy: its guard, and its target; none, if it has neither."""

from typing import Any

import numpy as np
from rich.console import Console

from trpo_jax.experiments.guard.deciding import REPLACED
from trpo_jax.experiments.guard.service import PolicyInService, describe, open_guard
from trpo_jax.experiments.guard.target import Target
from trpo_jax.experiments.run_directory import Run
from trpo_jax.learner.trpo import Agent


class PolicyTests:
    """What a run asks of its policy, and whether it may stop.

    With a guard the target is one for the policy in service, whose bound the tests give anyway.
    """

    def __init__(self, run: Run, agent: Agent, total: int, done: int, first: Any, console: Console):
        self._console, self._value = console, run.options.target_return
        self._guard: PolicyInService | None = open_guard(
            run,
            agent,
            total,
            done,
            first,
            warn=lambda text: console.print(f"warning: {text}", soft_wrap=True),
        )
        self._target: Target | None = None
        if self._value is not None and self._guard is None:
            earlier = run.evaluations()
            record = earlier[-1].get("target") if earlier else None
            self._target = Target(agent, self._value, run.spec.seed, record)

    @property
    def every(self) -> int:
        """Updates between tests of the guard; 0 if there is none."""
        return self._guard.every if self._guard else 0

    @property
    def reason(self) -> str:
        """Why the run stops before its last update; "" if it does not."""
        if self._value is None:
            return ""
        tested = self._guard or self._target
        lower = tested.lower if tested else -np.inf
        if not lower > self._value:
            return ""
        return f"target_return={self._value:g} is reached: the mean return is above {lower:.2f}"

    def are_due(self, done: int) -> bool:
        """Whether the guard tests the policy after so many updates."""
        return bool(self.every) and done % self.every == 0

    def examine(self, state: Any, update: int) -> tuple[Any, bool]:
        """Test the policy; returns the state to go on with, and whether it must be saved."""
        assert self._guard is not None
        state, test = self._guard.examine(state, update)
        text = describe(test, update, self._guard.known.in_service)
        self._console.print(text, highlight=False, soft_wrap=True)
        return state, test.action == REPLACED

    def target_test(self, state: Any, update: int, returns: np.ndarray) -> dict[str, Any]:
        """Test whether the policy has reached the target; returns what the log is to hold."""
        if self._target is None:
            return {}
        return {"target": self._target.test(state, update, returns[0])._asdict()}

    def note(self, returns: Any) -> None:
        """Take note of mean returns of training."""
        if self._guard:
            self._guard.note(returns)

    def sync(self) -> None:
        """Wait until the disk has what a checkpoint relies on."""
        if self._guard:
            self._guard.sync()

    def close(self) -> None:
        """Close the files."""
        if self._guard:
            self._guard.close()
