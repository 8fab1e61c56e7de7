"""The guard of a run on disk: plays the tests, keeps the policy in service, resumes exactly."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from trpo_jax.experiments import run_directory as layout
from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.experiments.evaluation import evaluation_program
from trpo_jax.experiments.files import read_lines
from trpo_jax.experiments.guard.deciding import (
    BLOCK,
    FIRST_LOOK,
    REPLACED,
    ROLLED_BACK,
    Knowledge,
    Pairs,
    Test,
    affordable,
    examine,
)
from trpo_jax.experiments.guard.settings import Guard
from trpo_jax.experiments.loggers import JsonLines
from trpo_jax.experiments.run_directory import Run
from trpo_jax.experiments.statistics import Moments
from trpo_jax.learner.evaluation import DEFAULT_MAX_STEPS
from trpo_jax.learner.trpo import Agent
from trpo_jax.learner.types import TrainState

_TEST_SEED = 0x67756172
"""Folded into a key of its own, with the run's seed: no evaluation plays these episodes."""


class PolicyInService:
    """The policy in service of one run, and the tests of its candidates.

    `best/` holds it, by the update at which it was trained; guard.jsonl has one line per test, with
    all that the guard knows after it. Both go back to the checkpoint from which a run continues.
    """

    def __init__(self, run: Run, agent: Agent, guard: Guard, total: int, done: int, first: Any):
        """`first` is the state that a new run begins with, or one like it; `done` updates are."""
        self._run, self._guard, self._agent = run, guard, agent
        self.every = guard.every or -(-total // 10)
        self._max_steps = agent.parts.env.max_episode_steps or DEFAULT_MAX_STEPS
        self._play = evaluation_program(agent, BLOCK, lanes=False)
        seed = jax.random.fold_in(jax.random.key(0), _TEST_SEED)
        self._key = jax.random.fold_in(seed, run.spec.seed)
        self._log = JsonLines(run.path / layout.GUARD, done)
        # Each replacement makes a checkpoint, so none of those kept is older than all of these.
        self._states = Checkpoints(run.path / layout.BEST, keep=run.options.keep + 1)
        self._states.drop_after(done)
        lines = read_lines(run.path / layout.GUARD, "knowledge")
        self.known = knowledge_in(lines[-1]["knowledge"]) if lines else Knowledge()
        self._trained_return = math.nan
        if self.known.in_service in self._states.updates():
            self._state = self._states.restore(self.known.in_service, first)
        elif done:
            raise ValueError(
                f"run={run.path}: the policy in service, best/{self.known.in_service}, is missing; "
                "restore a copy of the directory, or train anew"
            )
        else:
            self._state = first
            self._states.save(0, first)

    def shortage(self, total_steps: int) -> str | None:
        """Why no test will be possible in a run of so many steps; None if there will be some."""
        if affordable(self._guard, Knowledge(), total_steps, self._max_steps) >= FIRST_LOOK:
            return None
        needed = 2 * FIRST_LOOK * self._max_steps
        return (
            f"guard_share={self._guard.share:g} of {total_steps:,} steps pays for "
            f"{affordable(self._guard, Knowledge(), total_steps, self._max_steps)} pairs of "
            f"episodes of up to {self._max_steps} steps, and a test takes {FIRST_LOOK}: no policy "
            f"will come into service; {int(needed / self._guard.share):,} steps would pay for one"
        )

    def note(self, returns: Any) -> None:
        """Take note of mean returns of training: they widen the range of what is possible."""
        finite = np.asarray(returns, np.float64)
        finite = finite[np.isfinite(finite)]
        if finite.size:
            self._trained_return = float(finite[-1])
            self.known = self.known._replace(
                worst=min(self.known.worst, float(finite.min())),
                best=max(self.known.best, float(finite.max())),
            )

    def examine(self, state: TrainState, update: int) -> tuple[TrainState, Test]:
        """Test the policy of an update; returns the state to go on with, and what was found.

        A policy that is shown to be worse is rolled back: parameters, optimisers and statistics
        become those of the policy in service. Key, environments and number of updates go on, else
        the same candidate would come back for ever.
        """
        batch_size = self._run.spec.config.batch_size
        self.known, test = examine(
            self._guard,
            self.known,
            functools.partial(self._pairs, state, update),
            update=update,
            training_steps=update * batch_size,
            max_steps=self._max_steps,
            trained_return=self._trained_return,
        )
        self._log.write([self._record(test, update)])
        if test.action == REPLACED:
            self._state = state
            self._states.save(update, state, {"lower_bound": test.candidate_low})
        if test.action == ROLLED_BACK:
            state = self._state.replace(
                key=state.key, num_updates=state.num_updates, actor=state.actor
            )
        return state, test

    @property
    def lower(self) -> float:
        """Lower bound of the mean return of the policy in service."""
        return self.known.lower

    def sync(self) -> None:
        """Wait until the disk has the log and the policy in service."""
        self._log.sync()
        self._states.wait()

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        self._states.close()

    def _pairs(self, candidate: TrainState, update: int, block: int) -> Pairs:
        """Play a block of episodes with both policies."""
        key = jax.random.fold_in(jax.random.fold_in(self._key, update), block)
        ours, theirs = (
            jax.device_get(self._play(state, key)) for state in (candidate, self._state)
        )
        steps = int(ours.lengths.sum()) + int(theirs.lengths.sum())
        return Pairs(ours.returns[0], theirs.returns[0], steps)

    def _record(self, test: Test, update: int) -> dict[str, Any]:
        """The line in guard.jsonl."""
        steps, known = update * self._run.spec.config.batch_size, self.known
        return {
            "update": update,
            "steps": steps,
            "action": test.action,
            **test._asdict(),
            "in_service": known.in_service,
            "lower_bound": known.lower,
            "share": known.steps / steps,
            "knowledge": {**known._asdict(), "returns": known.returns._asdict()},
        }


def knowledge_in(stored: dict[str, Any]) -> Knowledge:
    """Knowledge as stored in a line of guard.jsonl, where null stands for ±∞."""
    usual = Knowledge()._asdict()
    given = {name: usual[name] if value is None else value for name, value in stored.items()}
    return Knowledge(**{**given, "returns": Moments(**stored["returns"])})


def describe(test: Test, update: int, in_service: int) -> str:
    """A test in one line."""
    what = f"guard: update {update} is {test.verdict}"
    if test.num_pairs:
        what += f" ({test.difference:+.2f} [{test.low:+.2f}, {test.high:+.2f}], "
        what += f"{test.num_pairs} pairs)"
    return f"{what}; {test.action}; in service: update {in_service}"


def open_guard(
    run: Run, agent: Agent, total: int, done: int, first: Any, warn: Callable[[str], None]
) -> PolicyInService | None:
    """The policy in service of a run that has a guard; what it can do is said beforehand."""
    if run.spec.guard is None:
        return None
    service = PolicyInService(run, agent, run.spec.guard, total, done, first)
    shortage = service.shortage(run.total_steps)
    if shortage:
        warn(shortage)
    for history in run.histories():
        service.note(history.get("episode_return", ()))
    return service
