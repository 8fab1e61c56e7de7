"""`trpo-jax sweep` and `trpo-jax merge`: many trainings in parallel, on one machine or several."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from trpo_jax.cli.arguments import MergeArguments, SweepArguments
from trpo_jax.cli.parsing import (
    keywords_of,
    parse,
    preset_of,
    require_at_least,
    require_once,
    static_values_of,
)
from trpo_jax.config import HParams

if TYPE_CHECKING:
    from trpo_jax.experiments.devices import Devices
    from trpo_jax.experiments.specification import SweepSpec
    from trpo_jax.experiments.sweep import SweepResult


def sweep(argv: list[str]) -> int:
    """Train a grid of settings, or continue a sweep."""
    preset = preset_of(argv)
    default = SweepArguments(config=preset.config, total_steps=preset.total_steps)
    arguments = parse(SweepArguments, argv, "trpo-jax sweep", default)
    require_once(argv, (*vars(arguments.swept), "static", "halving"))
    from trpo_jax.experiments import files, run_directory, specification
    from trpo_jax.experiments.devices import Devices
    from trpo_jax.experiments.sweep import on_disk

    require_at_least(arguments, "devices", 1)
    console, devices = Console(), Devices(arguments.devices)
    if arguments.resume is not None:
        _require_nothing_else(arguments, default)
        path, stored = arguments.resume, on_disk.load_sweep(arguments.resume)
        spec = stored.spec
        if (path / on_disk.RESULTS).is_file():
            raise ValueError(f"sweep={path} is complete; its best run is {path / 'best'}")
        changes = specification.changes(stored.versions, stored.num_devices, devices.number)
        for change in (*stored.notes, *changes):
            console.print(f"warning: {change}", soft_wrap=True)
    else:
        spec = _sweep_spec(arguments, preset.hparams, devices)
        name = f"sweep-{arguments.env}"
        if spec.shard:
            name += "-shard-{}-of-{}".format(*spec.shard)
        path = files.create_directory(arguments.out or run_directory.default_directory(name))
        on_disk.store_sweep(path, spec, devices.number)
    result = on_disk.run_sweep(path, spec, console, devices)
    _show(path, result, console)
    return 0


def merge(argv: list[str]) -> int:
    """Make one sweep of its shards."""
    arguments = parse(MergeArguments, argv, "trpo-jax merge")
    from trpo_jax.experiments import run_directory
    from trpo_jax.experiments.sweep import merging, on_disk

    if not arguments.shards:
        raise ValueError("SHARD is missing; name the directories of all shards of a sweep")
    env_id = on_disk.load_sweep(arguments.shards[0]).spec.env_id
    path, console = arguments.out or run_directory.default_directory(f"sweep-{env_id}"), Console()
    _show(path, merging.merge_shards(arguments.shards, path, console), console)
    return 0


def _show(path: Path, result: "SweepResult", console: Console) -> None:
    from trpo_jax.experiments import run_directory
    from trpo_jax.experiments.sweep import on_disk

    console.print(on_disk.results_table(result))
    console.print(f"sweep directory: {path}", highlight=False, soft_wrap=True)
    console.print(f"best run: {path / run_directory.BEST}", highlight=False, soft_wrap=True)


def _require_nothing_else(given: SweepArguments, default: SweepArguments) -> None:
    """A resumed sweep keeps its settings; only the devices may change."""
    for field in dataclasses.fields(given):
        value, usual = getattr(given, field.name), getattr(default, field.name)
        if field.name in ("resume", "devices") or value == usual:
            continue
        name = field.name
        if dataclasses.is_dataclass(value):
            changed = {n: v for n, v in vars(value).items() if v != getattr(usual, n)}
            name, value = next(iter(changed.items()))
        raise ValueError(
            f"{name}={value} does not go with --resume: a resumed sweep keeps its settings; leave "
            f"the option out, or start a new sweep"
        )


def _sweep_spec(arguments: SweepArguments, hparams: HParams, devices: "Devices") -> "SweepSpec":
    """The specification of a sweep. Raises `ValueError` if it cannot work; writes nothing."""
    from trpo_jax.experiments import specification, states
    from trpo_jax.experiments.sweep import grid, random_settings, static_settings
    from trpo_jax.experiments.sweep.training import require_possible

    if not arguments.env:
        raise ValueError("ENV is missing; `trpo-jax envs` lists the environments there are")
    for name in ("seeds", "total_steps", "eval_episodes", "max_parallel", "random"):
        require_at_least(arguments, name, 1)
    axes = {name: values for name, values in vars(arguments.swept).items() if values}
    static = static_values_of(arguments.static)
    if not axes and not static:
        raise ValueError("nothing to sweep; give values, such as --max-kl 0.003 0.01 0.03")
    if not axes and arguments.random is not None:
        raise ValueError(
            f"random={arguments.random} draws hyperparameters, and none has bounds; give them, "
            f"such as --max-kl 0.003 0.03, or leave --random out"
        )
    fixed = static_settings(arguments.config, static)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    possible = (arguments.total_steps, arguments.halving, arguments.max_parallel, devices.mesh)
    require_possible(seeds, None, *possible, arguments.eval_episodes)
    if arguments.random is None:
        settings = grid(axes)
    else:
        settings = random_settings(axes, arguments.random, arguments.seed)
    for setting in settings:
        hparams.replace(**setting)
    shard = _shard_of(arguments, len(settings))
    spec = specification.SweepSpec(
        env_id=arguments.env,
        env_kwargs=keywords_of(arguments.env_args),
        config=arguments.config,
        hparams=hparams,
        settings=settings,
        static=static,
        seed=arguments.seed,
        num_seeds=arguments.seeds,
        total_steps=arguments.total_steps,
        halving=list(arguments.halving),
        max_parallel=arguments.max_parallel,
        eval_episodes=arguments.eval_episodes,
        shard=shard,
    )
    for each in fixed:
        states.make_agent(spec._replace(config=arguments.config.replace(**each)))
    return spec


def _shard_of(arguments: SweepArguments, num_settings: int) -> tuple[int, int] | None:
    """--shard 3/16 as (3, 16). Raises `ValueError` if a sweep cannot have it."""
    if not arguments.shard:
        return None
    parts = arguments.shard.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"shard={arguments.shard} must be I/N, such as 3/16")
    number, total = map(int, parts)
    if not 1 <= number <= total <= num_settings:
        raise ValueError(
            f"shard={arguments.shard} of {num_settings} settings: I/N needs 1 ≤ I ≤ N ≤ "
            f"{num_settings}"
        )
    if arguments.halving:
        raise ValueError(
            f"halving={list(arguments.halving)} compares all settings, and a shard has only some; "
            "leave --halving or --shard out"
        )
    return number, total
