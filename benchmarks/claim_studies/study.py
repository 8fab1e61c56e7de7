"""What a study hands back, and how it is written down."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pictures
import report


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
    rows: Sequence[Mapping[str, Any]]
    """{column: cell}."""
    draw: Callable[[], Any]
    """Makes the picture and returns the figure."""


def write(study: Study, options: Options) -> None:
    """`NAME.md` with table, picture, command, versions and hardware; `NAME.png`; `NAME.json`."""
    path, table = options.out / f"{study.name}.md", report.records(study.rows)
    picture = pictures.save(study.draw(), path.with_suffix(".png"), study.title)
    rows = [{column: _plain(cell) for column, cell in row.items()} for row in study.rows]
    path.with_suffix(".json").write_text(json.dumps(rows, separators=(",", ":")) + "\n")
    print(table)
    report.write(path, study.title, study.text, picture, table)


def _plain(cell: Any) -> Any:
    if isinstance(cell, np.generic):
        return cell.item()
    return cell if isinstance(cell, str | int | float | type(None)) else str(cell)
