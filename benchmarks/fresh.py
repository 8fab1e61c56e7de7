"""List the reports whose subject has changed since they were measured.

python benchmarks/fresh.py

Each report names its commit and the paths that its numbers depend on (`report.source`). What has
changed in these since then is listed, but for comments and docstrings; where git cannot know, it
says so. Never fails.
"""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
_SOURCE = re.compile(r"^- measured: commit (\S+), paths (.+)$", re.MULTILINE)
_SHOWN = 4


class Freshness(NamedTuple):
    """Whether a report is still about what is there."""

    report: str
    status: str
    """fresh, changed or unknown."""
    detail: str


def main() -> int:
    found = examine(ROOT)
    for each in found:
        if each.status != "fresh":
            print(f"{each.status:8} {each.report}: {each.detail}")
    counts = (f"{sum(e.status == s for e in found)} {s}" for s in ("fresh", "changed", "unknown"))
    print(f"{len(found)} reports: {', '.join(counts)}")
    return 0


def examine(root: Path) -> list[Freshness]:
    """Every Markdown report below `root`/benchmarks/results."""
    results = root / "benchmarks" / "results"
    return [
        Freshness(path.relative_to(results).as_posix(), *_judge(root, path))
        for path in sorted(results.rglob("*.md"))
    ]


def _judge(root: Path, path: Path) -> tuple[str, str]:
    sources = set(_SOURCE.findall(path.read_text(encoding="utf-8")))
    if not sources:
        return "unknown", "it does not say at which commit it was measured"
    changed: dict[str, set[str]] = {}
    for commit, paths in sorted(sources):
        files = _changed(root, commit.rstrip("+"), paths.split())
        if files is None:
            return "unknown", f"commit {commit} is not in this clone (git fetch --unshallow)"
        changed.setdefault(commit, set()).update(files)
    details = [f"since {commit}: {_few(files)}" for commit, files in changed.items() if files]
    return ("changed", "; ".join(details)) if details else ("fresh", "")


def _changed(root: Path, commit: str, paths: list[str]) -> list[str] | None:
    """Files below `paths` that do something else than at a commit; None if git has no such commit.

    A file that is not known to git yet does not count.
    """
    names = _git(root, "diff", "--name-only", "--end-of-options", commit, "--", *paths)
    if names is None:
        return None
    return [name for name in names.split("\n")[:-1] if _does_something_else(root, commit, name)]


@functools.cache
def _does_something_else(root: Path, commit: str, name: str) -> bool:
    path = root / name
    old = _git(root, "show", "--end-of-options", f"{commit}:{name}")
    if old is None or not path.exists():
        return True
    new = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return old != new
    return _bare(old) != _bare(new)


def _bare(source: str) -> str:
    """A program without comments and docstrings, as text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _git(root: Path, *words: str) -> str | None:
    """What git prints; None where it fails or is not there."""
    command = ["git", "-C", str(root), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _few(files: set[str]) -> str:
    names = sorted(files)
    if len(names) <= _SHOWN:
        return ", ".join(names)
    return f"{len(names)} files, such as {', '.join(names[:_SHOWN])}"


if __name__ == "__main__":
    sys.exit(main())
