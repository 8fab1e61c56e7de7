"""Training runs: updates in chunks, with display, logs, evaluations, checkpoints and resume."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console

from trpo_jax.envs.host import EnvironmentFailed
from trpo_jax.experiments import run_directory as layout
from trpo_jax.experiments.background import Background
from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.experiments.chunks import MAX_CHUNK, compiled, first_updates, is_on_host, make_advance
from trpo_jax.experiments.devices import Devices
from trpo_jax.experiments.display import ProgressDisplay
from trpo_jax.experiments.evaluation import (
    Evaluations,
    Summary,
    evaluation_interval,
    evaluation_key,
    evaluation_program,
    summarize,
)
from trpo_jax.experiments.files import locked, to_json, write_text
from trpo_jax.experiments.guard.policy_tests import PolicyTests
from trpo_jax.experiments.loggers import (
    JsonLines,
    Logger,
    TensorBoard,
    WeightsAndBiases,
    to_records,
)
from trpo_jax.experiments.pacing import Interruptions, Pace
from trpo_jax.experiments.run_directory import Run
from trpo_jax.experiments.specification import num_updates
from trpo_jax.experiments.states import initial_state, make_lanes
from trpo_jax.learner.monitoring import UpdateMetrics
from trpo_jax.learner.trpo import Agent

_SECONDS_PER_CHECKPOINT = 10.0


class Outcome(NamedTuple):
    """How a run ended."""

    updates: int
    """Total number of updates done."""
    summary: Summary | None
    """The evaluation at the end; None if the run was interrupted."""
    signal: int | None
    """The signal that interrupted it, if one did."""


def carry_out(
    run: Run,
    agent: Agent,
    console: Console,
    devices: Devices | None = None,
    first_state: Any = None,
) -> Outcome:
    """Train from the last checkpoint, or from the beginning, to the end, and evaluate.

    Ctrl-C and SIGTERM stop it after the current chunk of updates, with a checkpoint. A run that was
    killed and continued on as many devices ends with the same parameters and metrics, bit for bit.
    If several processes call this together, only the first writes the run directory (config.json
    too), once no other process uses it. Raises `ProcessLost` if another process of the run is
    lost. A new run starts with `first_state`, by default that of its seeds.
    """
    devices = devices or Devices(1)
    first_state = initial_state(agent, run.spec) if first_state is None else first_state
    lock = locked(run.path) if devices.is_first else contextlib.nullcontext()
    with (
        lock,
        Interruptions() as interruptions,
        contextlib.closing(Background()) as background,
    ):
        session = _Session(run, agent, console, devices, first_state, background)
        try:
            with contextlib.closing(session):
                session.begin()
                session.train(lambda: interruptions.received or 0)
            return session.finish()
        except Exception as error:
            explained = devices.explained(error, session.done)
            session.record_failure(explained)
            if isinstance(error, OSError) and error.strerror:  # without: not of the file system
                raise ValueError(f"run={run.path} cannot be written: {error.strerror}") from None
            if explained is not error:
                raise explained from None
            raise


class _Session:
    """The open files and the progress of one call of `carry_out`."""

    def __init__(
        self,
        run: Run,
        agent: Agent,
        console: Console,
        devices: Devices,
        first_state: Any,
        background: Background,
    ):
        self.state = first_state
        self.run, self.agent, self.options, self.console = run, agent, run.options, console
        self.devices, self._background = devices, background
        self.total = num_updates(run.spec.config, run.total_steps)
        self.eval_every = evaluation_interval(run, agent, self.total)
        self.done, self._saved_at, self._signal, self._begun = 0, 0.0, 0, False
        self._files = contextlib.ExitStack()

    def begin(self) -> None:
        """Read the last checkpoint, if there is one, and open the files."""
        run, is_first = self.run, self.devices.is_first
        self.checkpoints = Checkpoints(run.path / layout.CHECKPOINTS, run.options.keep)
        self._files.callback(self.checkpoints.close)
        found = is_first and self.checkpoints.restore_newest(
            self.state, warn=lambda text: self.console.print(f"warning: {text}", soft_wrap=True)
        )
        self.done, state = self.devices.from_first(*(found or (0, self.state)))
        self.state, self._saved = self.devices.spread(state), self.done
        if self.done and is_on_host(self.agent):
            self.console.print(
                f"episodes begin anew: a checkpoint does not hold the simulators of "
                f"{self.agent.parts.env.name}",
                highlight=False,
                soft_wrap=True,
            )
        if is_first:  # only now: if the state cannot be read, the directory stays as it was
            layout.write_run(
                run.path, run.spec, run.total_steps, run.options, on_host=is_on_host(self.agent)
            )
        self._begun = True
        self.evaluations = Evaluations(
            run, self.agent, self.done, self.devices, keeps_best=run.spec.guard is None
        )
        self._files.callback(self.evaluations.close)
        self.loggers = _make_loggers(run, self.done, self._files) if is_first else []
        self.tests = PolicyTests(run, self.agent, self.total, self.done, self.state, self.console)
        self._files.callback(self.tests.close)

    def train(self, received_signal: Callable[[], int]) -> None:
        """Advance until done or until a process gets a signal; host and device run in parallel."""
        spec = self.run.spec
        self._write_status("running")
        pace = Pace(MAX_CHUNK)
        with ProgressDisplay(
            self.console, self.total, spec.config.batch_size, spec.num_seeds, self.done
        ) as display:
            hparams = spec.hparams.as_arrays()
            lanes = make_lanes(self.agent, spec)
            program = make_advance(self.agent, lanes, self._shardings())
            advance = self._compiled(program, self.state, hparams, jnp.int32(1))
            self._compile_evaluations()
            self._saved_at = time.monotonic()
            unlogged: tuple[UpdateMetrics, int] | None = None
            while not self._is_over() and not self._interrupted_by(received_signal()):
                count = int(self.devices.agree(pace.chunk(self._next_visit() - self.done))[0])
                with pace.timing(count), self._keeping_what_is_done(unlogged):
                    state, history = advance(self.state, hparams, jnp.int32(count))
                    self._log(unlogged)
                    history = first_updates(jax.device_get(history), count)
                    self.state = jax.block_until_ready(state)
                unlogged = history, self.done
                self.done += count
                display.show(history, self.done, pace.rate)
                if self._visit_is_due():
                    self._log(unlogged)
                    unlogged = None
                    self._visit()
            self._log(unlogged)
        self._checkpoint()

    def _compiled(self, program: Any, *arguments: Any) -> Any:
        """The program of the updates, compiled; says so, because nothing else happens before."""
        spec, start = self.run.spec, time.perf_counter()
        program = compiled(program, *arguments)
        if not is_on_host(self.agent):
            self.console.print(
                f"compiled an update of {spec.env_id} in {time.perf_counter() - start:.1f} s",
                highlight=False,
                soft_wrap=True,
            )
        return program

    def _compile_evaluations(self) -> None:
        """Compile the evaluations while the first updates run."""
        if self.eval_every:
            self.evaluations.compile(self._background, self.state)
        play = evaluation_program(
            self.agent,
            self.options.eval_episodes,
            lanes=self.run.spec.num_seeds > 1,
            sharding=self.devices.everywhere,
        )
        self._play_at_the_end = self._background.compiled(play, self.state, evaluation_key())

    @contextlib.contextmanager
    def _keeping_what_is_done(
        self, unlogged: tuple[UpdateMetrics, int] | None = None
    ) -> Iterator[None]:
        """Write the logs and a checkpoint if a simulator on the host fails."""
        try:
            yield
        except EnvironmentFailed:
            self._log(unlogged)
            self._checkpoint()
            raise

    def finish(self) -> Outcome:
        """Evaluate, if all updates are done."""
        if not self._is_over():
            self._write_status("interrupted")
            return Outcome(self.done, None, self._signal)
        summary = summarize(jax.device_get(self._play_at_the_end(self.state, evaluation_key())))
        if self.devices.is_first:
            text = to_json(summary._asdict(), indent=2)
            write_text(self.run.path / layout.FINAL_EVALUATION, text + "\n")
        self._write_status("finished", self.tests.reason)
        if self.tests.reason:
            text = f"stopped after {self.done} updates: {self.tests.reason}"
            self.console.print(text, highlight=False, soft_wrap=True)
        return Outcome(self.done, summary, None)

    def record_failure(self, error: Exception) -> None:
        """Record in the run directory why the run ended, unless nothing was written yet."""
        if not self._begun:
            return
        with contextlib.suppress(OSError):
            self._write_status("failed", str(error)[:500])

    def close(self) -> None:
        """Close all files. After an error nothing is saved, so the last good state stays."""
        self._files.close()

    def _next_visit(self) -> int:
        """The update at which a chunk must end, for an evaluation or a checkpoint."""
        intervals = [
            n for n in (self.eval_every, self.options.checkpoint_every, self.tests.every) if n
        ]
        return min([self.total, *((self.done // n + 1) * n for n in intervals)])

    def _shardings(self) -> Any:
        """Shardings of a chunk's results: the state as before, the history in every process."""
        states = self.devices.shardings(self.state)
        return states and (states, self.devices.everywhere)

    def _interrupted_by(self, signal: int) -> bool:
        """Whether any process got a signal; then all of them stop after the same update."""
        self._signal = int(max(self.devices.agree(signal)))
        return self._signal > 0

    def _is_over(self) -> bool:
        return self.done >= self.total or bool(self.tests.reason)

    def _visit_is_due(self) -> bool:
        return (
            self._evaluation_is_due() or self.tests.are_due(self.done) or self._checkpoint_is_due()
        )

    def _evaluation_is_due(self) -> bool:
        return bool(self.eval_every) and self.done % self.eval_every == 0

    def _checkpoint_is_due(self) -> bool:
        if self.options.checkpoint_every:
            return self.done % self.options.checkpoint_every == 0
        return self.devices.agree(time.monotonic() - self._saved_at)[0] > _SECONDS_PER_CHECKPOINT

    def _visit(self) -> None:
        if self._evaluation_is_due():
            with self._keeping_what_is_done():
                self.evaluations.evaluate(self.state, self.done, self._target_test)
        if self.tests.are_due(self.done):
            with self._keeping_what_is_done():
                self.state, must_save = self.tests.examine(self.state, self.done)
            if must_save:
                self._checkpoint()
        if self._checkpoint_is_due():
            self._checkpoint()

    def _target_test(self, returns: Any) -> dict[str, Any]:
        return self.tests.target_test(self.state, self.done, returns)

    def _checkpoint(self) -> None:
        """Save the state, after the logs, so that no checkpoint is ahead of them."""
        if self.done == self._saved:
            return
        state = self.devices.collect(self.state)
        if self.devices.is_first:
            for logger in self.loggers:
                logger.sync()
            self.evaluations.sync()
            self.tests.sync()
            self.checkpoints.save(self.done, state)
        self._saved, self._saved_at = self.done, time.monotonic()
        self._write_status("running")

    def _log(self, chunk: tuple[UpdateMetrics, int] | None) -> None:
        if chunk is None:
            return
        history, first_update = chunk
        records = to_records(
            history, first_update, self.run.spec.config.batch_size, self.run.spec.seeds
        )
        for logger in self.loggers:
            logger.write(records)
        self.tests.note(history.episode_return)

    def _write_status(self, status: str, reason: str = "") -> None:
        if self.devices.is_first:
            batch_size = self.run.spec.config.batch_size
            layout.write_status(self.run.path, status, self.done, batch_size, reason)


def _make_loggers(run: Run, done: int, files: contextlib.ExitStack) -> list[Logger]:
    """The loggers of a run, open until `files` closes."""
    loggers: list[Logger] = []

    def add(logger: Logger) -> None:
        loggers.append(logger)
        files.callback(logger.close)

    add(JsonLines(run.path / layout.METRICS, done))
    if run.options.tensorboard:
        add(TensorBoard(run.path / layout.TENSORBOARD, run.spec.seeds, done))
    if run.options.wandb:
        settings = {**vars(run.spec.config), **vars(run.spec.hparams), "env": run.spec.env_id}
        add(WeightsAndBiases(run.options.wandb, run.path, run.spec.seeds, settings))
    return loggers
