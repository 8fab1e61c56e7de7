"""The table of speed in the output of CI: what it compares, and that it never fails."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def in_ci(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["in_ci.py"])
    import in_ci

    return in_ci


def test_ratios_are_compared_with_those_recorded(in_ci):
    text = in_ci.compared({"a": 0.9, "b": 2.0}, {"a": 1.0})
    assert "| a | 0.90 | 1.00 | -10 % |" in text
    assert "| b | 2.00 | none |  |" in text


def test_it_never_fails(in_ci, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no clock")

    monkeypatch.setattr(in_ci, "measured", broken)
    assert in_ci.main() == 0
    assert "no clock" in capsys.readouterr().out
