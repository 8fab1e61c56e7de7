"""A sweep on disk: its results as table and plots, and its best lane as a run."""

import contextlib
import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from trpo_jax.envs import Environment, make_env
from trpo_jax.envs.host import HostEnvironment
from trpo_jax.experiments import run_directory as layout
from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.experiments.devices import Devices
from trpo_jax.experiments.files import locked, write_text
from trpo_jax.experiments.loggers import JsonLines, to_records
from trpo_jax.experiments.run_directory import Run
from trpo_jax.experiments.specification import (
    RunSpec,
    SweepSpec,
    reading,
    specification,
    write_specification,
)
from trpo_jax.experiments.sweep.pictures import plot_sweep
from trpo_jax.experiments.sweep.result import SweepResult
from trpo_jax.experiments.sweep.settings import show
from trpo_jax.experiments.sweep.training import sweep

SPEC = layout.SWEEP
RESULTS = "results.csv"

Load = Callable[[int, Any], tuple[int, Any] | None]
"""(part, like) -> the number of slices done and the progress of a part, or None."""


class StoredSweep(NamedTuple):
    """The specification of a sweep, with the versions and devices it was started on."""

    spec: SweepSpec
    versions: dict[str, str]
    num_devices: int
    notes: tuple[str, ...]
    """Settings of an earlier version in the file that were translated."""


def store_sweep(path: Path, spec: SweepSpec, num_devices: int) -> None:
    """Write the specification of a sweep, and its number of devices."""
    write_specification(path / SPEC, spec, num_devices=num_devices)


def load_sweep(path: Path) -> StoredSweep:
    """Read it. Raises `ValueError` if it does not exist or cannot be read."""
    with reading("sweep", path / SPEC) as content:
        spec, notes = specification(SweepSpec, content)
        return StoredSweep(spec, content["versions"], content["num_devices"], tuple(notes))


def run_sweep(
    path: Path,
    spec: SweepSpec,
    console: Console,
    devices: Devices | None = None,
    load: Load | None = None,
) -> SweepResult:
    """Run or continue a sweep; writes its best lane as a run, plots, and results.csv.

    results.csv marks the sweep as complete, so it is written last: after a kill, unfinished work
    is repeated. `load` gives the progress of a part; by default that of the directory.
    """
    with locked(path):
        env = make_env(spec.env_id, **spec.env_kwargs)
        result = _train_all(path, spec, env, console, devices, load)
        write_best(path / layout.BEST, spec, result, on_host=isinstance(env, HostEnvironment))
        plot_sweep(result, spec.env_id, path)
        write_results(path / RESULTS, result)
    return result


def _train_all(
    path: Path,
    spec: SweepSpec,
    env: Environment,
    console: Console,
    devices: Devices | None,
    load: Load | None,
) -> SweepResult:
    """Train and evaluate all lanes, with progress on the terminal and on disk."""
    columns = (
        TextColumn("trainings"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with (
        contextlib.closing(
            PartCheckpoints(path / layout.CHECKPOINTS, console.print)
        ) as checkpoints,
        Progress(*columns, console=console) as progress,
    ):
        task = progress.add_task("", total=None)
        return sweep(
            env,
            spec.config,
            [spec.settings[number] for number in spec.own_numbers()],
            total_steps=spec.total_steps,
            static=spec.static,
            seeds=range(spec.seed, spec.seed + spec.num_seeds),
            hparams=spec.hparams,
            halving=spec.halving,
            max_parallel=spec.max_parallel,
            num_episodes=spec.eval_episodes,
            mesh=devices.mesh if devices else None,
            report=lambda done, total: progress.update(task, completed=done, total=total),
            load=load or checkpoints.load,
            save=checkpoints.save,
        )


class PartCheckpoints:
    """Checkpoints of the progress of each part of a sweep, in a directory per part."""

    def __init__(self, directory: Path, warn: Callable[[str], Any]):
        self._directory, self._warn = directory, warn
        self._number: int | None = None
        self._checkpoints: Checkpoints | None = None

    def load(self, part: int, like: Any) -> tuple[int, Any] | None:
        """The newest readable progress of a part, in writable arrays."""
        found = self._part(part).restore_newest(like, warn=self._warn)
        return found and (found[0], jax.tree.map(np.array, found[1]))

    def save(self, part: int, number: int, progress: Any) -> None:
        """Write the progress of a part, in the background."""
        self._part(part).save(number, progress)

    def close(self) -> None:
        """Wait until all is on disk."""
        if self._checkpoints is not None:
            self._checkpoints.close()

    def _part(self, part: int) -> Checkpoints:
        """The checkpoints of a part. Only one is open at a time; parts come one after the other."""
        if self._checkpoints is None or part != self._number:
            self.close()
            self._number, self._checkpoints = part, Checkpoints(self._directory / str(part), keep=1)
        return self._checkpoints


def write_results(file: Path, result: SweepResult) -> None:
    """Write one line per setting, the best first, atomically."""
    rows = result.table()
    names = list(rows[0].setting)
    figures = ["mean", "interquartile_mean", "low", "high", "updates", "steps"]
    figures += ["cost"] if result.has_costs else []
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow([*names, *figures])
    for row in rows:
        values = [row.setting[name] for name in names]
        shown = [show(value) if isinstance(value, tuple) else value for value in values]
        writer.writerow([*shown, *(getattr(row, name) for name in figures)])
    write_text(file, lines.getvalue())


def write_best(path: Path, spec: SweepSpec, result: SweepResult, *, on_host: bool) -> Run:
    """Write the best seed of the best setting as a run, which behaves like any other."""
    row = result.table()[0]
    seed = result.best_seed(row.number)
    config = result.part_of(row.number).config
    path.mkdir(exist_ok=True)
    traced = {name: value for name, value in row.setting.items() if name in vars(spec.hparams)}
    run_spec = RunSpec(
        env_id=spec.env_id,
        env_kwargs=spec.env_kwargs,
        config=config,
        hparams=dataclasses.replace(spec.hparams, **traced),
        seed=seed,
        num_seeds=1,
    )
    run = layout.write_run(path, run_spec, row.steps, on_host=on_host)
    place = result.seeds.index(seed)
    history = jax.tree.map(lambda leaf: leaf[place : place + 1], result.history_of(row.number))
    log = JsonLines(path / layout.METRICS)
    with contextlib.closing(log):
        log.write(to_records(history, 0, config.batch_size, [seed]))
    with contextlib.closing(Checkpoints(path / layout.CHECKPOINTS)) as checkpoints:
        checkpoints.drop_after(0)
        checkpoints.save(row.updates, result.select(row.number, seed))
    layout.write_status(path, "finished", row.updates, config.batch_size)
    return run


def results_table(result: SweepResult, num_rows: int = 20) -> Table:
    """The best settings, for the terminal."""
    rows = result.table()
    names = list(rows[0].setting)
    costs = ["mean cost"] if result.has_costs else []
    table = Table(*names, "mean return", "95 % interval", "IQM", "steps", *costs, box=None)
    for row in rows[:num_rows]:
        table.add_row(
            *(show(row.setting[name]) for name in names),
            f"{row.mean:.2f}",
            f"[{row.low:.2f}, {row.high:.2f}]",
            f"{row.interquartile_mean:.2f}",
            f"{row.steps:,}",
            *(f"{row.cost:.2f}" for _ in costs),
        )
    return table
