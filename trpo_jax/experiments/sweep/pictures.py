"""Pictures of a sweep: heat map, sensitivity, learning curves of the best."""

from pathlib import Path
from typing import Any

import numpy as np

from trpo_jax.experiments.figures import (
    COLORS,
    draw_line,
    new_figure,
    save_figure,
    short_number,
)
from trpo_jax.experiments.sweep.result import SweepResult

_NUM_CURVES = 5
_LOG_RATIO = 5.0
"""Axes whose values span more than this ratio are logarithmic."""


def plot_sweep(result: SweepResult, title: str, batch_size: int, directory: Path) -> list[Path]:
    """Draw a sensitivity curve per axis, a heat map for two axes, and the best learning curves."""
    names = [
        name
        for name in result.settings[0]
        if len({setting[name] for setting in result.settings}) > 1
    ]
    files = _learning_curves(result, title, batch_size, directory)
    for name in names:
        files += _sensitivity(result, name, title, directory)
    if len(names) == 2:
        files += _heat_map(result, names[0], names[1], title, directory)
    return files


def _learning_curves(
    result: SweepResult, title: str, batch_size: int, directory: Path
) -> list[Path]:
    figure = new_figure((8.0, 5.0))
    ax = figure.add_subplot()
    for color, row in zip(COLORS, result.table()[:_NUM_CURVES], strict=False):
        first = result.lane(row.number, result.seeds[0])
        lanes = slice(first, first + len(result.seeds))
        returns = np.asarray(result.history.episode_return)[lanes, : row.updates].astype(float)
        steps = batch_size * np.arange(1, row.updates + 1)
        label = ", ".join(f"{name} {value:g}" for name, value in row.setting.items())
        draw_line(ax, steps, returns, color=color, label=label)
    ax.set_xlabel("environment steps")
    ax.xaxis.set_major_formatter(short_number)
    ax.set_ylabel("mean episode return")
    ax.set_title(f"{title}: the best settings")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=8)
    return save_figure(figure, directory / "best_curves", ("png", "svg"))


def _sensitivity(result: SweepResult, name: str, title: str, directory: Path) -> list[Path]:
    """Return against one hyperparameter: every run, and the mean per value."""
    figure = new_figure((7.0, 4.5))
    ax = figure.add_subplot()
    values = np.repeat([setting[name] for setting in result.settings], len(result.seeds))
    ax.plot(values, result.returns, "o", color=COLORS[0], alpha=0.35, label="one run")
    distinct = np.unique(values)
    if len(distinct) < len(result.settings) or len(result.seeds) > 1:
        means = [result.returns[values == value].mean() for value in distinct]
        ax.plot(distinct, means, "D-", color=COLORS[1], label="mean")
    _scale(ax.set_xscale, distinct)
    ax.set_xlabel(name)
    ax.set_ylabel("evaluation return")
    ax.set_title(f"{title}: sensitivity to {name}")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return save_figure(figure, directory / f"sensitivity_{name}", ("png", "svg"))


def _heat_map(
    result: SweepResult, vertical: str, horizontal: str, title: str, directory: Path
) -> list[Path]:
    rows = np.unique([setting[vertical] for setting in result.settings])
    columns = np.unique([setting[horizontal] for setting in result.settings])
    means = result.returns.reshape(-1, len(result.seeds)).mean(axis=1)
    table = np.full((len(rows), len(columns)), np.nan)
    for setting, mean in zip(result.settings, means, strict=True):
        place = (
            np.searchsorted(rows, setting[vertical]),
            np.searchsorted(columns, setting[horizontal]),
        )
        table[place] = mean
    if np.isnan(table).any():
        return []
    figure = new_figure((1.6 * len(columns) + 2.5, 0.9 * len(rows) + 2))
    ax = figure.add_subplot()
    image = ax.imshow(table, cmap="viridis", aspect="auto", origin="lower")
    middle = (table.max() + table.min()) / 2
    for (i, j), mean in np.ndenumerate(table):
        color = "white" if mean < middle else "black"
        ax.text(j, i, f"{mean:.4g}", ha="center", va="center", color=color)
    ax.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    ax.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    ax.set_xlabel(horizontal)
    ax.set_ylabel(vertical)
    ax.set_title(f"{title}: mean return of {len(result.seeds)} seed(s)")
    figure.colorbar(image, ax=ax, label="evaluation return")
    return save_figure(figure, directory / "heat_map", ("png", "svg"))


def _scale(set_scale: Any, values: np.ndarray) -> None:
    if values.min() > 0 and values.max() / values.min() > _LOG_RATIO:
        set_scale("log")
