"""Tables with the command, versions and hardware that produced them."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_TRAINING = ("trpo_jax/learner", "trpo_jax/policies", "trpo_jax/solver")
PATHS = {
    "claims": _TRAINING,
    "compare_peers": _TRAINING,
    "constrained": ("trpo_jax/envs", *_TRAINING),
    "defaults": _TRAINING,
    "devices": ("trpo_jax/experiments/devices.py", *_TRAINING),
    "doctor": ("trpo_jax/experiments/doctor", *_TRAINING),
    "environments": ("trpo_jax/envs", "trpo_jax/experiments/conformance", "trpo_jax/learner"),
    "gpu": _TRAINING,
    "guard": ("trpo_jax/experiments/guard", "trpo_jax/experiments/statistics"),
    "host": ("trpo_jax/envs", "trpo_jax/learner"),
    "in_ci": ("trpo_jax",),
    "lanes": _TRAINING,
    "learning": ("trpo_jax/envs", "trpo_jax/presets.py", *_TRAINING),
    "lowered": (*_TRAINING, "trpo_jax/common"),
    "memory": _TRAINING,
    "precision": ("trpo_jax/solver",),
    "preconditioner": ("trpo_jax/solver",),
    "products": ("trpo_jax/policies", "trpo_jax/solver"),
    "published": ("trpo_jax/envs", "trpo_jax/presets.py", *_TRAINING),
    "recurrence": _TRAINING,
    "roofline": _TRAINING,
    "runner": ("trpo_jax/experiments", "trpo_jax/learner"),
    "speed": _TRAINING,
    "sweep": ("trpo_jax/experiments", "trpo_jax/learner"),
    "value_fit": ("trpo_jax/learner", "trpo_jax/policies"),
}
"""What of the library each benchmark measures; `fresh.py` says where it has changed since."""

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "gymnax", "brax", "mujoco-mjx")


def provenance() -> list[str]:
    """Command, commit, date, versions and hardware, as lines of a Markdown list."""
    import jax

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    command = shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    return [
        f"- command: `{command}`",
        source(),
        f"- date: {datetime.date.today().isoformat()}",
        f"- versions: Python {platform.python_version()}, {versions}",
        f"- hardware: {_processor()}, {os.cpu_count()} cores; JAX on {devices}",
    ]


def source(commit: str | None = None, benchmark: str | None = None) -> str:
    """The line that says what was measured: a commit, and the paths that the numbers depend on.

    By default the commit that is checked out, with a + if one of these paths differs from it, and
    the paths of the running benchmark.
    """
    paths = PATHS.get(benchmark or Path(sys.argv[0]).stem, ("trpo_jax",))
    if commit is None:
        commit = _git("rev-parse", "--short=12", "HEAD") or "unknown"
        commit += "+" if _git("status", "--porcelain", "--", *paths) else ""
    return f"- measured: commit {commit}, paths {' '.join(paths)}"


def _git(*words: str) -> str:
    """What git prints; "" where it fails or is not there."""
    command = ["git", "-C", str(RESULTS.parents[1]), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def records(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table of rows {column: cell}, every column that any of them has."""
    header = list(dict.fromkeys(column for row in rows for column in row))
    return table(header, [[row.get(column, "") for column in header] for row in rows])


def write(path: Path, title: str, *sections: str, stamp: bool = True) -> None:
    """Write a Markdown report: title, provenance, sections."""
    parts = [f"# {title}", *(["\n".join(provenance())] if stamp else []), *sections]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"written: {os.path.relpath(path)}")


def kept(path: Path) -> dict:
    """What lies in the JSON file beside a report: rows or parts of several calls."""
    store = path.with_suffix(".json")
    return json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}


def keep(path: Path, found: dict, depth: int = 1) -> dict:
    """Add to the JSON file beside a report, and return all of it.

    What is found replaces what has the same keys, down to `depth` of them. The file is read again,
    since another process may have added to it meanwhile.
    """
    everything = merged(kept(path), found, depth)
    path.parent.mkdir(parents=True, exist_ok=True)
    store = path.with_suffix(".json")
    store.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return everything


def merged(old: dict, new: dict, depth: int) -> dict:
    """`new` in place of `old`; down to a depth, what only `old` has stays."""
    if depth == 0 or not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: merged(old.get(key), new[key], depth - 1) for key in new}}


def write_part(path: Path, title: str, parts: Mapping[str, str], part: str, text: str) -> None:
    """Rewrite one part of a report whose parts are measured by commands of their own.

    `parts` are names and headings, in order; the others stay as they are in the JSON file beside.
    """
    print(text)
    texts = keep(path, {part: "\n\n".join(["\n".join(provenance()), text])})
    sections = [f"## {parts[name]}\n\n{texts[name]}" for name in parts if name in texts]
    write(path, title, *sections, stamp=False)


def parser(description: str | None, out: str, parts: Sequence[str] = ()):
    """Command line of a benchmark; `parts`, if any, of which it measures one at a time."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if parts:
        parser.add_argument("part", choices=list(parts))
    parser.add_argument("--quick", action="store_true", help="a miniature, for the tests")
    parser.add_argument("--out", type=Path, default=RESULTS / out)
    return parser


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
