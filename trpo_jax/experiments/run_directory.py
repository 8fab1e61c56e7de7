"""What a run leaves on disk: its layout, how it is begun, read back and listed."""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from trpo_jax.config import HParams, TRPOConfig

CONFIG = "config.json"
METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations.jsonl"
FINAL_EVALUATION = "evaluation.json"
STATUS = "status.json"
CHECKPOINTS = "checkpoints"
BEST = "best"
TENSORBOARD = "tensorboard"
_LOCK = ".lock"
_README = """\
# A training run of trpo_jax

| file | what it is |
|---|---|
| config.json | environment, settings, seeds, versions and the command that started the run |
| metrics.jsonl | one line per update and seed: all metrics of docs/metrics.md; null: not finite |
| evaluations.jsonl | one line per evaluation during training: return per seed |
| evaluation.json | the evaluation at the end |
| status.json | running, finished, interrupted or failed; updates and steps done |
| checkpoints/ | whole training states by number of updates (orbax); `--resume` reads the last |
| best/ | the state with the highest mean return in an evaluation |
| tensorboard/ | the metrics for `tensorboard --logdir` |
| *.png, *.svg | pictures; overview.png is drawn at the end |

    trpo-jax evaluate {path}        play episodes with the trained policy
    trpo-jax plot {path}            draw the pictures again
    trpo-jax doctor {path}          say what went wrong, if anything
    trpo-jax render {path}          watch an episode
    trpo-jax train --resume {path}  go on, bit for bit
"""


class RunSpec(NamedTuple):
    """Everything that determines the numbers of a run."""

    env_id: str
    env_kwargs: dict[str, Any]
    config: TRPOConfig
    hparams: HParams
    seed: int
    num_seeds: int

    @property
    def seeds(self) -> list[int]:
        """Lane i of a vmapped run is the run with seed `seed + i`."""
        return list(range(self.seed, self.seed + self.num_seeds))


class RunOptions(NamedTuple):
    """What surrounds the training and changes no number of it."""

    checkpoint_every: int | None = None
    """Updates between checkpoints; None: about every ten seconds."""
    keep: int = 3
    """Checkpoints that are kept, the newest ones."""
    eval_every: int | None = None
    """Updates between evaluations; 0: none; None: as many as cost little, ten at most."""
    eval_episodes: int = 128
    """Episodes per seed of the evaluation at the end."""
    tensorboard: bool = True
    """Write TensorBoard events besides metrics.jsonl."""
    wandb: str | None = None
    """Project of Weights & Biases to log to."""


_DEFAULT_OPTIONS = RunOptions()


class Run(NamedTuple):
    """A run directory that was read."""

    path: Path
    spec: RunSpec
    total_steps: int
    """Environment steps per seed that were asked for."""
    versions: dict[str, str]
    """Of trpo_jax and what it stands on, when the run began."""
    options: RunOptions
    """Checkpoints, evaluations, logs."""

    def histories(self) -> list[dict[str, np.ndarray]]:
        """The metrics so far, per seed: name -> array [updates, ...]; NaN where a value was not
        finite. Besides the fields of `UpdateMetrics` there are `update`, `steps` and `alarm_…`."""
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
    """running, finished, interrupted, failed, or killed: ended without a word."""


def default_directory(env_id: str) -> Path:
    """runs/ENV-DATE-TIME."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    return Path("runs") / f"{env_id.replace('/', '-')}-{stamp}"


def create_directory(path: Path) -> Path:
    """Make a new, empty directory. Raises `ValueError` if it cannot be made or is not empty."""
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"out={path} exists and is not an empty directory; choose another one")
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"out={path} cannot be written: {error.strerror}") from None
    return path


def write_run(
    path: Path, spec: RunSpec, total_steps: int, options: RunOptions = _DEFAULT_OPTIONS
) -> Run:
    """Write config.json and the README of a run that begins, or that is to go on for longer."""
    run = Run(path, spec, total_steps, current_versions(), options)
    content = {
        **spec._asdict(),
        "config": vars(spec.config),
        "hparams": vars(spec.hparams),
        "total_steps": total_steps,
        "options": options._asdict(),
        "versions": run.versions,
        "devices": [str(device) for device in jax.devices()],
        "command": sys.argv,
    }
    write_text(path / CONFIG, json.dumps(content, indent=2) + "\n")
    write_text(path / "README.md", _README.format(path=path))
    return run


def load_run(path: Path) -> Run:
    """Read a run directory. Raises `ValueError` if there is none, or not a readable one."""
    if not path.is_dir():
        raise ValueError(f"run={path} does not exist; `trpo-jax runs` lists the runs there are")
    if not (path / CONFIG).is_file():
        raise ValueError(f"run={path} is not a run: it has no {CONFIG}")
    try:
        content = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        spec = RunSpec(
            env_id=content["env_id"],
            env_kwargs=content["env_kwargs"],
            config=config_from_json(content["config"]),
            hparams=HParams(**content["hparams"]),
            seed=content["seed"],
            num_seeds=content["num_seeds"],
        )
        options = RunOptions(**content["options"])
        return Run(path, spec, content["total_steps"], content["versions"], options)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"run={path}: {CONFIG} cannot be read ({type(error).__name__}: {error}); it is damaged "
            "or was written by another version of trpo_jax"
        ) from None


def list_runs(root: Path) -> list[RunStatus]:
    """All runs below a directory, the oldest first."""
    if not root.is_dir():
        raise ValueError(f"dir={root} is not a directory")
    configs = sorted(root.rglob(CONFIG), key=lambda file: file.stat().st_mtime)
    return [read_status(load_run(file.parent)) for file in configs if _is_run(file.parent)]


def read_status(run: Run) -> RunStatus:
    """Where a run stands."""
    file = run.path / STATUS
    status = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    phase = status.get("status", "running")
    if phase == "running" and not is_locked(run.path):
        phase = "killed"
    histories = run.histories()
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


def write_status(path: Path, status: str, updates: int, batch_size: int, reason: str = "") -> None:
    """Replace status.json."""
    content = {"status": status, "updates": updates, "steps": updates * batch_size}
    if reason:
        content["reason"] = reason
    write_text(path / STATUS, json.dumps(content) + "\n")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run directory for this process; the lock goes with the process, however it ends."""
    with (path / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"run={path} is in use by another process; wait until it ends"
            ) from None
        yield


def is_locked(path: Path) -> bool:
    """Whether a process trains in this directory now."""
    if not (path / _LOCK).is_file():
        return False
    with (path / _LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; a last line that was torn by a kill is left out."""
    if not file.is_file():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        raise ValueError(f"{file} is damaged: a line is not JSON") from None


def read_histories(file: Path, seeds: list[int]) -> list[dict[str, np.ndarray]]:
    """Metrics per seed: name -> array [updates, ...]; null becomes NaN."""
    records = read_lines(file)
    by_seed = {seed: [r for r in records if r["seed"] == seed] for seed in seeds}
    return [
        {name: _column([record[name] for record in rows]) for name in (rows[0] if rows else ())}
        for rows in by_seed.values()
    ]


def write_text(file: Path, text: str) -> None:
    """Replace a file in one step: the old content or the new one, never half of it."""
    temporary = file.with_name(f".{file.name}.new")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)


def current_versions() -> dict[str, str]:
    """Of everything that decides whether a run continues bit for bit."""
    packages = ("trpo_jax", "jax", "jaxlib", "flax", "optax", "gymnax", "brax")
    versions = {name: importlib.metadata.version(name.replace("_", "-")) for name in packages}
    return {**versions, "python": platform.python_version()}


def _column(values: list[Any]) -> np.ndarray:
    if any(isinstance(value, list) for value in values):
        return np.array([_column(value) for value in values])
    if all(isinstance(value, bool) for value in values):
        return np.array(values, dtype=bool)
    return np.array([np.nan if value is None else value for value in values])


def config_from_json(content: dict[str, Any]) -> TRPOConfig:
    """A configuration as it was written; JSON knows no tuples."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return TRPOConfig(**settings)


def _is_run(path: Path) -> bool:
    try:
        load_run(path)
    except ValueError:
        return False
    return True
