"""What a study hands back, and how it is written down."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import report

matplotlib.use("Agg")
import matplotlib.pyplot as plt


class Options(NamedTuple):
    """What the command line says."""

    out: Path
    """Where results go, and where the training runs lie in `runs/`."""
    quick: bool
    """A miniature that proves only that the study runs."""

    @property
    def runs(self) -> Path:
        """Directory of the shared training runs."""
        return self.out / "runs"


class Study(NamedTuple):
    """Evidence on one claim or on several."""

    name: str
    """Of the files, such as C8."""
    title: str
    text: str
    """How it was measured."""
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    draw: Callable[[], Any] | None = None
    """Makes the picture and returns the figure."""


def write(study: Study, options: Options) -> None:
    """`NAME.md` with table, picture, command, versions and hardware; `NAME.png`; `NAME.json`."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{study.name}.md"
    sections = [study.text, report.table(study.header, study.rows)]
    if study.draw is not None:
        figure = study.draw()
        figure.savefig(path.with_suffix(".png"), dpi=100)
        plt.close(figure)
        sections.insert(1, f"![{study.title}]({study.name}.png)")
    rows = [dict(zip(study.header, map(_plain, row), strict=True)) for row in study.rows]
    path.with_suffix(".json").write_text(json.dumps(rows, separators=(",", ":")) + "\n")
    report.write(path, study.title, *sections)
    print(report.table(study.header, study.rows))
    print(f"written: {os.path.relpath(path)}")


def panels(count: int, width: float = 3.4, height: float = 3.0, per_row: int = 4):
    """A figure with so many panels; returns it and the axes as a flat list."""
    columns = min(count, per_row)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(5.0, width * columns), height * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for unused in axes.ravel()[count:]:
        unused.axis("off")
    return figure, list(axes.ravel()[:count])


def _plain(cell: Any) -> Any:
    if isinstance(cell, np.generic):
        return cell.item()
    return cell if isinstance(cell, str | int | float | type(None)) else str(cell)
