"""Training progress on the terminal."""

import jax
import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from trpo_jax.learner.monitoring import UpdateMetrics

_LINES_WITHOUT_TERMINAL = 10


class ProgressDisplay:
    """A live progress bar with key figures; plain lines if there is no terminal."""

    def __init__(
        self, console: Console, num_updates: int, batch_size: int, num_seeds: int, done: int = 0
    ):
        self._console = console
        self._num_updates = num_updates
        self._steps_per_update = batch_size * num_seeds
        self._printed = done * _LINES_WITHOUT_TERMINAL // num_updates
        self._progress = Progress(
            TextColumn("updates"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=num_updates, completed=done)
        self._figures = Text("compiling …")
        self._live = Live(Group(self._progress, self._figures), console=console)

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        self._live.stop()

    def show(self, history: UpdateMetrics, updates_done: int, rate: float | None) -> None:
        """Show the last update of a history [seeds, updates, ...], averaged over seeds.

        `rate` is in updates per second; None until more than compilation was measured.
        """
        speed = f"{rate * self._steps_per_update:,.0f} steps/s" if rate else "compiled"
        last = jax.tree.map(lambda leaf: np.asarray(leaf)[:, -1], history)
        text = (
            f"return {_mean(last.episode_return)}  kl {_mean(last.kl, 4)}  "
            f"entropy {_mean(last.entropy)}  explained variance {_mean(last.explained_variance)}  "
            f"{speed}"
        )
        self._progress.update(self._task, completed=updates_done)
        self._figures.plain = text
        due = updates_done * _LINES_WITHOUT_TERMINAL // self._num_updates
        if not self._console.is_terminal and due > self._printed:
            self._printed = due
            line = f"update {updates_done}/{self._num_updates}  {text}"
            self._console.print(line, soft_wrap=True, highlight=False)


def _mean(values: np.ndarray, digits: int = 2) -> str:
    finite = values[np.isfinite(values)]
    return f"{finite.mean():.{digits}f}" if finite.size else "–"
