"""What a check of an environment found, as data and as a table."""

import textwrap
from typing import Literal, NamedTuple

Status = Literal["kept", "broken", "skipped"]


class CheckedPromise(NamedTuple):
    """What was found about one promise."""

    promise: str
    """Its name, such as "masks"."""
    status: Status
    """kept, broken, or skipped because it could not be tried."""
    detail: str = ""
    """The numbers that break it, or why it was skipped; "" where it is kept."""
    notes: tuple[str, ...] = ()
    """What is worth knowing and breaks nothing."""

    def __str__(self) -> str:
        return f"{self.promise}: {self.detail or self.status}"


class EnvironmentReport(NamedTuple):
    """Which promises an environment keeps; `print` shows a table."""

    env: str
    """Name of the environment."""
    promises: tuple[CheckedPromise, ...]
    """All promises, in the order in which they were tried."""

    @property
    def ok(self) -> bool:
        """Whether no promise is broken."""
        return not self.failures

    @property
    def failures(self) -> tuple[CheckedPromise, ...]:
        """The promises that are broken."""
        return tuple(each for each in self.promises if each.status == "broken")

    @property
    def skipped(self) -> tuple[CheckedPromise, ...]:
        """The promises that could not be tried."""
        return tuple(each for each in self.promises if each.status == "skipped")

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing and breaks nothing, each beginning with its promise."""
        return tuple(f"{each.promise}: {note}" for each in self.promises for note in each.notes)

    def rows(self) -> list[tuple[str, str, str]]:
        """The table: (promise, status, detail), and a row (promise, "note", text) per note."""
        rows: list[tuple[str, str, str]] = []
        for each in self.promises:
            rows.append((each.promise, each.status, each.detail))
            rows += [(each.promise, "note", note) for note in each.notes]
        return rows

    @property
    def summary(self) -> str:
        """One line: how many promises are kept, broken and skipped."""
        counts = [f"{self._count(status)} {status}" for status in ("kept", "broken", "skipped")]
        return f"{self.env}: {'ok' if self.ok else 'BROKEN'}; promises: {', '.join(counts)}"

    def __str__(self) -> str:
        lines = [self.summary]
        for promise, status, detail in self.rows():
            first = f"  {status.upper() if status == 'broken' else status:8} {promise:24}"
            wrapped = textwrap.wrap(detail, 64) or [""]
            lines += [f"{first} {wrapped[0]}".rstrip()]
            lines += [" " * len(first) + f" {line}" for line in wrapped[1:]]
        return "\n".join(lines)

    def _count(self, status: Status) -> int:
        return sum(each.status == status for each in self.promises)
