"""What a diagnosis says: findings by severity, as text for a terminal and as JSON."""

import json
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Severity = Literal["severe", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("severe", "warning", "note")
"""The worst first."""
_WIDTH = 80
_MAX_RANGES = 6


class Finding(NamedTuple):
    """One thing that is wrong, or worth knowing, and what to do about it."""

    name: str
    """What it is, in one word: stale_data, cg_unconverged, …"""
    rows: str
    """Rows of the source document's checklist that it belongs to, such as "D1, M1"."""
    severity: Severity
    """"severe": training is wrong or fails; "warning": it suffers; "note": worth knowing."""
    title: str
    """One sentence."""
    numbers: dict[str, float]
    """What it rests on: quantity -> value."""
    updates: tuple[int, ...]
    """The updates it rests on, counted from 1; empty if it rests on the settings."""
    causes: tuple[str, ...]
    """Likely causes, the most likely first."""
    changes: tuple[str, ...]
    """What to change: command-line options, or what to do where there is none."""
    seeds: tuple[int, ...] = ()
    """The seeds that show it."""


class Diagnosis(NamedTuple):
    """The findings of a run, the main one first."""

    findings: tuple[Finding, ...]
    """Severe ones before warnings before notes; within these, causes before consequences."""
    num_updates: int
    """Updates that were looked at."""
    seeds: tuple[int, ...]
    """Seeds that were looked at."""

    @property
    def main(self) -> Finding | None:
        """The first finding; None if there is none."""
        return self.findings[0] if self.findings else None

    @property
    def severe(self) -> bool:
        """Whether anything is severe."""
        return any(finding.severity == "severe" for finding in self.findings)

    def to_text(self) -> str:
        """For a terminal of 80 columns."""
        seeds = f", {_count(len(self.seeds), 'seed')}" if len(self.seeds) > 1 else ""
        looked_at = f"{_count(self.num_updates, 'update')}{seeds}"
        if not self.findings:
            return f"healthy: nothing found in {looked_at}"
        counts = [
            _count(number, severity) if severity != "severe" else f"{number} severe"
            for severity in SEVERITIES
            if (number := sum(finding.severity == severity for finding in self.findings))
        ]
        several = len(self.seeds) > 1
        blocks = [_finding_text(finding, several) for finding in self.findings]
        return "\n\n".join([f"{', '.join(counts)} in {looked_at}", *blocks])

    def to_json(self) -> str:
        """One JSON object; numbers that are not finite are null."""
        content = {
            "severe": self.severe,
            "num_updates": self.num_updates,
            "seeds": list(self.seeds),
            "findings": [_finding_json(finding) for finding in self.findings],
        }
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return self.to_text()


def _finding_json(finding: Finding) -> dict[str, object]:
    numbers = {
        name: value if math.isfinite(value) else None for name, value in finding.numbers.items()
    }
    return {**finding._asdict(), "numbers": numbers}


def _finding_text(finding: Finding, several_seeds: bool) -> str:
    heading = f"{finding.severity.upper()}  {finding.name}  ({finding.rows})"
    lines = [heading, *_wrapped(finding.title, "  ")]
    if finding.updates:
        lines += _wrapped(f"updates {_ranges(finding.updates)}", "    ")
    if several_seeds and finding.updates:
        lines += _wrapped(f"seeds {_ranges(finding.seeds)}", "    ")
    lines += [f"    {name}: {_number(value)}" for name, value in finding.numbers.items()]
    lines += _listed("likely causes", finding.causes, numbered=len(finding.causes) > 1)
    lines += _listed("what to change", finding.changes, numbered=False)
    return "\n".join(lines)


def _listed(heading: str, items: Sequence[str], *, numbered: bool) -> list[str]:
    lines = [f"  {heading}"] if items else []
    for i, item in enumerate(items, start=1):
        mark = f"{i}. " if numbered else ""
        lines += _wrapped(f"{mark}{item}", "    ", hang=len(mark))
    return lines


def _wrapped(text: str, indent: str, hang: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + " " * hang,
        break_on_hyphens=False,
    )


def _ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 -> "1–3, 7"; long lists are cut."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = [str(low) if low == high else f"{low}–{high}" for low, high in ranges]
    hidden = len(texts) - _MAX_RANGES
    return ", ".join(texts[:_MAX_RANGES]) + (f" and {hidden} more" if hidden > 0 else "")


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
