"""Plots of a sweep: heat map, sensitivity, learning curves of the best settings."""

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
from trpo_jax.experiments.loggers import to_columns
from trpo_jax.experiments.sweep.result import SweepResult
from trpo_jax.experiments.sweep.settings import show

_NUM_CURVES = 5
_LOG_RATIO = 5.0
"""Axes whose values span more than this ratio are logarithmic."""
_DROPPED = "one run, dropped by halving"


def plot_sweep(result: SweepResult, title: str, directory: Path) -> list[Path]:
    """Draw the learning curves of the best settings and a sensitivity curve per axis; for two axes
    also a heat map of their product, or a scatter plot of random settings; for several limits of
    the cost also return against cost."""
    axes = result.varied()
    figures = {"best_curves": _learning_curves(result, title)}
    for name, values in axes.items():
        figures[f"sensitivity_{name}"] = _sensitivity(result, name, values, title)
    if len(axes) == 2:
        is_product = np.prod([len(values) for values in axes.values()]) == len(result.settings)
        figures["heat_map"] = (_heat_map if is_product else _scatter)(result, axes, title)
    if result.has_costs and "cost_limit" in axes:
        figures["trade_off"] = _trade_off(result, axes["cost_limit"], title)
    files = []
    for name, figure in figures.items():
        files += save_figure(figure, directory / name, ("png", "svg"))
    return files


def _learning_curves(result: SweepResult, title: str) -> Any:
    figure = new_figure((8.0, 5.0), constrained=True)
    ax = figure.add_subplot()
    names = list(result.varied()) or list(result.settings[0])
    for color, row in zip(COLORS, result.table()[:_NUM_CURVES], strict=False):
        returns = to_columns(result.history_of(row.number))["episode_return"].astype(float)
        steps = row.steps // row.updates * np.arange(1, row.updates + 1)
        label = ", ".join(f"{name} {show(row.setting[name])}" for name in names)
        draw_line(ax, steps, returns, color=color, label=label or None)
    ax.set_xlabel("environment steps")
    ax.xaxis.set_major_formatter(short_number)
    ax.set_ylabel("mean episode return in training")
    band = ", band: its 95 % bootstrap interval" if len(result.seeds) > 1 else ""
    ax.set_title(f"{title}: the best settings\nmean over {_seeds(result)}{band}")
    ax.grid(alpha=0.25)
    if names:
        ax.legend(frameon=False, fontsize=8)
    return figure


def _sensitivity(result: SweepResult, name: str, values: list[Any], title: str) -> Any:
    """Return against one setting: every run, and the mean per value."""
    figure = new_figure((7.0, 4.5), constrained=True)
    ax = figure.add_subplot()
    place = _places(ax, values)
    at = np.repeat([place[setting[name]] for setting in result.settings], len(result.seeds))
    whole = np.repeat(_shares(result) == 1, len(result.seeds))
    ax.plot(at[whole], result.returns[whole], "o", color=COLORS[0], alpha=0.35, label="one run")
    if not whole.all():
        ax.plot(at[~whole], result.returns[~whole], "x", color="0.6", label=_DROPPED)
    if len(values) < len(result.returns):
        means = [_mean(result.returns[whole & (at == place[value])]) for value in values]
        ax.plot(list(place.values()), means, "D-", color=COLORS[1], label="mean")
    ax.set_xlabel(name)
    ax.set_ylabel("evaluation return")
    ax.set_title(f"{title}: sensitivity to {name}")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return figure


def _trade_off(result: SweepResult, limits: list[float], title: str) -> Any:
    """Return against cost, for each limit of the cost: every run, and the mean per limit."""
    assert result.costs is not None
    figure = new_figure((7.0, 5.0), constrained=True)
    ax = figure.add_subplot()
    limit_of = np.repeat([each["cost_limit"] for each in result.settings], len(result.seeds))
    means = []
    for number, limit in enumerate(limits):
        color, chosen = COLORS[number % len(COLORS)], limit_of == limit
        ax.axvline(limit, color=color, linestyle=":", linewidth=1)
        ax.plot(result.costs[chosen], result.returns[chosen], "o", color=color, alpha=0.35)
        means.append((_mean(result.costs[chosen]), _mean(result.returns[chosen])))
        ax.plot(*means[-1], "D", color=color, markersize=8, label=f"limit {show(limit)}")
    ax.plot(*np.transpose(means), color="0.6", linewidth=1, zorder=0)
    ax.set_xlabel("evaluation cost per episode (dotted: the limits)")
    ax.set_ylabel("evaluation return")
    ax.set_title(f"{title}: return against cost\nsmall: one run, large: mean over {_seeds(result)}")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return figure


def _places(ax: Any, values: list[Any]) -> dict[Any, float]:
    """Positions of a setting's values: numbers at their value, others evenly spaced."""
    if not all(isinstance(value, int | float) for value in values):
        ax.set_xticks(range(len(values)), [show(value) for value in values])
        return {value: i for i, value in enumerate(values)}
    if _is_wide(values):
        ax.set_xscale("log")
    return {value: value for value in values}


def _heat_map(result: SweepResult, axes: dict[str, list[Any]], title: str) -> Any:
    (vertical, rows), (horizontal, columns) = axes.items()
    table, shares = (np.full((len(rows), len(columns)), np.nan) for _ in range(2))
    for setting, mean, share in zip(result.settings, _means(result), _shares(result), strict=True):
        where = rows.index(setting[vertical]), columns.index(setting[horizontal])
        table[where], shares[where] = mean, share
    figure = new_figure((1.6 * len(columns) + 2.5, 0.9 * len(rows) + 2), constrained=True)
    ax = figure.add_subplot()
    ax.set_facecolor("0.85")
    trained = np.where(shares == 1, table, np.nan)
    image = ax.imshow(trained, cmap="viridis", aspect="auto", origin="lower")
    middle = (np.nanmax(trained) + np.nanmin(trained)) / 2
    for (i, j), mean in np.ndenumerate(table):
        color = "white" if trained[i, j] < middle else "black"
        text = f"{mean:.4g}" if shares[i, j] == 1 else f"{mean:.4g}\nafter {shares[i, j]:.0%}"
        ax.text(j, i, text, ha="center", va="center", color=color)
    ax.set_xticks(range(len(columns)), [show(value) for value in columns])
    ax.set_yticks(range(len(rows)), [show(value) for value in rows])
    return _finish_map(figure, ax, image, result, axes, title)


def _scatter(result: SweepResult, axes: dict[str, list[Any]], title: str) -> Any:
    """A scatter plot of settings that do not form a product."""
    figure = new_figure((7.0, 5.0), constrained=True)
    ax = figure.add_subplot()
    (vertical, rows), (horizontal, columns) = axes.items()
    if _is_wide(columns):
        ax.set_xscale("log")
    if _is_wide(rows):
        ax.set_yscale("log")
    points = np.array([(each[horizontal], each[vertical]) for each in result.settings])
    whole, means = _shares(result) == 1, _means(result)
    image = ax.scatter(*points[whole].T, c=means[whole], s=80, edgecolor="0.3")
    if not whole.all():
        ax.plot(*points[~whole].T, "x", color="0.6", label=_DROPPED)
        ax.legend(frameon=False)
    ax.grid(alpha=0.25)
    return _finish_map(figure, ax, image, result, axes, title)


def _finish_map(figure: Any, ax: Any, image: Any, result: Any, axes: Any, title: str) -> Any:
    vertical, horizontal = axes
    ax.set_xlabel(horizontal)
    ax.set_ylabel(vertical)
    ax.set_title(f"{title}: mean of {_seeds(result)}")
    figure.colorbar(image, ax=ax, label="evaluation return")
    return figure


def _means(result: SweepResult) -> np.ndarray:
    """[settings]: mean evaluation return over seeds."""
    return result.returns.reshape(-1, len(result.seeds)).mean(axis=1)


def _shares(result: SweepResult) -> np.ndarray:
    """[settings]: fraction of the training that was done; below 1 if halving dropped it."""
    return np.array([result.share(number) for number in range(len(result.settings))])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _seeds(result: SweepResult) -> str:
    return "1 seed" if len(result.seeds) == 1 else f"{len(result.seeds)} seeds"


def _is_wide(values: list[Any]) -> bool:
    return min(values) > 0 and max(values) / min(values) > _LOG_RATIO
