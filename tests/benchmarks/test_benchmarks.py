"""A miniature of every benchmark that no other test runs, from its command line to its table.

The others: test_baselines, test_claims, test_limit_benchmarks and test_peers.
"""

import importlib
import math
import sys
from pathlib import Path

import jax
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MINIATURES = [
    "constrained price --quick",
    "constrained train --quick --tasks Hopper --methods cpo --seeds 0",
    "devices --quick",
    "doctor --quick",
    "environments --quick --suite gymnax",
    "guard boundary --quick",
    "guard drift --quick",
    "guard training --quick",
    "host learning --quick",
    "host rollout --quick",
    "lanes solve --quick",
    "lanes train --quick",
    "lanes work --quick",
    "learning Catch-bsuite --quick",
    "lowered --quick",
    "memory peak --quick",
    "memory time --quick",
    "precision residuals --quick",
    "precision time --quick",
    "preconditioner --quick",
    "published --env envpool/Hopper-v4 --quick",
    "recurrence learn CartPole --quick",
    "recurrence price --quick",
    "products --quick",
    "roofline --quick",
    "runner --quick",
    "speed --quick",
    "sweep --quick",
    "value_fit time --quick --fits 0 1",
    "value_fit quality CartPole-v1 --quick --fits 6 7 --num-seeds 1",
]


@pytest.mark.parametrize("words", MINIATURES)
def test_miniature(words, tmp_path, monkeypatch):
    name, *arguments = words.split()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # in the processes that it starts
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
    numbers = [number for cell in cells if (number := _number(cell.partition(" (")[0])) is not None]
    assert len(rows) >= 3, "a header, a rule and a row"
    assert numbers or name == "doctor", "whose table counts in words"
    assert sum(map(math.isfinite, numbers)) >= len(numbers) - 1
    for needle in FOUND.get(name, {}).get(arguments[0], ()):
        assert needle in text
    if name == "roofline":
        small_steps = [row for row in rows if row.startswith("| 64×3, 8 |")]
        assert len(small_steps) == 2
        for row in small_steps:
            ratio = float(row.split(" | ")[5])
            assert ratio > 1, "so small a batch is far from the limit"


FOUND = {
    "value_fit": {
        "time": ["| Adam, minibatch 128 | "],
        "quality": ["| CartPole-v1 | Levenberg–Marquardt, 1 × 10 CG |"],
    },
    "doctor": {"--quick": ["| stale batches | CartPole-v1 | off_policy: ", "| nothing | CartPole"]},
    "roofline": {"--quick": ["policy step", "value fit", "## Rollout"]},
}
"""What else the reports must hold, by the first argument."""


def _number(cell: str) -> float | None:
    try:
        return float(cell.rstrip("%").replace(",", ""))
    except ValueError:
        return None
