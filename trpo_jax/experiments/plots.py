"""Pictures of runs: what a trust region does, update by update."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trpo_jax.experiments.run_directory import Run
from trpo_jax.learner.batch import OFF_POLICY_GAP
from trpo_jax.learner.monitoring import INACTIVE_UNITS

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette: told apart by the colour-blind too."""
_LINE_STYLES = ("-", "--", "-.", ":")
_SMOOTHED_UPDATES = 20
"""A curve of more than so many updates is also drawn as a moving average over a twentieth."""
_RESAMPLES = 400
_OVERVIEW_SIZE = (15.0, 15.5)
_PICTURE_SIZE = (8.0, 5.0)
_DOTS_PER_INCH = 110


class Curves(NamedTuple):
    """One run, as the pictures need it."""

    label: str
    color: str
    style: Any
    run: Run
    histories: list[dict[str, np.ndarray]]
    """One per seed; runs without an update have none."""

    @property
    def steps(self) -> np.ndarray:
        """[updates]: environment steps by the end of each update."""
        return self.stack("steps")[0]

    def stack(self, name: str) -> np.ndarray:
        """[seeds, updates, ...]: a metric; updates that some seed lacks are left out."""
        columns = [history[name] for history in self.histories]
        shortest = min(len(column) for column in columns)
        return np.stack([column[:shortest] for column in columns]).astype(float)


class Topic(NamedTuple):
    """One panel of the overview, and one picture of its own."""

    name: str
    title: str
    draw: Callable[[Any, list[Curves]], None]


def plot_runs(
    runs: Sequence[Run], directory: Path, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Draw every topic as a picture of its own, and all of them as `overview`; returns the files.

    Several runs share each picture; a legend says what differs between them.
    """
    curves = _curves(runs)
    files = []
    for topic in TOPICS:
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
            style=_LINE_STYLES[i // len(COLORS) % len(_LINE_STYLES)],
            run=run,
            histories=histories,
        )
        for i, ((run, histories), label) in enumerate(zip(read, _labels(runs), strict=True))
    ]


def _labels(runs: Sequence[Run]) -> list[str]:
    """What differs between runs: settings if they tell them apart, else the directories."""
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
    """All topics. The margins are given: to measure them costs half of the drawing."""
    figure = new_figure(_OVERVIEW_SIZE)
    legend_rows = -(-len(curves) // 2) if len(curves) > 1 else 0
    bottom = 0.04 + 0.017 * legend_rows
    axes = figure.subplots(
        4,
        3,
        gridspec_kw=dict(left=0.06, right=0.985, bottom=bottom, top=0.94, wspace=0.27, hspace=0.36),
    )
    for ax, topic in zip(axes.flat, TOPICS, strict=True):
        _draw(topic, ax, curves)
        ax.set_title(topic.title, fontsize=11)
    figure.suptitle(_heading(curves), fontsize=13, y=0.988)
    figure.text(0.5, 0.963, _note(curves), fontsize=9, color="0.35", ha="center")
    _legend(figure, curves, loc="lower center")
    return figure


def _heading(curves: list[Curves]) -> str:
    """The environments, and how many seeds if there is one run; else the legend says that."""
    names = " · ".join(dict.fromkeys(each.run.spec.env_id for each in curves))
    return f"{names}, {_seeds(curves[0])}" if len(curves) == 1 else names


def _seeds(curves: Curves) -> str:
    number = len(curves.histories)
    return "1 seed" if number == 1 else f"{number} seeds"


def _note(curves: list[Curves]) -> str:
    """What lines and bands mean."""
    parts = []
    if any(len(each.histories) > 1 for each in curves):
        parts.append("line: mean over seeds, band: its 95 % bootstrap interval")
    windows = [_smoothing_window(len(each.steps)) for each in curves]
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
    """Which colour is which run, if there are several."""
    from matplotlib.lines import Line2D

    if len(curves) > 1:
        handles = [Line2D([], [], color=each.color, linestyle=each.style) for each in curves]
        labels = [f"{each.label} ({_seeds(each)})" for each in curves]
        figure.legend(handles, labels, loc=loc, ncols=2, fontsize=9, frameon=False)


def _line(ax: Any, curves: Curves, values: np.ndarray, **style: Any) -> None:
    """Mean over seeds of values [seeds, updates], with the bootstrap interval of the mean.

    Long curves are drawn thin, and their moving average on top.
    """
    style = {"color": curves.color, "linestyle": curves.style, **style}
    with _no_warnings():
        mean = np.nanmean(values, axis=0)
        if len(values) > 1:
            low, high = _bootstrap_interval(values)
            ax.fill_between(curves.steps, low, high, color=style["color"], alpha=0.18, linewidth=0)
    if np.isfinite(mean).sum() == 1:
        style |= {"marker": "o", "fillstyle": "none" if style["linestyle"] == ":" else "full"}
    window = _smoothing_window(len(mean))
    if window == 1:
        ax.plot(curves.steps, mean, linewidth=1.4, **style)
        return
    label = style.pop("label", None)
    ax.plot(curves.steps, mean, linewidth=0.7, alpha=0.35, **style)
    smooth = _moving_average(mean, window)
    ax.plot(curves.steps, smooth, linewidth=1.6, label=label, **style)


def _bootstrap_interval(values: np.ndarray) -> np.ndarray:
    """95 % percentile bootstrap interval of the mean of values [seeds, updates]: [2, updates].

    NaN where a seed has no value.
    """
    number = len(values)
    drawn = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), _RESAMPLES)
    return np.percentile(drawn @ values / number, (2.5, 97.5), axis=0)


def _pair(ax: Any, curves: list[Curves], solid: tuple[str, str], dotted: tuple[str, str]) -> None:
    """Two metrics per run, each a pair of name and label: the second one dotted."""
    for (name, label), linestyle in ((dotted, ":"), (solid, "-")):
        for each in curves:
            _line(ax, each, each.stack(name), linestyle=linestyle)
        _explain_style(ax, curves, linestyle, label)


def _explain_style(ax: Any, curves: list[Curves], linestyle: str, label: str) -> None:
    """An entry of the legend for a line style, which all runs share."""
    color = curves[0].color if len(curves) == 1 else "0.3"
    ax.plot([], [], color=color, linestyle=linestyle, label=label)


def _smoothing_window(num_updates: int) -> int:
    """Updates in the moving average: a twentieth, an odd number; 1 if there are too few."""
    return 2 * max(1, num_updates // 40) + 1 if num_updates > _SMOOTHED_UPDATES else 1


def _moving_average(mean: np.ndarray, window: int) -> np.ndarray:
    """Centred average of the finite values within the window, which is cut off at the ends."""
    finite = np.isfinite(mean)
    total = np.convolve(np.where(finite, mean, 0), np.ones(window), "same")
    count = np.convolve(finite, np.ones(window), "same")
    return np.where(count > 0.5, total, np.nan) / np.maximum(count, 1)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """A column of NaN is a gap in a curve, not a reason to warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def _returns(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        label = "training" if len(curves) == 1 else None
        _line(ax, each, each.stack("episode_return"), label=label)
        evaluations = each.run.evaluations()
        if evaluations:
            label = "evaluation, deterministic policy" if each is curves[0] else None
            steps = [line["steps"] for line in evaluations]
            means = [line["mean"] for line in evaluations]
            ax.plot(steps, means, "D", color=each.color, markersize=5, label=label)
    ax.set_ylabel("mean episode return")


def _kl(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(ax, each, each.stack("kl"))
    first_with = {float(each.run.spec.hparams.max_kl): each for each in reversed(curves)}
    for bound, each in sorted(first_with.items()):
        color = each.color if len(first_with) > 1 else "black"
        ax.axhline(bound, color=color, linestyle=":", linewidth=1.2, label=f"δ = {bound:g}")
    ax.set_ylabel("mean KL(old‖new), nats")
    ax.set_ylim(bottom=0)


def _improvement(ax: Any, curves: list[Curves]) -> None:
    _pair(ax, curves, ("improvement", "actual"), ("predicted_improvement", "predicted, gᵀΔθ"))
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_ylabel("gain of the surrogate")


def _residuals(ax: Any, curves: list[Curves]) -> None:
    """Relative residual after some iterations of one run, or after the last of each run."""
    for each in curves:
        norms = each.stack("cg_residual_norms")
        relative = norms / np.where(norms[..., :1] > 0, norms[..., :1], np.nan)
        last = relative.shape[-1] - 1
        shown = (*(k for k in (1, 2, 5, 10, 20) if k < last), last) if len(curves) == 1 else (last,)
        for k, shade in zip(shown, np.linspace(1, 0.35, len(shown))[::-1], strict=True):
            label = f"iteration {k}" if len(curves) == 1 else None
            _line(ax, each, relative[..., k], color=_lighter(each.color, shade), label=label)
    ax.set_yscale("log")
    where = "" if len(curves) == 1 else " after the last iteration"
    ax.set_ylabel(f"residual ‖r‖ / ‖g‖{where}")


def _lighter(color: str, share: float) -> tuple[float, ...]:
    """A colour mixed with white, of which it keeps a share."""
    from matplotlib.colors import to_rgb

    return tuple(1 - share * (1 - part) for part in to_rgb(color))


def _entropy(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(ax, each, each.stack("entropy"))
    ax.set_ylabel("entropy, nats")


def _explained_variance(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(ax, each, np.maximum(each.stack("explained_variance"), -1))
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_ylim(-1.05, 1.05)
    ax.set_ylabel("explained variance (cut at −1)")


def _value_loss(ax: Any, curves: list[Curves]) -> None:
    _pair(ax, curves, ("value_loss", "after the fit"), ("value_loss_before", "before the fit"))
    if any((each.stack("value_loss") > 0).any() for each in curves):
        ax.set_yscale("log")
    ax.set_ylabel("mean squared error")


def _step_fraction(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        fraction, rejected = each.stack("step_fraction"), each.stack("accepted") == 0
        _line(ax, each, fraction)
        at = each.steps[rejected.any(axis=0)]
        style = {"color": each.color, "linestyle": "", "marker": "x", "markersize": 5}
        label = f"rejected: {rejected.mean():.1%} of updates"
        ax.plot(at, np.full(at.size, 0.02), label=label, **style)
    ax.set_ylim(0, 1.05)
    ax.set_ylabel("share of the full step (0: rejected)")


def _inactive_units(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        shares = each.stack("inactive_units")
        for layer in range(shares.shape[-1]):
            style = _LINE_STYLES[layer % len(_LINE_STYLES)]
            _line(ax, each, shares[..., layer], linestyle=style)
    for layer in range(max(each.stack("inactive_units").shape[-1] for each in curves)):
        _explain_style(ax, curves, _LINE_STYLES[layer % len(_LINE_STYLES)], f"layer {layer + 1}")
    ax.axhline(INACTIVE_UNITS, color="black", linewidth=0.8, label="alarm")
    ax.set_ylim(-0.02, 1.02)
    ax.set_ylabel("dead or saturated, share of units")


def _advantages(ax: Any, curves: list[Curves]) -> None:
    _pair(ax, curves, ("advantage_std", "standard deviation"), ("advantage_mean", "mean"))
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_ylabel("raw advantages")


def _lengths(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(ax, each, each.stack("episode_length"))
    ax.set_ylim(bottom=0)
    ax.set_ylabel("mean episode length, steps")


def _on_policy_gap(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(ax, each, np.maximum(each.stack("on_policy_gap"), 1e-9))
        refused = each.stack("alarm_off_policy") > 0
        if refused.any():
            at = each.steps[refused.any(axis=0)]
            label = f"refused: {refused.mean():.1%} of updates"
            ax.plot(at, np.full(at.size, 1e-9), "x", color=each.color, markersize=5, label=label)
    ax.axhline(OFF_POLICY_GAP, color="black", linewidth=0.8, label="refused above")
    ax.set_yscale("log")
    ax.set_ylabel("largest relative gap of log π (≥ 1e-9)")


TOPICS = (
    Topic("return", "Learning curve", _returns),
    Topic("kl", "KL of the step against its bound", _kl),
    Topic("improvement", "Improvement, predicted and actual", _improvement),
    Topic("cg_residual", "Conjugate gradients", _residuals),
    Topic("step_fraction", "Line search", _step_fraction),
    Topic("entropy", "Entropy", _entropy),
    Topic("explained_variance", "Critic before its fit", _explained_variance),
    Topic("value_loss", "Critic's loss", _value_loss),
    Topic("advantages", "Advantages before normalisation", _advantages),
    Topic("inactive_units", "Inactive units of the policy", _inactive_units),
    Topic("episode_length", "Episodes", _lengths),
    Topic("on_policy_gap", "Is the data of this policy?", _on_policy_gap),
)


def new_figure(size: tuple[float, float], constrained: bool = False) -> Any:
    """A figure without pyplot, which would keep it and pick a window system."""
    from matplotlib.figure import Figure

    layout: Any = "constrained" if constrained else None
    return Figure(figsize=size, layout=layout, dpi=_DOTS_PER_INCH)


def save_figure(figure: Any, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write a figure in several formats; returns the files."""
    files = [stem.with_suffix(f".{extension}") for extension in formats]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            figure.savefig(file)
    except OSError as error:
        raise ValueError(f"{error.filename or stem} cannot be written: {error.strerror}") from None
    return files


def short_number(value: float, _: int) -> str:
    """50 k, 1.5 M."""
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
