"""The doctor's findings, and their report as text or JSON."""

import json
import textwrap
from typing import Literal, NamedTuple

Severity = Literal["severe", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("severe", "warning", "note")
"""The most severe first."""


class Finding(NamedTuple):
    """One fault that was found."""

    name: str
    """Name of the rule."""
    row: str
    """Row of the source's checklist: D1–D6, M1–M8; C1–C5 about costs."""
    severity: Severity
    """"severe", "warning" or "note"."""
    title: str
    """What is wrong, in a few words."""
    evidence: str
    """The numbers that show it."""
    updates: tuple[int, ...]
    """The updates that show it; empty if it concerns all of them, or the settings."""
    causes: tuple[str, ...]
    """Likely causes, the most likely first."""
    remedies: tuple[str, ...]
    """What to change, as command-line options if possible."""


class Diagnosis(NamedTuple):
    """All findings, the main one first."""

    findings: tuple[Finding, ...]
    """Severe ones first, and among equals causes before effects."""
    num_updates: int
    """Updates that were looked at, of each seed."""
    num_seeds: int
    """Seeds that were looked at."""

    @property
    def severe(self) -> bool:
        """Whether anything severe was found."""
        return any(finding.severity == "severe" for finding in self.findings)

    def to_json(self) -> str:
        """As JSON."""
        findings = [finding._asdict() for finding in self.findings]
        content = {**self._asdict(), "findings": findings, "severe": self.severe}
        return json.dumps(content, indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        """For the terminal."""
        seen = f"{self.num_updates} updates, {self.num_seeds} seed{'s' * (self.num_seeds > 1)}"
        if not self.findings:
            return f"Nothing wrong in {seen}."
        return "\n\n".join([f"Looked at {seen}.", *(_to_text(f) for f in self.findings)])


def _to_text(finding: Finding) -> str:
    lines = [f"{finding.severity.upper()}: {finding.title} [{finding.row}]"]
    lines += _wrapped("", finding.evidence)
    if finding.updates:
        lines += _wrapped("updates: ", ", ".join(map(str, finding.updates)) + ", …")
    if finding.causes:
        lines += _wrapped("likely because: ", "; or ".join(finding.causes))
    return "\n".join(lines + _wrapped("change: ", "; or ".join(finding.remedies)))


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(label + text, 78, initial_indent="  ", subsequent_indent="    ")
