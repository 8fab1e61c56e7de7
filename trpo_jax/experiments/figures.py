"""Shared by all plots: figures, files, and curves with bands."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can distinguish."""
_SMOOTHED_UPDATES = 20
"""Curves with more updates than this also get a moving average over a twentieth of them."""
_RESAMPLES = 400
_DOTS_PER_INCH = 110


def new_figure(size: tuple[float, float], constrained: bool = False) -> Any:
    """A figure made without pyplot, which would keep it alive and choose a window system."""
    from matplotlib.figure import Figure

    layout: Any = "constrained" if constrained else None
    return Figure(figsize=size, layout=layout, dpi=_DOTS_PER_INCH)


def save_figure(figure: Any, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write a figure in several formats; returns the files."""
    files = [stem.with_name(f"{stem.name}.{extension}") for extension in formats]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            figure.savefig(file)
    except OSError as error:
        raise ValueError(f"{error.filename or stem} cannot be written: {error.strerror}") from None
    return files


def draw_line(ax: Any, steps: np.ndarray, values: np.ndarray, **style: Any) -> None:
    """Mean over seeds of values [seeds, updates], with the bootstrap interval of the mean.

    Long curves are drawn thin, with their moving average on top.
    """
    with _no_warnings():
        mean = np.nanmean(values, axis=0)
        if len(values) > 1:
            low, high = bootstrap_interval(values)
            ax.fill_between(steps, low, high, color=style["color"], alpha=0.18, linewidth=0)
    if np.isfinite(mean).sum() == 1:
        style |= {"marker": "o", "fillstyle": "none" if style.get("linestyle") == ":" else "full"}
    window = smoothing_window(len(mean))
    if window == 1:
        ax.plot(steps, mean, linewidth=1.4, **style)
        return
    label = style.pop("label", None)
    ax.plot(steps, mean, linewidth=0.7, alpha=0.35, **style)
    smooth = moving_average(mean, window)
    ax.plot(steps, smooth, linewidth=1.6, label=label, **style)


def bootstrap_interval(values: np.ndarray) -> np.ndarray:
    """95 % percentile bootstrap interval of the mean of values [seeds, updates]: [2, updates].

    NaN where a seed has no value.
    """
    number = len(values)
    drawn = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), _RESAMPLES)
    return np.percentile(drawn @ values / number, (2.5, 97.5), axis=0)


def smoothing_window(num_updates: int) -> int:
    """Number of updates in the moving average: an odd twentieth, or 1 if there are too few."""
    return 2 * max(1, num_updates // 40) + 1 if num_updates > _SMOOTHED_UPDATES else 1


def moving_average(mean: np.ndarray, window: int) -> np.ndarray:
    """Centred average of the finite values in a window, which is shortened at the ends."""
    finite = np.isfinite(mean)
    total = np.convolve(np.where(finite, mean, 0), np.ones(window), "same")
    count = np.convolve(finite, np.ones(window), "same")
    return np.where(count > 0.5, total, np.nan) / np.maximum(count, 1)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Suppress warnings: a column of NaN is a gap in a curve."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def short_number(value: float, _: int) -> str:
    """A number such as 50 k or 1.5 M."""
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
