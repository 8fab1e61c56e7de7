"""Plots of runs: what the trust region does, update by update."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trpo_jax.experiments.figures import (
    COLORS,
    new_figure,
    save_figure,
    short_number,
    smoothing_window,
)
from trpo_jax.experiments.run_directory import Run
from trpo_jax.experiments.topics import LINE_STYLES, Curves, Topic, topics_of

_PANELS_PER_ROW = 3
_OVERVIEW_WIDTH, _ROW_HEIGHT = 15.0, 3.49
_LEGEND_ROW, _BOTTOM, _TOP = 0.26, 0.62, 0.93
_PICTURE_SIZE = (8.0, 5.0)


def plot_runs(
    runs: Sequence[Run], directory: Path, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Draw each topic as a plot of its own, and all together as `overview`; returns the files.

    Several runs share each plot; a legend says how they differ.
    """
    curves = _curves(runs)
    files = []
    for topic in topics_of(curves):
        files += save_figure(_picture(topic, curves), directory / topic.name, formats)
    return files + save_figure(_overview(curves), directory / "overview", formats)


def overview(run: Run) -> Path:
    """Draw overview.png into the run's directory."""
    (file,) = save_figure(_overview(_curves([run])), run.path / "overview", ("png",))
    return file


def _curves(runs: Sequence[Run]) -> list[Curves]:
    read = [(run, run.histories()) for run in runs]
    for run, histories in read:
        if not all(histories):
            raise ValueError(f"run={run.path} has no update yet; wait until it has one")
    return [
        Curves(
            label=label,
            color=COLORS[i % len(COLORS)],
            style=LINE_STYLES[i // len(COLORS) % len(LINE_STYLES)],
            run=run,
            histories=histories,
        )
        for i, ((run, histories), label) in enumerate(zip(read, _labels(runs), strict=True))
    ]


def _labels(runs: Sequence[Run]) -> list[str]:
    """Labels for runs: the settings that differ, or the directories if these do not suffice."""
    settings = [
        {"env": run.spec.env_id, **vars(run.spec.config), **vars(run.spec.hparams)} for run in runs
    ]
    differing = [name for name in settings[0] if len({str(each[name]) for each in settings}) > 1]
    labels = [", ".join(f"{name} {each[name]}" for name in differing[:3]) for each in settings]
    if len(set(labels)) == len(runs) and all(labels):
        return labels
    return [str(run.path) for run in runs]


def _picture(topic: Topic, curves: list[Curves]) -> Any:
    figure = new_figure(_PICTURE_SIZE, constrained=True)
    ax = figure.add_subplot()
    _draw(topic, ax, curves)
    figure.suptitle(f"{topic.title} · {_heading(curves)}", fontsize=12)
    ax.set_title(_note(curves), fontsize=8, color="0.35")
    _legend(figure, curves, loc="outside lower center")
    return figure


def _overview(curves: list[Curves]) -> Any:
    """All topics in one figure. Its margins are fixed: measuring them takes half the time."""
    topics = topics_of(curves)
    rows = -(-len(topics) // _PANELS_PER_ROW)
    legend_rows = -(-len(curves) // 2) if len(curves) > 1 else 0
    bottom = _BOTTOM + _LEGEND_ROW * legend_rows
    height = _BOTTOM + rows * _ROW_HEIGHT + _TOP
    figure = new_figure((_OVERVIEW_WIDTH, height))
    edges = dict(left=0.06, right=0.985, bottom=bottom / height, top=1 - _TOP / height)
    axes = figure.subplots(
        rows, _PANELS_PER_ROW, gridspec_kw=dict(**edges, wspace=0.27, hspace=0.36)
    )
    for ax, topic in zip(axes.flat, topics, strict=False):
        _draw(topic, ax, curves)
        ax.set_title(topic.title, fontsize=11)
    for ax in axes.flat[len(topics) :]:
        ax.remove()
    figure.suptitle(_heading(curves), fontsize=13, y=1 - 0.19 / height)
    figure.text(0.5, 1 - 0.57 / height, _note(curves), fontsize=9, color="0.35", ha="center")
    _legend(figure, curves, loc="lower center")
    return figure


def _heading(curves: list[Curves]) -> str:
    """The environments, and the number of seeds if there is one run; else the legend has it."""
    names = " · ".join(dict.fromkeys(each.run.spec.env_id for each in curves))
    return f"{names}, {_seeds(curves[0])}" if len(curves) == 1 else names


def _seeds(curves: Curves) -> str:
    number = len(curves.histories)
    return "1 seed" if number == 1 else f"{number} seeds"


def _note(curves: list[Curves]) -> str:
    """The meaning of lines and bands."""
    parts = []
    if any(len(each.histories) > 1 for each in curves):
        parts.append("line: mean over seeds, band: its 95 % bootstrap interval")
    windows = [smoothing_window(len(each.steps)) for each in curves]
    if max(windows) > 1:
        updates = f"{windows[0]} updates" if len(set(windows)) == 1 else "a twentieth of the run"
        parts.append(f"thin: every update, thick: moving average over {updates}")
    return "; ".join(parts)


def _draw(topic: Topic, ax: Any, curves: list[Curves]) -> None:
    topic.draw(ax, curves)
    ax.set_xlabel("environment steps")
    ax.xaxis.set_major_formatter(short_number)
    ax.set_xlim(0, 1.02 * max(each.steps[-1] for each in curves))
    ax.grid(alpha=0.25)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if not np.isfinite(ax.dataLim.height):
        ax.text(0.5, 0.5, "no value so far", transform=ax.transAxes, ha="center", color="0.35")
        ax.set_yticks([])
    elif ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, fontsize=8)


def _legend(figure: Any, curves: list[Curves], loc: str) -> None:
    """A legend of the runs' colours, if there are several."""
    from matplotlib.lines import Line2D

    if len(curves) > 1:
        handles = [Line2D([], [], color=each.color, linestyle=each.style) for each in curves]
        labels = [f"{each.label} ({_seeds(each)})" for each in curves]
        figure.legend(handles, labels, loc=loc, ncols=2, fontsize=9, frameon=False)
