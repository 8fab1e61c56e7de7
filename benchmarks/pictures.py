"""What the pictures of the reports share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def panels(count: int, width: float = 3.4, height: float = 3.0, per_row: int = 4):
    """A figure with so many panels; returns it and the axes as a flat list."""
    columns = min(count, per_row)
    rows = -(-count // columns)
    size = max(5.0, width * columns), height * rows + 0.5
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for unused in axes.ravel()[count:]:
        unused.axis("off")
    return figure, list(axes.ravel()[:count])


def bars(axis, labels: Sequence[str], series: Mapping[str, Sequence[float]], **settings) -> list:
    """Horizontal bars, one group a label, the first above; returns them by series, to be labelled.

    `settings` are those of the axis.
    """
    height, places = 0.8 / len(series), np.arange(len(labels))
    drawn = [
        axis.barh(places + (i - (len(series) - 1) / 2) * height, values, 0.95 * height, label=name)
        for i, (name, values) in enumerate(series.items())
    ]
    axis.set(yticks=places, yticklabels=labels, **settings)
    axis.axvline(1, color="black", linewidth=1)
    axis.invert_yaxis()
    if len(series) > 1:
        axis.legend(fontsize="small")
    return drawn


def save(figure, path: Path, title: str | None = None) -> str:
    """Write a picture; returns how a report shows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return f"![{title or path.stem}]({path.name})"
