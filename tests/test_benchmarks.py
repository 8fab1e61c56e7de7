"""A miniature of every benchmark that no other test runs, from its command line to its table.

The others: test_baselines, test_claims, test_doctor, test_limit_benchmarks and test_peers.
"""

import importlib
import math
import sys
from pathlib import Path

import jax
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MINIATURES = [
    "devices --only collectives",
    "environments --name Catch-bsuite",
    "lanes solve --quick",
    "lanes train --quick",
    "lanes work --quick",
    "learning Catch-bsuite --num-seeds 2 --num-episodes 2 --total-steps 2048",
    "memory peak --quick",
    "memory time --quick",
    "precision residuals --quick",
    "precision time --quick",
    "preconditioner --quick",
    "runner --quick",
    "speed --quick",
    "sweep --quick",
]


@pytest.mark.parametrize("words", MINIATURES)
def test_miniature(words, tmp_path, monkeypatch):
    name, *arguments = words.split()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    out = tmp_path / f"{name}.md"
    monkeypatch.setattr(
        sys, "argv", [str(BENCHMARKS / f"{name}.py"), *arguments, "--out", str(out)]
    )
    cache = jax.config.jax_compilation_cache_dir
    try:
        code = importlib.import_module(name).main()
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)
    assert not code
    text = out.read_text()
    assert f"{name}.py" in text
    assert "- hardware:" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [cell.strip() for row in rows for cell in row.strip("|").split("|")]
    numbers = [number for cell in cells if (number := _number(cell)) is not None]
    assert len(rows) >= 3, "a header, a rule and a row"
    assert numbers
    assert sum(map(math.isfinite, numbers)) >= len(numbers) - 1


def _number(cell: str) -> float | None:
    try:
        return float(cell.rstrip("%").replace(",", ""))
    except ValueError:
        return None
