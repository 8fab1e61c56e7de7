"""trpo_jax beside what a user would pick instead.

python benchmarks/compare_peers.py STUDY … [--peers PEER …] [--environments ID …] [--quick]

Studies: dynamics, start, speed, update, brax, learning; `report` only writes the tables anew.
Peers live in virtual environments of their own (`python benchmarks/peers/install.py`); one that is
missing is skipped. PEER@1 runs a PyTorch peer with one thread instead of one per core. Every study
adds to `results/peers.json`, from which `results/peers.md` and `results/peers.png` are drawn.
"""

import argparse
import datetime
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "peers"))

import client
import curves
import given
import report
import studies
import tables
from client import Pool
from protocol import Settings

STUDIES = ("dynamics", "start", "speed", "update", "brax", "learning", "report")
TRPO_PEERS = ("trpo_jax", "sb3", "sb3@1", "tianshou", "tianshou@1")
Found = dict[str, Any]
_TINY = Settings(num_envs=2, num_steps=16, hidden_sizes=(8,), epochs=1, minibatch=16)


def _settings(arguments: argparse.Namespace) -> list[Settings]:
    tiny = [_TINY.replace(env_id=env_id) for env_id in arguments.environments]
    full = [studies.ENVIRONMENTS[env_id] for env_id in arguments.environments]
    return tiny if arguments.quick else full


def _pace(arguments: argparse.Namespace) -> studies.Pace:
    return studies.Pace(arguments.seconds, arguments.wait_for)


def run_speed(arguments: argparse.Namespace, pool: Pool) -> Found:
    peers = pool.get(arguments.peers or [*TRPO_PEERS, "rejax"])
    counts = {"jax": 2 if arguments.quick else 20, "torch": 1}
    found = studies.speed(peers, _settings(arguments), _pace(arguments), counts)
    return {env_id: stamped(study) for env_id, study in found.items()}


def run_start(arguments: argparse.Namespace, pool: Pool) -> Found:
    names = arguments.peers or [*TRPO_PEERS, "rejax"]
    settings = _settings(arguments)[0]
    found = studies.cold_start(names, arguments.venvs, settings, _pace(arguments))
    return {settings.env_id: stamped(found)}


def run_update(arguments: argparse.Namespace, pool: Pool) -> Found:
    peers = pool.get(arguments.peers or list(TRPO_PEERS))
    shapes, settings = [given.SHAPES[i] for i in arguments.shapes], Settings()
    if arguments.quick:
        shapes, settings = [given.Shape(32, 3, 2, False, (8,))], _TINY
    found = studies.update_alone(peers, shapes, settings, _pace(arguments))
    return {label: stamped(study) for label, study in found.items()}


def run_learning(arguments: argparse.Namespace, pool: Pool) -> Found:
    peers = pool.get(arguments.peers or ["trpo_jax", "sb3@1", "tianshou@1", "rejax"])
    found = {}
    for settings in _settings(arguments):
        goal, episodes = curves.GOALS[settings.env_id], 32
        if arguments.quick:
            goal, episodes = curves.Goal(9.0, 4, 2), 4
        study = curves.learning(peers, settings, goal, arguments.seeds, episodes)
        found[settings.env_id] = stamped(study)
    return found


def run_brax(arguments: argparse.Namespace, pool: Pool) -> Found:
    peers = pool.get(["trpo_jax", "brax"])
    return {
        env_id: stamped(studies.against_brax(peers, settings, 5, 5))
        for env_id, settings in studies.BRAX.items()
    }


def run_dynamics(arguments: argparse.Namespace, pool: Pool) -> Found:
    peers = pool.get(arguments.peers or ["trpo_jax", "sb3@1", "tianshou@1", "rejax"])
    return {env_id: stamped(study) for env_id, study in curves.dynamics(peers).items()}


RUNS: dict[str, Callable[[argparse.Namespace, Pool], Found]] = {
    "dynamics": run_dynamics,
    "start": run_start,
    "speed": run_speed,
    "update": run_update,
    "brax": run_brax,
    "learning": run_learning,
}


def stamped(found: dict[str, Any]) -> dict[str, Any]:
    """With the command, the date and the load that the machine had."""
    lines = report.provenance()
    return {
        **found,
        "command": next(line for line in lines if "command" in line),
        "date": datetime.date.today().isoformat(),
        "hardware": next(line for line in lines if "hardware" in line),
        "load": os.getloadavg()[0],
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="+", choices=STUDIES, metavar="STUDY")
    parser.add_argument("--peers", nargs="+", metavar="PEER")
    parser.add_argument(
        "--environments", nargs="+", choices=studies.ENVIRONMENTS, default=["CartPole-v1"]
    )
    parser.add_argument("--shapes", nargs="+", type=int, default=[0], help="0 … 3, of the update")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing, per study")
    parser.add_argument("--wait-for", type=Path, metavar="FILE", help="time once this is there")
    parser.add_argument("--venvs", type=Path, default=client.DEFAULT_VENVS, metavar="DIR")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "peers.md")
    parser.add_argument("--quick", action="store_true", help="a miniature, for the tests")
    return parser.parse_args(argv)


def merged(old: Found, new: Found, keep: int) -> Found:
    """`new` in place of `old`; down to a depth of `keep`, what only `old` has stays."""
    if keep == 0:
        return new
    both = {
        key: merged(old[key], value, keep - 1)
        if isinstance(old.get(key), dict) and isinstance(value, dict)
        else value
        for key, value in new.items()
    }
    return {**old, **both}


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    stored = arguments.out.with_suffix(".json")
    stored.parent.mkdir(parents=True, exist_ok=True)
    results: Found = {}
    with Pool(arguments.venvs) as pool:
        for study in arguments.studies:
            found = {study: RUNS[study](arguments, pool)} if study != "report" else {}
            results = json.loads(stored.read_text()) if stored.exists() else {}
            # Seeds and peers of the learning curves add up; elsewhere a run replaces the last one.
            results = merged(results, found, keep=5 if study == "learning" else 2)
            stored.write_text(json.dumps(results, indent=1) + "\n")
    tables.write(arguments.out, results)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
