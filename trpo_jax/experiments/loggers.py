"""Loggers for metrics: JSON lines, TensorBoard, Weights & Biases."""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trpo_jax.experiments.files import read_line, to_json
from trpo_jax.learner.monitoring import NO_EPISODE, UpdateMetrics
from trpo_jax.solver.line_search import UNTRIED

MEANS, LAST = "env_metrics/", "env_metrics_last/"
"""Prefixes of what the environment measured."""
COSTS = "episode_costs/"
"""Prefix of the costs by name, where there are several."""
ALARMS, CONSTRAINT = "alarm_", "constraint_"
"""Prefixes of the alarms, and of what a policy step did about its constraint."""

Record = dict[str, Any]
"""One update of one seed: metric -> number, bool, list of numbers, or None if not finite."""


class Logger(Protocol):
    """A destination for records."""

    def write(self, records: Sequence[Record]) -> None:
        """Write the records of some updates, in order."""

    def sync(self) -> None:
        """Return once all records are stored, so that a checkpoint can rely on them."""

    def close(self) -> None:
        """Finish."""


def to_columns(history: UpdateMetrics) -> dict[str, np.ndarray]:
    """A history as one flat mapping in NumPy; fields that are None are left out.

    Values that there are not, of candidates that were not tried and of means over no episode, are
    NaN here.
    Alarms become `alarm_…`; what the environment measured, `env_metrics/…` and
    `env_metrics_last/…`; costs by name, `episode_costs/…`; the constraint, `constraint_…`.
    """
    constraint = history.constraint
    groups = {
        ALARMS: vars(history.alarms),
        MEANS: history.env_metrics,
        LAST: history.env_metrics_last,
        COSTS: history.episode_costs,
        CONSTRAINT: {} if constraint is None else constraint._asdict(),
    }
    grouped = ("alarms", "env_metrics", "env_metrics_last", "episode_costs", "constraint")
    fields = {name: value for name, value in vars(history).items() if name not in grouped}
    for prefix, group in groups.items():
        fields |= {f"{prefix}{name}": value for name, value in group.items()}
    arrays = {name: np.asarray(value) for name, value in fields.items() if value is not None}
    return {name: _with_nan(name, values) for name, values in arrays.items()}


def _with_nan(name: str, values: np.ndarray) -> np.ndarray:
    missing = values == (UNTRIED if name == "candidate_kls" else NO_EPISODE)
    return np.where(missing, np.nan, values).astype(values.dtype) if missing.any() else values


def to_records(
    history: UpdateMetrics, first_update: int, batch_size: int, seeds: list[int]
) -> list[Record]:
    """A history [seeds, updates, ...] as one flat record per update and seed.

    Names as in `to_columns`; NaN and ±∞ become null. `update` counts from 1; `steps` is the number
    of environment steps done by the end of the update.
    """
    columns = to_columns(history)
    num_updates = columns["kl"].shape[1]
    return [
        {
            "update": first_update + i + 1,
            "steps": (first_update + i + 1) * batch_size,
            "seed": seed,
            **{name: _plain(values[lane, i]) for name, values in columns.items()},
        }
        for i in range(num_updates)
        for lane, seed in enumerate(seeds)
    ]


def _plain(value: np.ndarray) -> Any:
    if value.ndim:
        return [_plain(element) for element in value]
    number = value.item()
    return None if isinstance(number, float) and not math.isfinite(number) else number


class JsonLines:
    """One JSON object per line, flushed after every call."""

    def __init__(self, path: Path, last_update: int = 0):
        """Append to `path` after the records of `last_update`; cut off whatever follows them.

        After a kill, that may be an incomplete line, or updates after the last checkpoint, which
        will be repeated.
        """
        self._file = path.open("ab")
        self._file.truncate(_end_of_update(path, last_update))

    def write(self, records: Sequence[Record]) -> None:
        """Append the records, with null for NaN and ±∞."""
        lines = [to_json(record) + "\n" for record in records]
        self._file.write("".join(lines).encode())
        self._file.flush()

    def sync(self) -> None:
        """Wait until they are on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Event files, one directory per seed. Vectors become one curve per element."""

    def __init__(self, path: Path, seeds: Sequence[int], last_update: int = 0):
        """Write below `path`; events of updates after `last_update` are dropped."""
        # tensorboardX's SummaryWriter would hand each event to a thread of its own, through a queue
        # that costs more than writing it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._writers = {}
        for seed in seeds:
            directory = path / f"seed-{seed}"
            directory.mkdir(parents=True, exist_ok=True)
            self._writers[seed] = EventsWriter(str(directory / "events"), f".{last_update}")
            if last_update:
                start = SessionLog(status=SessionLog.START)
                event = Event(step=last_update + 1, session_log=start, wall_time=time.time())
                self._writers[seed].write_event(event)

    def write(self, records: Sequence[Record]) -> None:
        """Write one event per update with all metrics; the horizontal axis is updates."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        now = time.time()
        for record in records:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(record)]
            event = Event(step=record["update"], summary=Summary(value=values), wall_time=now)
            self._writers[record["seed"]].write_event(event)

    def sync(self) -> None:
        """Flush the buffers to the operating system."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """One Weights & Biases run per seed; needs the extra `wandb`."""

    def __init__(self, project: str, path: Path, seeds: Sequence[int], settings: Record):
        try:
            import wandb
        except ImportError:
            raise ValueError(
                f"wandb={project!r} needs the package wandb: pip install 'trpo-jax[wandb]'"
            ) from None
        name = path.resolve().name
        try:
            self._runs = {
                seed: wandb.init(
                    project=project,
                    dir=str(path),
                    group=name,
                    id=f"{name}-{seed}",
                    resume="allow",
                    config={**settings, "seed": seed},
                    reinit="create_new",
                )
                for seed in seeds
            }
        except wandb.Error as error:
            raise ValueError(f"wandb={project!r} cannot be used: {error}") from None

    def write(self, records: Sequence[Record]) -> None:
        """Log one step per update."""
        for record in records:
            self._runs[record["seed"]].log(dict(_scalars(record)), step=record["update"])

    def sync(self) -> None:
        """Do nothing: the package sends on its own."""

    def close(self) -> None:
        """Finish the runs."""
        for run in self._runs.values():
            run.finish()


def _scalars(record: Record) -> list[tuple[str, float]]:
    """The numbers of a record by tag: groups for alarms and metrics, vectors by element."""
    scalars = []
    for name, value in record.items():
        tag = f"alarms/{name[6:]}" if name.startswith("alarm_") else f"trpo/{name}"
        tag = name if name.startswith((MEANS, LAST, COSTS)) else tag
        if isinstance(value, list):
            scalars += [(f"{tag}/{i}", float(x)) for i, x in enumerate(value) if x is not None]
        elif value is not None and name not in ("update", "seed"):
            scalars.append((tag, float(value)))
    return scalars


def _end_of_update(path: Path, last_update: int) -> int:
    """Length in bytes of a metrics file up to the records of an update, inclusive."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            if read_line(path, number, line, "update")["update"] > last_update:
                break
            end += len(line)
    return end
