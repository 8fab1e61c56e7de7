"""What a run leaves on disk: its layout, how it is begun, read back and listed."""

import datetime
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trpo_jax.experiments.files import is_locked, read_lines, write_text
from trpo_jax.experiments.specification import (
    RunOptions,
    RunSpec,
    current_versions,
    reading,
    specification,
    write_specification,
)

CONFIG = "config.json"
METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations.jsonl"
FINAL_EVALUATION = "evaluation.json"
STATUS = "status.json"
CHECKPOINTS = "checkpoints"
BEST = "best"
GUARD = "guard.jsonl"
SWEEP = "sweep.json"
TENSORBOARD = "tensorboard"
_README = """\
# A training run of trpo_jax

| file | what it is |
|---|---|
| config.json | environment, settings, seeds, versions and the command that started the run |
| metrics.jsonl | one line per update and seed: all metrics of docs/metrics.md; null: not finite |
| evaluations.jsonl | one line per evaluation during training: return per seed, and metrics |
| evaluation.json | the evaluation at the end |
| status.json | running, finished, interrupted or failed; updates and steps done |
| checkpoints/ | complete training states by number of updates (orbax); --resume reads the last |
| best/ | the state with the highest mean return in an evaluation; with --guard, that in service |
| guard.jsonl | with --guard, one line per test of a candidate: what it showed, what was done |
| tensorboard/ | the metrics for `tensorboard --logdir` |
| policy.* | the exported policy, if there is one; numpy_policy.py runs policy.npz |
| *.png, *.svg | plots; overview.png is drawn at the end |

    trpo-jax evaluate {path}        play episodes with the trained policy
    trpo-jax plot {path}            draw the plots again
    trpo-jax doctor {path}          say what went wrong, if anything
    trpo-jax render {path}          watch an episode
    trpo-jax export {path}          write the policy to a file that runs without trpo_jax
    trpo-jax train --resume {path}  continue, {how}
"""


_DEFAULT_OPTIONS = RunOptions()


class Run(NamedTuple):
    """A run directory, as read from disk."""

    path: Path
    spec: RunSpec
    total_steps: int
    """Environment steps per seed that were requested."""
    versions: dict[str, str]
    """Versions of trpo_jax and its dependencies when the run began."""
    options: RunOptions
    """Options for checkpoints, evaluations and logs."""
    notes: tuple[str, ...] = ()
    """Settings of an earlier version in config.json that were translated."""

    def histories(self) -> list[dict[str, np.ndarray]]:
        """The metrics so far, per seed: name -> array [updates, ...], with NaN for values that were
        not finite. Adds `update`, `steps`, `alarm_…`, `env_metrics/…` and `env_metrics_last/…` to
        the fields of `UpdateMetrics`."""
        return read_histories(self.path / METRICS, self.spec.seeds)

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations during training, in order."""
        return read_lines(self.path / EVALUATIONS)


class RunStatus(NamedTuple):
    """One line of `trpo-jax runs`."""

    path: Path
    env_id: str
    num_seeds: int
    steps: int
    total_steps: int
    last_return: float | None
    """Mean over seeds of the last update's `episode_return`; None if no episode has ended."""
    status: str
    """running, finished, interrupted or failed; killed, if it ended without recording why; or
    damaged, if its status.json or metrics.jsonl cannot be read."""


def default_directory(env_id: str) -> Path:
    """The directory runs/ENV-DATE-TIME."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    return Path("runs") / f"{re.sub('[/:]', '-', env_id)}-{stamp}"


def make_run(
    path: Path, spec: RunSpec, total_steps: int, options: RunOptions = _DEFAULT_OPTIONS
) -> Run:
    """A new run, or one to be continued; nothing is written."""
    return Run(path, spec, total_steps, current_versions(), options)


def write_run(
    path: Path,
    spec: RunSpec,
    total_steps: int,
    options: RunOptions = _DEFAULT_OPTIONS,
    *,
    on_host: bool = False,
) -> Run:
    """The same, and write its config.json and README.

    `on_host` says that the environments step on the host: a checkpoint does not hold them.
    """
    how = "with new episodes: checkpoints do not hold the simulators" if on_host else "bit for bit"
    write_specification(path / CONFIG, spec, total_steps=total_steps, options=options._asdict())
    write_text(path / "README.md", _README.format(path=path, how=how))
    return make_run(path, spec, total_steps, options)


def load_run(path: Path) -> Run:
    """Read a run directory. Raises `ValueError` if it does not exist or cannot be read."""
    if (path / SWEEP).is_file() and not (path / CONFIG).is_file():
        raise ValueError(f"run={path} is a sweep and not a run; its best run is {path / BEST}")
    with reading("run", path / CONFIG) as content:
        spec, notes = specification(RunSpec, content)
        return Run(
            path,
            spec,
            content["total_steps"],
            content["versions"],
            RunOptions(**content["options"]),
            tuple(notes),
        )


def list_runs(root: Path) -> list[RunStatus]:
    """All runs below a directory, the oldest first."""
    if not root.is_dir():
        raise ValueError(f"dir={root} is not a directory")
    configs = sorted(root.rglob(CONFIG), key=lambda file: file.stat().st_mtime)
    return [read_status(load_run(file.parent)) for file in configs if _is_run(file.parent)]


def read_status(run: Run) -> RunStatus:
    """The status of a run."""
    try:
        phase, histories = _phase(run.path), run.histories()
    except (ValueError, KeyError, TypeError):  # one bad file must not hide the other runs
        phase, histories = "damaged", []
    updates = min((len(history.get("update", ())) for history in histories), default=0)
    last = [history["episode_return"][-1] for history in histories if "episode_return" in history]
    finite = [value for value in last if np.isfinite(value)]
    return RunStatus(
        path=run.path,
        env_id=run.spec.env_id,
        num_seeds=run.spec.num_seeds,
        steps=updates * run.spec.config.batch_size,
        total_steps=run.total_steps,
        last_return=float(np.mean(finite)) if finite else None,
        status=phase,
    )


def _phase(path: Path) -> str:
    """The status in status.json; "killed" if that is "running" but no process runs."""
    file = path / STATUS
    status = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    phase = str(status["status"]) if status else "running"
    return "killed" if phase == "running" and not is_locked(path) else phase


def write_status(path: Path, status: str, updates: int, batch_size: int, reason: str = "") -> None:
    """Replace status.json."""
    content = {"status": status, "updates": updates, "steps": updates * batch_size}
    if reason:
        content["reason"] = reason
    write_text(path / STATUS, json.dumps(content) + "\n")


def read_histories(file: Path, seeds: list[int]) -> list[dict[str, np.ndarray]]:
    """Metrics per seed: name -> array [updates, ...]; null becomes NaN."""
    records = read_lines(file, "seed")
    by_seed = {seed: [r for r in records if r["seed"] == seed] for seed in seeds}
    return [
        {name: _column([record[name] for record in rows]) for name in (rows[0] if rows else ())}
        for rows in by_seed.values()
    ]


def _column(values: list[Any]) -> np.ndarray:
    if any(isinstance(value, list) for value in values):
        return np.array([_column(value) for value in values])
    if all(isinstance(value, bool) for value in values):
        return np.array(values, dtype=bool)
    return np.array([np.nan if value is None else value for value in values])


def _is_run(path: Path) -> bool:
    try:
        load_run(path)
    except ValueError:
        return False
    return True
