"""`benchmarks/fresh.py`: reports whose subject has changed since they were measured."""

import importlib
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEFORE = '"""Adds."""\n\n\ndef add(a, b):\n    return a + b\n'
SAME = '"""Sums up."""\n\n\ndef add(a, b):\n    """The sum."""\n    return a + b  # of both\n'
OTHER = '"""Adds."""\n\n\ndef add(a, b):\n    return b + a\n'


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("fresh"), importlib.import_module("report")


@pytest.fixture
def repository(tmp_path):
    """A library of two files, and a report about each, measured at its first commit."""
    root = tmp_path / "repository"
    (root / "benchmarks" / "results" / "claims").mkdir(parents=True)
    (root / "library").mkdir()
    git(root, "init", "--quiet")
    for name in ("one", "two"):
        (root / "library" / f"{name}.py").write_text(BEFORE)
    commit(root)
    measured = git(root, "rev-parse", "HEAD")
    line = "# Title\n\n- command: `x`\n- measured: commit {}, paths {}\n"
    for name in ("one", "claims/two"):
        path = f"library/{Path(name).name}.py library/missing.py"
        (root / "benchmarks" / "results" / f"{name}.md").write_text(line.format(measured, path))
    (root / "benchmarks" / "results" / "old.md").write_text("# Title\n")
    commit(root)
    return root


def git(root, *words):
    name = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(root), *name, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit(root):
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "change")


def statuses(fresh, root):
    fresh._does_something_else.cache_clear()
    return {each.report: each.status for each in fresh.examine(root)}


NO_CHANGE = {"claims/two.md": "fresh", "old.md": "unknown", "one.md": "fresh"}


def test_only_what_does_something_else_counts(modules, repository):
    fresh, _ = modules
    assert statuses(fresh, repository) == NO_CHANGE
    (repository / "library" / "one.py").write_text(SAME)
    commit(repository)
    assert statuses(fresh, repository) == NO_CHANGE
    (repository / "library" / "one.py").write_text(OTHER)
    assert statuses(fresh, repository) == {**NO_CHANGE, "one.md": "changed"}, "not committed yet"
    commit(repository)
    assert statuses(fresh, repository) == {**NO_CHANGE, "one.md": "changed"}
    (repository / "library" / "two.py").unlink()
    commit(repository)
    assert set(statuses(fresh, repository).values()) == {"changed", "unknown"}


def test_the_list_names_commit_and_files_and_never_fails(
    modules, repository, tmp_path, monkeypatch, capsys
):
    fresh, _ = modules
    (repository / "library" / "one.py").write_text(OTHER)
    commit(repository)
    monkeypatch.setattr(fresh, "ROOT", repository)
    assert fresh.main() == 0
    measured = git(repository, "rev-parse", "HEAD~2")
    assert capsys.readouterr().out.splitlines() == [
        "unknown  old.md: it does not say at which commit it was measured",
        f"changed  one.md: since {measured}: library/one.py",
        "3 reports: 1 fresh, 1 changed, 1 unknown",
    ]
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{repository}", str(shallow))
    for root in (shallow, tmp_path):
        monkeypatch.setattr(fresh, "ROOT", root)
        assert fresh.main() == 0
    out = capsys.readouterr().out
    assert f"commit {measured} is not in this clone" in out
    assert "3 reports: 0 fresh, 0 changed, 3 unknown" in out
    assert "0 reports" in out


def test_reports_say_what_they_are_about(modules):
    fresh, report = modules
    for path in (ROOT / "benchmarks" / "results").rglob("*.md"):
        assert fresh._SOURCE.search(path.read_text()), f"{path.name} has no line of report.source()"
    for name, paths in report.PATHS.items():
        assert (ROOT / "benchmarks" / f"{name}.py").exists()
        assert all((ROOT / path).exists() for path in paths)
    found = fresh._SOURCE.findall("\n".join([*report.provenance(), report.source("abc+", "sweep")]))
    assert found[0][1] == "trpo_jax", "of what is not in the table: all"
    assert found[1] == ("abc+", "trpo_jax/experiments trpo_jax/learner")
