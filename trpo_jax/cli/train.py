"""`trpo-jax train`: a new run, or an old one that goes on."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from trpo_jax.cli.arguments import TrainArguments
from trpo_jax.cli.parsing import keywords_of, parse, preset_of, require_at_least

if TYPE_CHECKING:
    from trpo_jax.experiments.run_directory import Run
    from trpo_jax.learner.trpo import Agent


def train(argv: list[str]) -> int:
    """Train a policy."""
    arguments = _train_arguments(argv)
    if arguments.resume is None:
        return _train_from_scratch(arguments)
    return _resume(argv, arguments.resume)


def _train_arguments(argv: list[str], default: TrainArguments | None = None) -> TrainArguments:
    if default is None:
        preset = preset_of(argv)
        default = TrainArguments(
            config=preset.config, hparams=preset.hparams, total_steps=preset.total_steps
        )
    arguments = parse(TrainArguments, argv, "trpo-jax train", default)
    for name in ("num_seeds", "total_steps"):
        require_at_least(arguments, name, 1)
    for name in ("eval_episodes", "keep", "checkpoint_every"):
        require_at_least(arguments.output, name, 1)
    require_at_least(arguments.output, "eval_every", 0)
    if not 0 <= arguments.seed < 2**31 - arguments.num_seeds:
        raise ValueError(f"seed={arguments.seed} must be a whole number in [0, 2³¹)")
    project = arguments.output.wandb
    if project and importlib.util.find_spec("wandb") is None:
        raise ValueError(f"wandb={project} needs a package: pip install 'trpo-jax[wandb]'")
    return arguments


def _train_from_scratch(arguments: TrainArguments) -> int:
    from trpo_jax.experiments import files, run_directory, specification, states

    if not arguments.env:
        raise ValueError("ENV is missing; `trpo-jax envs` lists the environments there are")
    spec = specification.RunSpec(
        env_id=arguments.env,
        env_kwargs=keywords_of(arguments.env_args),
        config=arguments.config,
        hparams=arguments.hparams,
        seed=arguments.seed,
        num_seeds=arguments.num_seeds,
    )
    agent = states.make_agent(spec)
    path = files.create_directory(arguments.out or run_directory.default_directory(arguments.env))
    run = run_directory.write_run(path, spec, arguments.total_steps, arguments.output)
    return _carry_out(run, agent)


def _resume(argv: list[str], path: Path) -> int:
    from trpo_jax.experiments import run_directory, specification, states

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
        output=run.options,
    )
    arguments = _train_arguments(argv, before)
    _require_same_settings(arguments, before)
    done = states.updates_done(run)
    total = specification.num_updates(spec.config, arguments.total_steps)
    if done >= total:
        raise ValueError(
            f"total_steps={arguments.total_steps}: {done * spec.config.batch_size} steps are done "
            f"already; give a larger --total-steps to go on"
        )
    agent = states.make_agent(spec)
    console = Console(stderr=True)
    for name, version in specification.current_versions().items():
        if version != run.versions.get(name):
            console.print(
                f"warning: {name} is {version} now and was {run.versions.get(name)}; the run goes "
                f"on, but not bit for bit",
                soft_wrap=True,
            )
    run = run_directory.write_run(path, spec, arguments.total_steps, arguments.output)
    return _carry_out(run, agent)


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
