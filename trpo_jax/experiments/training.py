"""Runs on disk from Python: what the command line offers, for any agent."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from trpo_jax.config import HParams
from trpo_jax.experiments import run_directory as layout
from trpo_jax.experiments import states
from trpo_jax.experiments.devices import Devices
from trpo_jax.experiments.evaluation import Summary
from trpo_jax.experiments.files import create_directory, require_path
from trpo_jax.experiments.guard.settings import Guard, as_guard, require_testable
from trpo_jax.experiments.run_directory import Run
from trpo_jax.experiments.runner import carry_out
from trpo_jax.experiments.specification import (
    RunOptions,
    RunSpec,
    changes,
    num_updates,
    plain_options,
    require_options,
)
from trpo_jax.learner.trpo import Agent
from trpo_jax.learner.types import TrainState

_OPTIONS = RunOptions()


class TrainedRun(NamedTuple):
    """A run directory, loaded into Python."""

    agent: Agent
    """The agent that was trained."""
    state: TrainState
    """Its state after the last update; with several seeds, [seeds, ...]."""
    history: list[dict[str, np.ndarray]]
    """Metrics of each seed: name -> [updates, ...]."""
    evaluation: Summary | None
    """The evaluation at the end; None if the run was interrupted or only loaded."""
    path: Path
    """The run directory."""


def train_run(
    agent: Agent,
    out: str | Path | None = None,
    *,
    hparams: HParams = HParams(),  # noqa: B008 - frozen
    total_steps: int = 100_000,
    seed: int = 0,
    num_seeds: int = 1,
    resume: bool = False,
    options: RunOptions = _OPTIONS,
    initial_state: TrainState | None = None,
    guard: Guard | float | None = None,
    target_return: float | None = None,
    quiet: bool = False,
) -> TrainedRun:
    """Train an agent in a run directory, like `trpo-jax train`, for any environment and parts.

    `out` is a new or empty directory, by default runs/ENV-DATE-TIME. With `resume` the run in `out`
    continues, bit for bit, from its last checkpoint and with its own settings, up to `total_steps`
    environment steps per seed; environments on the host begin new episodes. `options` are those of
    the command line: checkpoints, evaluations, logs, devices. `initial_state` replaces
    `agent.init`; with several seeds its leaves are [num_seeds, ...]. Ctrl-C stops the run with a
    checkpoint. Plots, doctor and `load_run` read the directory. `guard`, a `Guard` or its
    confidence, keeps a policy in service in `best/` that only a policy shown to be no worse
    replaces; `target_return` stops the run once the policy is shown to have a higher mean return
    (docs/guard.md). `hparams` are the traced settings; `quiet` prints nothing. Raises `ValueError`
    for anything that cannot work, before anything is written.
    """
    for name, value, kind in (
        ("agent", agent, Agent), ("hparams", hparams, HParams), ("options", options, RunOptions)
    ):  # fmt: skip
        if not isinstance(value, kind):
            raise ValueError(f"{name}={value!r} must be of type {kind.__name__}")
    if target_return is not None:
        options = options._replace(target_return=target_return)
    require_options(seed, num_seeds, total_steps, options)
    guard = as_guard(guard)
    if out is not None:
        require_path("out", out)
    spec = states.spec_of(agent, hparams, seed, num_seeds)._replace(guard=guard)
    if initial_state is not None:
        states.require_state(agent, spec, initial_state)
    console, total_steps, options = Console(quiet=quiet), int(total_steps), plain_options(options)
    devices = Devices(options.devices)
    devices.require_equal_parts(spec)
    require_testable(
        guard,
        options.target_return,
        num_seeds=spec.num_seeds,
        devices=devices.number,
        eval_every=options.eval_every,
    )
    if resume:
        run = _run_to_resume(out, spec, total_steps, options, devices.number, console)
    else:
        path = layout.default_directory(spec.env_id) if out is None else Path(out)
        if devices.is_first:
            create_directory(path)
        run = layout.make_run(path, spec, total_steps, options._replace(devices=devices.number))
    outcome = carry_out(run, agent, console, devices, initial_state)
    if outcome.summary is not None:
        console.print(f"evaluation: return {outcome.summary}", highlight=False, soft_wrap=True)
        from trpo_jax.experiments import plots

        console.print(f"overview: {plots.overview(run)}", highlight=False, soft_wrap=True)
    console.print(f"run directory: {run.path}", highlight=False, soft_wrap=True)
    state = states.final_state(run, agent)
    return TrainedRun(agent, state, run.histories(), outcome.summary, run.path)


def load_run(path: str | Path, *, checkpoint: str | int = "last", **parts: Any) -> TrainedRun:
    """Read the run in the directory `path`: its agent, a state, and the metrics so far.

    `checkpoint` is "last", "best" or the number of updates of a checkpoint. Parts that were not
    made from the settings must be passed in again as `parts`: `env=`, `policy=`, `critic=`,
    `policy_step=`, `value_fit=`. Raises `ValueError` if one is missing, or if the directory is not
    a run.
    """
    known = ("env", "policy", "critic", "policy_step", "value_fit")
    if unknown := [name for name in parts if name not in known]:
        raise ValueError(
            f"{unknown[0]} is not a part of an agent; the parts are {', '.join(known)}"
        )
    require_path("path", path)
    run = layout.load_run(Path(path))
    agent = states.make_agent(run.spec, **parts)
    state = states.final_state(run, agent, str(checkpoint))
    return TrainedRun(agent, state, run.histories(), None, run.path)


def _run_to_resume(
    out: str | Path | None,
    spec: RunSpec,
    total_steps: int,
    options: RunOptions,
    num_devices: int,
    console: Console,
) -> Run:
    """The run in a directory. Raises `ValueError` if its settings differ or it is done."""
    if out is None:
        raise ValueError("out is missing; resume=True continues the run in this directory")
    run = layout.load_run(Path(out))
    for name, value, kept in zip(spec._fields, spec, run.spec, strict=True):
        if value != kept and not (name == "continuous" and kept is None):
            raise ValueError(
                f"{name}={value} differs from the run's {kept}; a resumed run keeps its settings: "
                "make the agent as it was, or train anew"
            )
    done = states.updates_done(run)
    if done >= num_updates(spec.config, total_steps):
        raise ValueError(
            f"total_steps={total_steps}: {done * spec.config.batch_size} steps are done already; "
            "give a larger number to go on"
        )
    notes = changes(run.versions, run.options.devices or 1, num_devices)
    for note in (*run.notes, *notes):
        console.print(f"warning: {note}", soft_wrap=True)
    return run._replace(total_steps=total_steps, options=options._replace(devices=num_devices))
