"""Pictures of runs: what a trust region does, update by update."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trpo_jax.experiments.run_directory import Run

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette: told apart by the colour-blind too."""
_LINE_STYLES = ("-", "--", "-.", ":")
_SMOOTHED_UPDATES = 20
"""A curve of more than so many updates is also drawn as a moving average over a twentieth."""
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
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for topic in TOPICS:
        figure = _figure(_PICTURE_SIZE)
        _draw(topic, figure.add_subplot(), curves, legend=True)
        files += _save(figure, directory / topic.name, formats)
    return files + _save(_overview(curves), directory / "overview", formats)


def overview(run: Run) -> Path:
    """Draw overview.png into the run's directory."""
    (file,) = _save(_overview(_curves([run])), run.path / "overview", ("png",))
    return file


def _curves(runs: Sequence[Run]) -> list[Curves]:
    read = [(run, run.histories()) for run in runs]
    for run, histories in read:
        if not all(histories):
            raise ValueError(f"run={run.path} has no update yet; wait until it has one")
    return [
        Curves(
            label=label,
            color=_COLORS[i % len(_COLORS)],
            style=_LINE_STYLES[i // len(_COLORS) % len(_LINE_STYLES)],
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


def _overview(curves: list[Curves]) -> Any:
    figure = _figure(_OVERVIEW_SIZE)
    axes = figure.subplots(4, 3)
    for ax, topic in zip(axes.flat, TOPICS, strict=True):
        _draw(topic, ax, curves, legend=False)
    names = " · ".join(dict.fromkeys(each.run.spec.env_id for each in curves))
    seeds = " · ".join(dict.fromkeys(_seeds(each) for each in curves))
    figure.suptitle(f"{names}, {seeds}; thick lines: moving average", fontsize=12)
    if len(curves) > 1:
        handles = [_legend_line(each) for each in curves]
        figure.legend(handles, [each.label for each in curves], loc="outside lower center", ncols=2)
    return figure


def _seeds(curves: Curves) -> str:
    number = len(curves.histories)
    return "1 seed" if number == 1 else f"{number} seeds (line: mean, band: lowest to highest)"


def _draw(topic: Topic, ax: Any, curves: list[Curves], legend: bool) -> None:
    topic.draw(ax, curves)
    ax.set_title(topic.title, fontsize=11)
    ax.set_xlabel("environment steps")
    ax.xaxis.set_major_formatter(_short_number)
    ax.set_xlim(left=0)
    ax.grid(alpha=0.25)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if legend and len(curves) > 1:
        handles = [_legend_line(each) for each in curves]
        ax.figure.legend(
            handles, [each.label for each in curves], loc="outside lower center", ncols=2
        )
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, fontsize=8)


def _legend_line(curves: Curves) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=curves.color, linestyle=curves.style)


def _line(ax: Any, curves: Curves, values: np.ndarray, **style: Any) -> None:
    """Mean over seeds of values [seeds, updates], with a band from the lowest to the highest.

    Long curves are drawn thin, and their moving average on top.
    """
    with _no_warnings():
        mean = np.nanmean(values, axis=0)
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    style = {"color": curves.color, "linestyle": curves.style, **style}
    marker = "o" if np.isfinite(mean).sum() == 1 else None
    if len(values) > 1:
        ax.fill_between(curves.steps, low, high, color=style["color"], alpha=0.18, linewidth=0)
    smooth = _moving_average(mean)
    if smooth is None:
        ax.plot(curves.steps, mean, linewidth=1.4, marker=marker, **style)
    else:
        label = style.pop("label", None)
        ax.plot(curves.steps, mean, linewidth=0.7, alpha=0.35, **style)
        ax.plot(curves.steps, smooth, linewidth=1.6, label=label, **style)


def _pair(ax: Any, curves: list[Curves], solid: tuple[str, str], dotted: tuple[str, str]) -> None:
    """Two metrics per run, each a pair of name and label: the second one dotted."""
    for each in curves:
        _line(ax, each, each.stack(dotted[0]), linestyle=":")
        _line(ax, each, each.stack(solid[0]), linestyle="-")
    for (_, label), linestyle in ((solid, "-"), (dotted, ":")):
        ax.plot([], [], color=curves[0].color, linestyle=linestyle, label=label)


def _moving_average(mean: np.ndarray) -> np.ndarray | None:
    """Centred average over a twentieth of the updates; None if there are too few of them."""
    if len(mean) <= _SMOOTHED_UPDATES:
        return None
    half = max(1, len(mean) // 40)
    with _no_warnings():
        return np.array([
            np.nanmean(mean[max(0, i - half) : i + half + 1]) for i in range(len(mean))
        ])  # fmt: skip


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """A column of NaN is a gap in a curve, not a reason to warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def _returns(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(
            ax, each, each.stack("episode_return"), label="training" if len(curves) == 1 else None
        )
        evaluations = each.run.evaluations()
        if evaluations:
            label = "evaluation, deterministic" if each is curves[0] else None
            steps = [line["steps"] for line in evaluations]
            means = [line["mean"] for line in evaluations]
            ax.plot(steps, means, "D", color=each.color, markersize=5, label=label)
    ax.set_ylabel("mean episode return")


def _kl(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        _line(ax, each, each.stack("kl"))
    for bound in dict.fromkeys(float(each.run.spec.hparams.max_kl) for each in curves):
        ax.axhline(bound, color="black", linestyle=":", linewidth=1, label=f"δ = {bound:g}")
    ax.set_ylabel("mean KL(old‖new), nats")
    ax.set_ylim(bottom=0)


def _improvement(ax: Any, curves: list[Curves]) -> None:
    _pair(ax, curves, ("improvement", "actual"), ("predicted_improvement", "predicted, gᵀΔθ"))
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_ylabel("gain of the surrogate")


def _residuals(ax: Any, curves: list[Curves]) -> None:
    """Relative residual after each iteration, averaged over early and late updates."""
    for each in curves:
        norms = each.stack("cg_residual_norms")
        with _no_warnings():
            relative = norms / np.where(norms[..., :1] > 0, norms[..., :1], np.nan)
            iterations = [k for k in (1, 2, 5, 10, 20, norms.shape[-1] - 1) if k < norms.shape[-1]]
        for shade, k in zip(
            np.linspace(0.25, 1, len(dict.fromkeys(iterations))), dict.fromkeys(iterations),
            strict=True,
        ):  # fmt: skip
            label = f"iteration {k}" if each is curves[0] else None
            with _no_warnings():
                mean = np.nanmean(np.maximum(relative[..., k], 1e-12), axis=0)
            smooth = _moving_average(mean)
            ax.plot(
                each.steps, mean if smooth is None else smooth,
                color=each.color, alpha=shade, linestyle=each.style, linewidth=1.3, label=label,
            )  # fmt: skip
    ax.set_yscale("log")
    ax.set_ylabel("residual ‖r‖ / ‖g‖")


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
        label = f"rejected: {rejected.mean():.1%} of updates" if len(curves) == 1 else None
        at = each.steps[rejected.any(axis=0)]
        style = {"color": each.color, "linestyle": "", "marker": "x", "markersize": 5}
        ax.plot(at, np.full(at.size, 0.02), label=label, **style)
    ax.set_ylim(0, 1.05)
    ax.set_ylabel("share of the full step")


def _inactive_units(ax: Any, curves: list[Curves]) -> None:
    for each in curves:
        shares = each.stack("inactive_units")
        for layer in range(shares.shape[-1]):
            label = f"layer {layer + 1}" if each is curves[0] else None
            style = _LINE_STYLES[layer % len(_LINE_STYLES)]
            _line(ax, each, shares[..., layer], linestyle=style, label=label)
    ax.axhline(0.1, color="black", linestyle=":", linewidth=1, label="alarm")
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("dead or saturated, share")


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
    ax.set_yscale("log")
    ax.set_ylabel("largest gap of log π")


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


def _figure(size: tuple[float, float]) -> Any:
    """A figure without pyplot, which would keep it and pick a window system."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained", dpi=_DOTS_PER_INCH)


def _save(figure: Any, stem: Path, formats: Sequence[str]) -> list[Path]:
    files = [stem.with_suffix(f".{extension}") for extension in formats]
    for file in files:
        try:
            figure.savefig(file)
        except OSError as error:
            raise ValueError(f"{file} cannot be written: {error.strerror}") from None
    return files


def _short_number(value: float, _: int) -> str:
    """50 k, 1.5 M."""
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
