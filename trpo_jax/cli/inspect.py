"""The commands that inspect runs and list environments."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from rich.console import Console
from rich.progress import track
from rich.table import Table

from trpo_jax.cli.parsing import parse, require_at_least
from trpo_jax.cli.reading_arguments import (
    DoctorArguments,
    EnvsArguments,
    EvaluateArguments,
    PlotArguments,
    RenderArguments,
    RunsArguments,
)
from trpo_jax.presets import DEFAULT, get_preset

if TYPE_CHECKING:
    from trpo_jax.experiments.run_directory import Run
    from trpo_jax.learner.trpo import Agent


def evaluate(argv: list[str]) -> int:
    """Play episodes with a trained policy."""
    arguments = parse(EvaluateArguments, argv, "trpo-jax evaluate")
    require_at_least(arguments, "episodes", 1)
    path = arguments.run / "best" if arguments.best else arguments.run
    if not arguments.best and (path / "sweep.json").is_file():
        raise ValueError(f"run={path} is a sweep; --best evaluates its best training")
    run, agent, state = load(path, arguments.checkpoint)
    from trpo_jax.experiments.evaluation import evaluate_state
    from trpo_jax.experiments.files import to_json

    summary = evaluate_state(
        run,
        agent,
        state,
        num_episodes=arguments.episodes,
        deterministic=not arguments.stochastic,
    )
    if arguments.json:
        print(to_json(summary._asdict()))
        return 0
    unit = "seeds" if len(summary.mean_per_run) > 1 else "episodes"
    print(f"return               {summary}")
    print(f"interquartile mean   {summary.interquartile_mean:.2f}")
    print(f"worst, best          {summary.minimum:.2f}, {summary.maximum:.2f} ({unit})")
    print(f"mean episode length  {summary.mean_length:.1f}")
    if summary.mean_cost is not None:
        interval = f"[{summary.low_cost:.2f}, {summary.high_cost:.2f}]"
        print(f"cost                 {summary.mean_cost:.2f} {interval} (mean, 95 % interval)")
        for name, cost in summary.mean_costs.items() if len(summary.mean_costs) > 1 else ():
            print(f"cost, {name:<14} {cost:.2f}")
    for name, mean in summary.metrics.items():
        print(f"{name:<20} {mean:.4g}; {summary.metrics_last[name]:.4g} at the last step")
    return 0


def plot(argv: list[str]) -> int:
    """Draw the plots of runs."""
    arguments = parse(PlotArguments, argv, "trpo-jax plot")
    from trpo_jax.experiments import plots, run_directory

    if not arguments.runs:
        raise ValueError("RUN is missing; `trpo-jax runs` lists the runs there are")
    runs = [run_directory.load_run(path) for path in arguments.runs]
    for path in plots.plot_runs(runs, arguments.out or runs[0].path, arguments.formats):
        print(path)
    return 0


def render(argv: list[str]) -> int:
    """Write an episode to watch."""
    arguments = parse(RenderArguments, argv, "trpo-jax render")
    require_at_least(arguments, "max_frames", 1)
    require_at_least(arguments, "episode", 0)
    from trpo_jax.experiments import mujoco_pictures

    mujoco_pictures.prefer_a_backend_without_display()
    run, agent, state = load(arguments.run, arguments.checkpoint)
    from trpo_jax.experiments import render, states
    from trpo_jax.experiments.evaluation import evaluation_key

    file = render.render(
        agent.parts.env,
        agent,
        states.lane(run.spec, state, arguments.seed),
        arguments.out or run.path / "episode",
        key=jax.random.fold_in(evaluation_key(), arguments.episode),
        deterministic=not arguments.stochastic,
        max_frames=arguments.max_frames,
        progress=lambda frames: iter(track(frames, description="drawing", transient=True)),
    )
    print(file)
    return 0


def doctor(argv: list[str]) -> int:
    """Say what went wrong in a run."""
    arguments = parse(DoctorArguments, argv, "trpo-jax doctor")
    if arguments.update is not None and arguments.dump is None:
        raise ValueError(
            f"update={arguments.update} is the update to dump; give --dump DIR too, or leave it out"
        )
    from trpo_jax.experiments import doctor, run_directory

    run = run_directory.load_run(arguments.run)
    diagnosis = doctor.examine(run)
    # Dump first: if it is refused, only that one line is printed, without a report.
    dumped = doctor.dump(run, arguments.update, arguments.dump) if arguments.dump else []
    print(diagnosis.to_json() if arguments.json else diagnosis.to_text())
    for path in dumped:
        print(path, file=sys.stderr)
    return 1 if diagnosis.severe else 0


def runs(argv: list[str]) -> int:
    """List the runs in a directory."""
    arguments = parse(RunsArguments, argv, "trpo-jax runs")
    from trpo_jax.experiments import run_directory

    runs = run_directory.list_runs(arguments.dir)
    if not runs:
        print(f"no runs in {arguments.dir}")
        return 0
    table = Table("run", "environment", "seeds", "steps", "of", "last return", "status", box=None)
    for run in runs:
        table.add_row(
            str(run.path),
            run.env_id,
            str(run.num_seeds),
            f"{run.steps:,}",
            f"{run.total_steps:,}",
            "–" if run.last_return is None else f"{run.last_return:.2f}",
            run.status,
        )
    Console().print(table)
    return 0


def envs(argv: list[str]) -> int:
    """List the environments there are, and what they need."""
    word = parse(EnvsArguments, argv, "trpo-jax envs").word.lower()
    from trpo_jax.envs.ids import names_of
    from trpo_jax.envs.suites import SUITES, lacks

    for suite in SUITES:
        commands = lacks(suite)
        for name in names_of(suite):
            if word in f"{suite}/{name}".lower():
                mark = "" if get_preset(f"{suite}/{name}") is DEFAULT else "  tuned"
                command = f"  needs: {commands[name]}" if name in commands else ""
                print(f"{suite}/{name}{mark}{command}")
    return 0


def load(path: Path, checkpoint: str) -> tuple["Run", "Agent", Any]:
    """A run, its agent and one of its states."""
    from trpo_jax.experiments import run_directory, states

    run = run_directory.load_run(path)
    for note in run.notes:
        print(f"warning: {note}", file=sys.stderr)
    agent = states.make_agent(run.spec)
    return run, agent, states.final_state(run, agent, checkpoint)
