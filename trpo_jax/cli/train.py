"""`trpo-jax train`: start a run, or continue one."""

import dataclasses
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from trpo_jax.cli.arguments import TrainArguments
from trpo_jax.cli.parsing import keywords_of, parse, preset_of

if TYPE_CHECKING:
    from trpo_jax.experiments.devices import Devices
    from trpo_jax.experiments.guard.settings import Guard
    from trpo_jax.experiments.specification import RunSpec
    from trpo_jax.learner.trpo import Agent


def train(argv: list[str]) -> int:
    """Train a policy, in this process or together with others."""
    arguments = _train_arguments(argv)
    if not arguments.distributed:
        return _train(argv, arguments)
    from trpo_jax.experiments.devices import join

    join(arguments.coordinator, arguments.num_processes, arguments.process_id)
    try:
        return _train(argv, arguments)
    except BaseException as error:
        _leave(error)


def _leave(error: BaseException) -> NoReturn:
    """End one process of several at once: in an orderly exit JAX would wait for the others."""
    from trpo_jax.experiments.devices import ProcessLost

    code = 1
    if isinstance(error, ValueError | ProcessLost):
        code = 2 if isinstance(error, ValueError) else 1
        print(f"trpo-jax: {' '.join(str(error).split())}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        code = 130
        print("trpo-jax: interrupted", file=sys.stderr)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_GUARD = ("guard", "guard_margin", "guard_share", "guard_every")


def _guard_of(arguments: TrainArguments) -> "Guard | None":
    """The guard that the options describe. Raises `ValueError` if they do not go together."""
    from trpo_jax.experiments.guard.settings import Guard, as_guard

    if arguments.guard is not None:
        return as_guard(Guard(*(getattr(arguments, name) for name in _GUARD)))
    for name in _GUARD[1:]:
        if getattr(arguments, name) != getattr(TrainArguments(), name):
            raise ValueError(
                f"{name}={getattr(arguments, name)} goes with --guard only, such as --guard 0.95"
            )
    return None


def _guard_arguments(guard: "Guard | None") -> dict[str, Any]:
    """The options that describe a guard."""
    return {} if guard is None else dict(zip(_GUARD, guard, strict=True))


def _require_testable(spec: "RunSpec", arguments: TrainArguments, devices: "Devices") -> None:
    from trpo_jax.experiments.guard.settings import require_testable

    require_testable(
        spec.guard,
        arguments.output.target_return,
        num_seeds=spec.num_seeds,
        devices=devices.number,
        eval_every=arguments.output.eval_every,
    )


def _train(argv: list[str], arguments: TrainArguments) -> int:
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
    from trpo_jax.experiments.specification import require_options

    require_options(arguments.seed, arguments.num_seeds, arguments.total_steps, arguments.output)
    _guard_of(arguments)
    for name in ("coordinator", "num_processes", "process_id"):
        if getattr(arguments, name) is not None and not arguments.distributed:
            raise ValueError(f"{name}={getattr(arguments, name)} goes with --distributed only")
    if arguments.coordinator and not re.fullmatch(r".+:\d+", arguments.coordinator):
        raise ValueError(
            f"coordinator={arguments.coordinator} must be HOST:PORT, such as 10.0.0.1:1234"
        )
    return arguments


def _train_from_scratch(arguments: TrainArguments) -> int:
    from trpo_jax.experiments import files, run_directory, specification, states
    from trpo_jax.experiments.devices import Devices

    if not arguments.env:
        raise ValueError("ENV is missing; `trpo-jax envs` lists the environments there are")
    spec = specification.RunSpec(
        env_id=arguments.env,
        env_kwargs=keywords_of(arguments.env_args),
        config=arguments.config,
        hparams=arguments.hparams,
        seed=arguments.seed,
        num_seeds=arguments.num_seeds,
        guard=_guard_of(arguments),
    )
    agent, devices = states.make_agent(spec), Devices(arguments.output.devices)
    devices.require_equal_parts(spec)
    _require_testable(spec, arguments, devices)
    path = arguments.out or run_directory.default_directory(arguments.env)
    if devices.is_first:
        files.create_directory(path)
    return _carry_out(path, spec, arguments, agent, devices)


def _resume(argv: list[str], path: Path) -> int:
    from trpo_jax.experiments import run_directory, specification, states
    from trpo_jax.experiments.devices import Devices

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
        **_guard_arguments(spec.guard),
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
    agent, devices = states.make_agent(spec), Devices(arguments.output.devices)
    devices.require_equal_parts(spec)
    _require_testable(spec, arguments, devices)
    console = Console(stderr=True, quiet=not devices.is_first)
    if not done:
        text = f"run={path} has no checkpoint to go on from; it starts again at update 1"
        console.print(f"warning: {text}", soft_wrap=True)
    changes = specification.changes(run.versions, run.options.devices or 1, devices.number)
    for change in (*run.notes, *changes):
        console.print(f"warning: {change}", soft_wrap=True)
    return _carry_out(path, spec, arguments, agent, devices)


def _carry_out(
    path: Path, spec: "RunSpec", arguments: TrainArguments, agent: "Agent", devices: "Devices"
) -> int:
    from trpo_jax.experiments import run_directory, runner

    options = arguments.output._replace(devices=devices.number)
    run = run_directory.make_run(path, spec, arguments.total_steps, options)
    console = Console(quiet=not devices.is_first)
    outcome = runner.carry_out(run, agent, console, devices)
    if outcome.signal is not None:
        console.print(
            f"interrupted after {outcome.updates} updates; go on with:\n"
            f"  trpo-jax train --resume {run.path}",
            highlight=False,
            soft_wrap=True,
        )
        return 128 + outcome.signal
    if not devices.is_first:
        return 0
    console.print(f"evaluation: return {outcome.summary}", highlight=False, soft_wrap=True)
    cost = outcome.summary and outcome.summary.mean_cost
    if cost is not None:
        console.print(f"evaluation: cost {cost:.2f}", highlight=False)
    from trpo_jax.experiments import plots

    console.print(f"overview: {plots.overview(run)}", highlight=False, soft_wrap=True)
    console.print(f"run directory: {run.path}", highlight=False, soft_wrap=True)
    return 0


def _require_same_settings(given: TrainArguments, before: TrainArguments) -> None:
    """Raise `ValueError` unless a resumed run keeps all that determines its numbers."""
    if given.out is not None:
        raise ValueError(f"out={given.out} does not go with --resume; leave it out")
    for name in ("config", "hparams", "env", "seed", "num_seeds", "env_args", *_GUARD):
        new, old = getattr(given, name), getattr(before, name)
        if name == "env_args" and keywords_of(new) == keywords_of(old):
            continue
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
