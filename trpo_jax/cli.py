"""The command line: the only place that parses arguments.

Exit codes: 0 done, 1 `doctor` found something severe, 2 the caller's mistake (one line on stderr),
130 and 143 interrupted by Ctrl-C and SIGTERM.
"""

import ast
import contextlib
import dataclasses
import difflib
import importlib.util
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import jax
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.presets import DEFAULT, get_preset, list_presets

if TYPE_CHECKING:
    from trpo_jax.experiments.run_directory import Run, RunOptions
    from trpo_jax.experiments.sweep_run import SweepSpec
    from trpo_jax.learner.trpo import Agent

_USAGE = """\
usage: trpo-jax COMMAND …

  train ENV     train a policy; `trpo-jax train ENV --help` shows all settings, with the defaults
                that are tuned for ENV; `trpo-jax train --resume RUN` goes on with a run
  sweep ENV     train a grid of hyperparameters, or random ones, side by side
  evaluate RUN  play episodes with a trained policy
  plot RUN …    draw the pictures of one or several runs
  render RUN    write an episode to watch
  doctor RUN    say what went wrong in a run, if anything, and what to change
  runs [DIR]    list the runs in a directory
  envs          list the environments that can be trained

`trpo-jax COMMAND --help` explains the options of a command.
"""

Arguments = TypeVar("Arguments")


@dataclasses.dataclass(frozen=True)
class TrainArguments:
    """Train a TRPO policy. Settings default to values tuned for the environment, if it has any."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")] = ""
    """Environment id, such as CartPole-v1, gymnax/Pendulum-v1 or brax/hopper."""
    config: tyro.conf.OmitArgPrefixes[TRPOConfig] = DEFAULT.config
    hparams: tyro.conf.OmitArgPrefixes[HParams] = DEFAULT.hparams
    out: Path | None = None
    """Run directory, new or empty. By default runs/ENV-DATE-TIME."""
    resume: Path | None = None
    """Go on with the run in this directory, bit for bit, with the settings that it has; with a
    larger --total-steps also when it was finished."""
    seed: int = 0
    """Seed of the run."""
    num_seeds: int = 1
    """Train this many seeds, from --seed on, side by side in one program."""
    total_steps: int = DEFAULT.total_steps
    """Environment steps per seed, rounded up to whole updates."""
    checkpoint_every: int | None = None
    """Updates between checkpoints. By default about every ten seconds."""
    keep: int = 3
    """Checkpoints that are kept, the newest ones; the best by evaluation is kept apart."""
    eval_every: int | None = None
    """Updates between evaluations; 0 for none. By default as many as cost little."""
    eval_episodes: int = 128
    """Episodes of the evaluation at the end, per seed."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    wandb: str | None = None
    """Log to this project of Weights & Biases."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment as NAME=VALUE, such as backend=spring episode_length=500."""


@dataclasses.dataclass(frozen=True)
class Swept:
    """Values of hyperparameters: one field for each of `HParams`."""

    max_kl: tuple[float, ...] = ()
    """Values of max_kl, or its two bounds with --random."""
    gamma: tuple[float, ...] = ()
    """Values of gamma, or its two bounds with --random."""
    gae_lambda: tuple[float, ...] = ()
    """Values of gae_lambda, or its two bounds with --random."""
    cg_damping: tuple[float, ...] = ()
    """Values of cg_damping, or its two bounds with --random."""
    cg_tol: tuple[float, ...] = ()
    """Values of cg_tol, or its two bounds with --random."""
    backtrack_factor: tuple[float, ...] = ()
    """Values of backtrack_factor, or its two bounds with --random."""
    accept_ratio: tuple[float, ...] = ()
    """Values of accept_ratio, or its two bounds with --random."""
    entropy_coef: tuple[float, ...] = ()
    """Values of entropy_coef, or its two bounds with --random."""
    value_learning_rate: tuple[float, ...] = ()
    """Values of value_learning_rate, or its two bounds with --random."""


_NOTHING_SWEPT = Swept()


@dataclasses.dataclass(frozen=True)
class SweepArguments:
    """Train every combination of some hyperparameters' values, each with several seeds, as one
    program; for example --max-kl 0.003 0.01 0.03 --gae-lambda 0.9 0.95 --seeds 8. The best of them
    becomes a run in BEST, the directory `best` of the sweep."""

    env: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENV")] = ""
    """Environment id."""
    swept: tyro.conf.OmitArgPrefixes[Swept] = _NOTHING_SWEPT
    config: tyro.conf.OmitArgPrefixes[TRPOConfig] = DEFAULT.config
    seeds: int = 4
    """Seeds of each setting."""
    seed: int = 0
    """The first seed."""
    random: int | None = None
    """Draw so many settings at random, between the two values given for each hyperparameter."""
    halving: tuple[float, ...] = ()
    """Shares of the training after which the worse half of the settings is dropped."""
    max_parallel: int | None = None
    """Trainings side by side at most. By default as many as fit into memory."""
    total_steps: int = DEFAULT.total_steps
    """Environment steps of each training, rounded up to whole updates."""
    eval_episodes: int = 64
    """Episodes of the evaluation at the end, per training."""
    out: Path | None = None
    """Directory of the sweep, new or empty. By default runs/sweep-ENV-DATE-TIME."""
    resume: Path | None = None
    """Go on with the sweep in this directory."""
    env_args: tuple[str, ...] = ()
    """Arguments of the environment as NAME=VALUE."""


RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Play whole episodes with the policy of a run; every run gets the same initial states."""

    run: RunPath
    """Run directory."""
    episodes: int = 256
    """Episodes per seed of the run."""
    stochastic: bool = False
    """Draw the actions from the policy, as in training, instead of taking its mode."""
    checkpoint: str = "last"
    """Which state: last, best, or the number of updates of a checkpoint."""
    best: bool = False
    """RUN is a sweep: evaluate its best training."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class PlotArguments:
    """Draw the pictures of one run, or of several in one picture each."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directories."""
    out: Path | None = None
    """Directory of the pictures. By default that of the first run."""
    formats: tuple[Literal["png", "svg", "pdf"], ...] = ("png", "svg")
    """File formats."""


@dataclasses.dataclass(frozen=True)
class RenderArguments:
    """Play one episode with the policy of a run, and write it as something to watch.

    HTML for brax, a GIF for gymnax environments that have a visualiser (those of classic control
    need pygame: pip install 'trpo-jax[render]'), else a plot of observations, actions and rewards.
    """

    run: RunPath
    """Run directory."""
    out: Path | None = None
    """File to write, without suffix. By default RUN/episode."""
    seed: int | None = None
    """Which of the run's seeds. By default the first."""
    episode: int = 0
    """Number of the episode: another number, another initial state."""
    stochastic: bool = False
    """Draw the actions from the policy, as in training, instead of taking its mode."""
    checkpoint: str = "last"
    """Which state: last, best, or the number of updates of a checkpoint."""
    max_frames: int = 200
    """Frames of a GIF; longer episodes leave some out, evenly."""


@dataclasses.dataclass(frozen=True)
class DoctorArguments:
    """Say what went wrong in a run, on which numbers that rests, and what to change.

    The exit code is 1 if something severe was found, and 0 otherwise.
    """

    run: RunPath
    """Run directory."""
    dump: Path | None = None
    """Write advantages.npy, vf_loss.npy and the batch of an update to this directory."""
    update: int | None = None
    """The update to dump. By default that of the main finding, else the last."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class RunsArguments:
    """List the runs below a directory: environment, steps, last return, status."""

    dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = Path("runs")
    """Directory to search."""


@dataclasses.dataclass(frozen=True)
class EnvsArguments:
    """List the environments that can be trained; those with tuned settings are marked."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(argv)
    except ValueError as error:
        print(f"trpo-jax: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("trpo-jax: interrupted", file=sys.stderr)
        return 130


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    if command not in _COMMANDS:
        near = difflib.get_close_matches(command, _COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(_COMMANDS)}"
        raise ValueError(f"unknown command {command!r}; {hint}")
    return _COMMANDS[command](rest)


def _train(argv: list[str]) -> int:
    arguments = _train_arguments(argv)
    if arguments.resume is None:
        return _train_from_scratch(arguments)
    return _resume(argv, arguments.resume)


def _train_arguments(argv: list[str], default: TrainArguments | None = None) -> TrainArguments:
    if default is None:
        preset = get_preset(next((word for word in argv if _has_preset(word)), ""))
        default = TrainArguments(
            config=preset.config, hparams=preset.hparams, total_steps=preset.total_steps
        )
    arguments = _parse(TrainArguments, argv, "trpo-jax train", default)
    for name in ("num_seeds", "total_steps", "eval_episodes", "keep", "checkpoint_every"):
        _require_at_least(arguments, name, 1)
    _require_at_least(arguments, "eval_every", 0)
    if not 0 <= arguments.seed < 2**31 - arguments.num_seeds:
        raise ValueError(f"seed={arguments.seed} must be a whole number in [0, 2³¹)")
    if arguments.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError(f"wandb={arguments.wandb} needs a package: pip install 'trpo-jax[wandb]'")
    return arguments


def _train_from_scratch(arguments: TrainArguments) -> int:
    from trpo_jax.experiments import run_directory, runner

    if not arguments.env:
        raise ValueError("ENV is missing; `trpo-jax envs` lists the environments there are")
    spec = run_directory.RunSpec(
        env_id=arguments.env,
        env_kwargs=_keywords(arguments.env_args),
        config=arguments.config,
        hparams=arguments.hparams,
        seed=arguments.seed,
        num_seeds=arguments.num_seeds,
    )
    agent = runner.make_agent(spec)
    path = run_directory.create_directory(
        arguments.out or run_directory.default_directory(arguments.env)
    )
    run = run_directory.write_run(path, spec, arguments.total_steps, _options(arguments))
    return _carry_out(run, agent)


def _resume(argv: list[str], path: Path) -> int:
    from trpo_jax.experiments import run_directory, runner

    run = run_directory.load_run(path)
    spec = run.spec
    before = TrainArguments(
        env=spec.env_id,
        config=spec.config,
        hparams=spec.hparams,
        seed=spec.seed,
        num_seeds=spec.num_seeds,
        total_steps=run.total_steps,
        env_args=tuple(f"{name}={value!r}" for name, value in spec.env_kwargs.items()),
        **run.options._asdict(),
    )
    arguments = _train_arguments(argv, before)
    _require_same_settings(arguments, before)
    done = runner.updates_done(run)
    total = runner.num_updates(spec, arguments.total_steps)
    if done >= total:
        raise ValueError(
            f"total_steps={arguments.total_steps}: {done * spec.config.batch_size} steps are done "
            f"already; give a larger --total-steps to go on"
        )
    agent = runner.make_agent(spec)
    console = Console(stderr=True)
    for name, version in run_directory.current_versions().items():
        if version != run.versions.get(name):
            console.print(
                f"warning: {name} is {version} now and was {run.versions.get(name)}; the run goes "
                f"on, but not bit for bit",
                soft_wrap=True,
            )
    run = run_directory.write_run(path, spec, arguments.total_steps, _options(arguments))
    return _carry_out(run, agent)


def _options(arguments: TrainArguments) -> "RunOptions":
    from trpo_jax.experiments.run_directory import RunOptions

    return RunOptions(**{name: getattr(arguments, name) for name in RunOptions._fields})


def _carry_out(run: "Run", agent: "Agent") -> int:
    from trpo_jax.experiments import runner

    runner.enable_compilation_cache()
    console = Console()
    outcome = runner.train_run(run, agent, console)
    if outcome.signal is not None:
        console.print(
            f"interrupted after {outcome.updates} updates; go on with:\n"
            f"  trpo-jax train --resume {run.path}",
            highlight=False,
            soft_wrap=True,
        )
        return 128 + outcome.signal
    console.print(f"evaluation: return {outcome.summary}", highlight=False, soft_wrap=True)
    from trpo_jax.experiments import plots

    console.print(f"overview: {plots.overview(run)}", highlight=False, soft_wrap=True)
    console.print(f"run directory: {run.path}", highlight=False, soft_wrap=True)
    return 0


def _require_same_settings(given: TrainArguments, before: TrainArguments) -> None:
    """A resumed run keeps what determines its numbers."""
    if given.out is not None:
        raise ValueError(f"out={given.out} does not go with --resume; leave it out")
    for name in ("config", "hparams", "env", "seed", "num_seeds", "env_args"):
        new, old = getattr(given, name), getattr(before, name)
        pairs = (
            [(field, getattr(new, field), getattr(old, field)) for field in vars(old)]
            if dataclasses.is_dataclass(old)
            else [(name, new, old)]
        )
        for field, value, kept in pairs:
            if value != kept:
                raise ValueError(
                    f"{field}={value} differs from the run's {kept}; a resumed run keeps its "
                    f"settings: leave the option out, or train anew"
                )


def _sweep(argv: list[str]) -> int:
    preset = get_preset(next((word for word in argv if _has_preset(word)), ""))
    default = SweepArguments(config=preset.config, total_steps=preset.total_steps)
    arguments = _parse(SweepArguments, argv, "trpo-jax sweep", default)
    from trpo_jax.experiments import run_directory, runner, sweep_run

    if arguments.resume is not None:
        path, spec = arguments.resume, sweep_run.load_sweep(arguments.resume)
        if (path / sweep_run.RESULTS).is_file():
            raise ValueError(f"sweep={path} is complete; its best run is {path / 'best'}")
    else:
        spec = _sweep_spec(arguments, preset.hparams)
        name = f"sweep-{arguments.env}"
        path = run_directory.create_directory(
            arguments.out or run_directory.default_directory(name)
        )
        sweep_run.write_sweep(path, spec)
    runner.enable_compilation_cache()
    console = Console()
    result = sweep_run.run_sweep(path, spec, console)
    console.print(sweep_run.results_table(result))
    console.print(f"sweep directory: {path}", highlight=False, soft_wrap=True)
    console.print(f"best run: {path / run_directory.BEST}", highlight=False, soft_wrap=True)
    return 0


def _sweep_spec(arguments: SweepArguments, hparams: HParams) -> "SweepSpec":
    """What is to be swept; raises `ValueError` if environment or settings cannot work."""
    from trpo_jax.envs import make_env
    from trpo_jax.experiments import sweep, sweep_run
    from trpo_jax.learner.trpo import make_trpo

    if not arguments.env:
        raise ValueError("ENV is missing; `trpo-jax envs` lists the environments there are")
    for name in ("seeds", "total_steps", "eval_episodes", "max_parallel", "random"):
        _require_at_least(arguments, name, 1)
    axes = {name: values for name, values in vars(arguments.swept).items() if values}
    if not axes:
        raise ValueError("nothing to sweep; give values, such as --max-kl 0.003 0.01 0.03")
    if arguments.random is None:
        settings = sweep.grid(axes)
    else:
        settings = sweep.random_settings(axes, arguments.random, arguments.seed)
    for setting in settings:
        hparams.replace(**setting)
    env_kwargs = _keywords(arguments.env_args)
    make_trpo(make_env(arguments.env, **env_kwargs), arguments.config)
    return sweep_run.SweepSpec(
        env_id=arguments.env,
        env_kwargs=env_kwargs,
        config=arguments.config,
        hparams=hparams,
        settings=settings,
        seed=arguments.seed,
        num_seeds=arguments.seeds,
        total_steps=arguments.total_steps,
        halving=list(arguments.halving),
        max_parallel=arguments.max_parallel,
        eval_episodes=arguments.eval_episodes,
    )


def _evaluate(argv: list[str]) -> int:
    arguments = _parse(EvaluateArguments, argv, "trpo-jax evaluate")
    _require_at_least(arguments, "episodes", 1)
    path = arguments.run / "best" if arguments.best else arguments.run
    run, agent, state = _load(path, arguments.checkpoint)
    from trpo_jax.experiments.evaluation import evaluate_state

    summary = evaluate_state(
        run,
        agent,
        state,
        num_episodes=arguments.episodes,
        deterministic=not arguments.stochastic,
    )
    if arguments.json:
        print(json.dumps(summary._asdict()))
        return 0
    unit = "seeds" if len(summary.mean_per_run) > 1 else "episodes"
    print(f"return               {summary}")
    print(f"interquartile mean   {summary.interquartile_mean:.2f}")
    print(f"worst, best          {summary.minimum:.2f}, {summary.maximum:.2f} ({unit})")
    print(f"mean episode length  {summary.mean_length:.1f}")
    return 0


def _plot(argv: list[str]) -> int:
    arguments = _parse(PlotArguments, argv, "trpo-jax plot")
    from trpo_jax.experiments import plots, run_directory

    if not arguments.runs:
        raise ValueError("RUN is missing; `trpo-jax runs` lists the runs there are")
    runs = [run_directory.load_run(path) for path in arguments.runs]
    for path in plots.plot_runs(runs, arguments.out or runs[0].path, arguments.formats):
        print(path)
    return 0


def _render(argv: list[str]) -> int:
    arguments = _parse(RenderArguments, argv, "trpo-jax render")
    _require_at_least(arguments, "max_frames", 1)
    _require_at_least(arguments, "episode", 0)
    run, agent, state = _load(arguments.run, arguments.checkpoint)
    from trpo_jax.envs import make_env
    from trpo_jax.experiments import render, runner
    from trpo_jax.experiments.evaluation import evaluation_key

    seed = run.spec.seed if arguments.seed is None else arguments.seed
    file = render.render(
        make_env(run.spec.env_id, **run.spec.env_kwargs),
        agent,
        runner.lane(run.spec, state, seed),
        arguments.out or run.path / "episode",
        key=jax.random.fold_in(evaluation_key(), arguments.episode),
        deterministic=not arguments.stochastic,
        max_frames=arguments.max_frames,
        progress=lambda frames: iter(track(frames, description="drawing", transient=True)),
    )
    print(file)
    return 0


def _doctor(argv: list[str]) -> int:
    arguments = _parse(DoctorArguments, argv, "trpo-jax doctor")
    from trpo_jax.experiments import doctor, run_directory

    run = run_directory.load_run(arguments.run)
    diagnosis = doctor.examine(run)
    print(diagnosis.to_json() if arguments.json else diagnosis.to_text())
    if arguments.dump is not None:
        for path in doctor.dump(run, arguments.update, arguments.dump):
            print(path, file=sys.stderr)
    return 1 if diagnosis.severe else 0


def _runs(argv: list[str]) -> int:
    arguments = _parse(RunsArguments, argv, "trpo-jax runs")
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


def _envs(argv: list[str]) -> int:
    _parse(EnvsArguments, argv, "trpo-jax envs")
    from trpo_jax.envs import list_environments

    tuned = set(list_presets())
    for full_id in list_environments():
        mark = "  tuned" if full_id.rpartition("/")[2] in tuned else ""
        print(f"{full_id}{mark}")
    return 0


_COMMANDS = {
    "train": _train,
    "sweep": _sweep,
    "evaluate": _evaluate,
    "plot": _plot,
    "render": _render,
    "doctor": _doctor,
    "runs": _runs,
    "envs": _envs,
}


def _has_preset(word: str) -> bool:
    return get_preset(word) is not DEFAULT


def _load(path: Path, checkpoint: str) -> tuple["Run", "Agent", Any]:
    """A run, its agent and one of its states."""
    from trpo_jax.experiments import run_directory, runner

    run = run_directory.load_run(path)
    agent = runner.make_agent(run.spec)
    runner.enable_compilation_cache()
    return run, agent, runner.final_state(run, agent, checkpoint)


def _require_at_least(arguments: Any, name: str, smallest: int) -> None:
    value = getattr(arguments, name)
    if value is not None and value < smallest:
        raise ValueError(f"{name}={value} must be a whole number >= {smallest}")


def _parse(
    kind: type[Arguments],
    argv: list[str],
    prog: str,
    default: Arguments | Any = tyro.MISSING_NONPROP,
) -> Arguments:
    """Parse with tyro; a mistake becomes a `ValueError` of one line instead of a box."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=argv, prog=prog, default=default)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(_one_line(errors.getvalue())) from None


def _one_line(box: str) -> str:
    """The message of tyro's error box, and the first of the options that it suggests."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    sections: list[list[str]] = [[]]
    for line in lines[1:]:
        if line and not line.strip("─"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    message = " ".join(sections[0])
    for section in sections[1:]:
        if section and section[0].startswith("Perhaps you meant") and len(section) > 1:
            message += f"; did you mean {section[1].split()[0]}?"
    return message


def _keywords(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that reads as a Python literal is one, anything else a string."""
    keywords = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"env_args={pair!r} is not of the form NAME=VALUE")
        try:
            keywords[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            keywords[name] = text
    return keywords
