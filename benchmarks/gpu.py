"""One command for a machine with an accelerator: what the library does there, checked.

python benchmarks/gpu.py [--out DIR] [--budget SECONDS] [--parts NAME …] [--quick]

Every part (`gpu_solver.py`, `gpu_training.py`) runs in a process of its own with a share of the
time budget: one that fails, crashes or hangs is recorded, and the others go on. A part leaves out
what no longer fits its share, and says so; a part for which no time is left is skipped, and says
so. Writes `gpu.json` after every part, then pictures and `README.md`. Exit code 1 if a check
failed or a part broke. `--quick` is a miniature, in one process and on any device, for the tests.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gpu_pictures
import gpu_solver
import gpu_training
import report
from gpu_part import FULL, QUICK, Part, Settings

BUDGET = 450
_GRACE = 1.3
_ROWS_SHOWN = 16


class Planned(NamedTuple):
    """A part: its heading, its share of the time in seconds, and what fills its record."""

    title: str
    seconds: float
    measure: Callable[[Part, Settings], None]


def _throughput(name: str) -> Callable[[Part, Settings], None]:
    return functools.partial(gpu_training.throughput, name=name)


PARTS = {
    "device": Planned("Device", 20, gpu_solver.device),
    "policy_step": Planned("Policy step against the roofline", 50, gpu_solver.policy_step),
    "cartpole": Planned("Throughput: CartPole-v1", 40, _throughput("CartPole-v1")),
    "ant": Planned("Throughput: brax ant", 75, _throughput("brax/ant")),
    "reward": Planned("Time to reward: brax ant", 80, gpu_training.reward),
    "lanes": Planned("Seeds side by side", 45, gpu_training.lanes),
    "breakout": Planned("Throughput: Breakout-MinAtar", 45, _throughput("Breakout-MinAtar")),
    "hopper": Planned("Throughput: brax hopper", 60, _throughput("brax/hopper")),
    "solves": Planned("float32 against float64 solves", 35, gpu_solver.solves),
    "memory": Planned("Memory of a policy step", 30, gpu_solver.memory),
}


def run_here(name: str, seconds: float, quick: bool, store: Path) -> dict:
    """One part in this process; whatever happens to it is in the record."""
    part = Part(name, seconds, store)
    try:
        PARTS[name].measure(part, QUICK if quick else FULL)
    except Exception as error:
        part.record["error"] = f"{type(error).__name__}: {error}"
        part.record["traceback"] = traceback.format_exc(limit=-6)
    part.finish()
    return part.record


def run_apart(command: list[str], limit: float, store: Path) -> dict:
    """One part in a process of its own, which writes its record to `store` as it goes on.

    What it had recorded before it crashed or ran out of time is kept, with the reason.
    """
    store.unlink(missing_ok=True)
    problem = None
    try:
        # Not all of the memory at once: this process may hold a little of it, too.
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        done = subprocess.run(
            command, timeout=limit, capture_output=True, text=True, env=environment
        )
        if done.returncode:
            problem = f"exit code {done.returncode}: {done.stderr[-2000:]}"
    except subprocess.TimeoutExpired:
        problem = f"did not end within {limit:.0f} s"
    record = json.loads(store.read_text()) if store.exists() else {"rows": [], "checks": {}}
    if problem:
        record["error"] = problem
    return record


def run_part(name: str, clock_left: float, arguments: argparse.Namespace) -> dict:
    """A part with its share of the time that is left, or a note that none is."""
    share = min(PARTS[name].seconds, clock_left)
    if share < PARTS[name].seconds / 2:
        return {"rows": [], "checks": {}, "skipped": [f"all of it: {clock_left:.0f} s are left"]}
    store = arguments.out / "parts" / f"{name}.json"
    store.parent.mkdir(parents=True, exist_ok=True)
    if arguments.quick:
        return run_here(name, share, True, store)
    command = [sys.executable, __file__, "--out", str(arguments.out), "--part", name]
    return run_apart([*command, "--seconds", f"{share:.0f}"], _GRACE * share + 5, store)


def run_all(arguments: argparse.Namespace) -> dict:
    """All parts, most important first; the file is rewritten after each."""
    start = time.monotonic()
    results: dict = {"budget": arguments.budget, "parts": {}}
    for name in arguments.parts:
        began = time.monotonic()
        record = run_part(name, arguments.budget - (began - start), arguments)
        record["seconds"] = round(time.monotonic() - began, 1)
        results["parts"][name] = record
        results["seconds"] = round(time.monotonic() - start, 1)
        (arguments.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {record['seconds']} s, {verdict(record)}", flush=True)
    return results


def verdict(record: dict) -> str:
    """A record in one line."""
    failed = [name for name, passed in record["checks"].items() if not passed]
    words = [f"{len(record['checks']) - len(failed)} checks passed"]
    words += [f"FAILED: {name}" for name in failed]
    words += [f"ERROR: {record['error'].splitlines()[0]}"] if "error" in record else []
    words += [f"skipped {what}" for what in record.get("skipped", [])]
    return "; ".join(words)


def has_failed(results: dict) -> bool:
    """Whether a check failed or a part broke."""
    return any(
        "error" in record or not all(record["checks"].values())
        for record in results["parts"].values()
    )


def write_report(results: dict, out: Path, pictures: list[str]) -> None:
    """A table for every part."""
    sections = [
        f"In {results['seconds']:.0f} s of {results['budget']:.0f} s; every number is also in "
        "`gpu.json`.",
        *[f"![{Path(name).stem}]({name})" for name in pictures],
    ]
    for name, record in results["parts"].items():
        sections += [f"## {PARTS[name].title}", verdict(record) + "."]
        if record["rows"]:
            header = list(dict.fromkeys(key for row in record["rows"] for key in row))
            every = -(-len(record["rows"]) // _ROWS_SHOWN)
            shown = record["rows"][::every]
            cells = [[_cell(row.get(key, "")) for key in header] for row in shown]
            sections.append(report.table(header, cells))
    report.write(out / "README.md", "On an accelerator", *sections)


def _cell(value) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "gpu")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds in all")
    parser.add_argument("--quick", action="store_true", help="a miniature, on any device")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--part", choices=list(PARTS), help="only this part, in this process")
    parser.add_argument("--seconds", type=float, default=BUDGET, help="share of a single part")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        store = arguments.out / "parts" / f"{arguments.part}.json"
        store.parent.mkdir(exist_ok=True)
        print(verdict(run_here(arguments.part, arguments.seconds, arguments.quick, store)))
        return 0
    results = run_all(arguments)
    pictures = gpu_pictures.draw(results["parts"], arguments.out)
    write_report(results, arguments.out, pictures)
    print(f"written: {arguments.out}")
    return int(has_failed(results))


if __name__ == "__main__":
    sys.exit(main())
