"""Tables with the command, versions and hardware that produced them."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "gymnax", "brax", "mujoco-mjx")


def provenance() -> list[str]:
    """Command, date, versions and hardware, as lines of a Markdown list."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    command = shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    return [
        f"- command: `{command}`",
        f"- date: {datetime.date.today().isoformat()}",
        f"- versions: Python {platform.python_version()}, {versions}",
        f"- hardware: {_processor()}, {os.cpu_count()} cores; JAX on {devices}",
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def write(path: Path, title: str, *sections: str) -> None:
    """Write a Markdown report: title, provenance, sections."""
    text = "\n\n".join([f"# {title}", "\n".join(provenance()), *sections]) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_part(path: Path, title: str, parts: dict[str, str], part: str, text: str) -> None:
    """Rewrite one part of a report whose parts are measured by commands of their own.

    `parts` are names and headings, in order; the others stay as they are in the JSON file beside.
    """
    kept_path = path.with_suffix(".json")
    kept = json.loads(kept_path.read_text(encoding="utf-8")) if kept_path.exists() else {}
    kept[part] = "\n\n".join(["\n".join(provenance()), text])
    path.parent.mkdir(parents=True, exist_ok=True)
    kept_path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    sections = [f"## {heading}\n\n{kept[name]}" for name, heading in parts.items() if name in kept]
    path.write_text("\n\n".join([f"# {title}", *sections]) + "\n", encoding="utf-8")


def part_arguments(description: str | None, parts: dict[str, str], out: str) -> argparse.Namespace:
    """Command line of a benchmark that measures one part of its report at a time."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=parts)
    parser.add_argument("--quick", action="store_true", help="a miniature, for the tests")
    parser.add_argument("--out", type=Path, default=RESULTS / out)
    return parser.parse_args()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
