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
from client import Peer, Pool
from protocol import Settings
from turns import Pace

_TRPO = ("trpo_jax", "sb3", "sb3@1", "tianshou", "tianshou@1")
_ONE_THREAD = ("trpo_jax", "sb3@1", "tianshou@1", "rejax")
PEERS = {
    "dynamics": _ONE_THREAD,
    "start": (*_TRPO, "rejax"),
    "speed": (*_TRPO, "rejax"),
    "update": _TRPO,
    "brax": ("trpo_jax", "brax"),
    "learning": _ONE_THREAD,
}
"""Of each study: whom it compares unless `--peers` says otherwise, and with whom it can."""
Found = dict[str, Any]
_NAMES = (*client.TITLES, "sb3@1", "tianshou@1")
_TINY = Settings(num_envs=2, num_steps=16, hidden_sizes=(8,), epochs=1, minibatch=16)


def _settings(arguments: argparse.Namespace) -> list[Settings]:
    tiny = [_TINY.replace(env_id=env_id) for env_id in arguments.environments]
    full = [studies.ENVIRONMENTS[env_id] for env_id in arguments.environments]
    return tiny if arguments.quick else full


def _pace(arguments: argparse.Namespace) -> Pace:
    if arguments.quick:
        return Pace(arguments.seconds, rounds=1, at_least=0.0)
    return Pace(arguments.seconds, gate=arguments.wait_for)


def names_for(study: str, peers: list[str] | None) -> list[str]:
    """Those of the `peers` (None: the usual ones) that the study can ask."""
    able = {name.partition("@")[0] for name in PEERS[study]}
    return [name for name in peers or PEERS[study] if name.partition("@")[0] in able]


def run_speed(arguments: argparse.Namespace, peers: list[Peer]) -> Found:
    counts = {"jax": 2 if arguments.quick else 20, "torch": 1}
    found = studies.speed(peers, _settings(arguments), _pace(arguments), counts)
    return {env_id: stamped(study) for env_id, study in found.items()}


def run_start(arguments: argparse.Namespace, peers: list[Peer]) -> Found:
    found = studies.cold_start(peers, _settings(arguments), _pace(arguments))
    return {env_id: stamped(study) for env_id, study in found.items()}


def run_update(arguments: argparse.Namespace, peers: list[Peer]) -> Found:
    shapes, settings = [given.SHAPES[i] for i in arguments.shapes], Settings()
    if arguments.quick:
        shapes, settings = [given.Shape(32, 3, 2, False, (8,))], _TINY
    found = studies.update_alone(peers, shapes, settings, _pace(arguments))
    return {label: stamped(study) for label, study in found.items()}


def run_learning(arguments: argparse.Namespace, peers: list[Peer]) -> Found:
    found = {}
    for settings in _settings(arguments):
        goal, episodes = curves.GOALS[settings.env_id], 32
        if arguments.quick:
            goal, episodes = curves.Goal(9.0, 4, 2), 4
        found[settings.env_id] = curves.learning(
            peers, settings, goal, arguments.seeds, episodes, stamped({})
        )
    return found


def run_brax(arguments: argparse.Namespace, peers: list[Peer]) -> Found:
    chosen, count = list(studies.BRAX.values()), 5
    if arguments.quick:
        chosen, count = [_TINY.replace(env_id=chosen[0].env_id)], 2
    return {
        settings.env_id.removeprefix("brax/"): stamped(
            studies.against_brax(peers, settings, num_updates=count, repeats=count)
        )
        for settings in chosen
    }


def run_dynamics(arguments: argparse.Namespace, peers: list[Peer]) -> Found:
    del arguments
    return {env_id: stamped(study) for env_id, study in curves.dynamics(peers).items()}


RUNS: dict[str, Callable[[argparse.Namespace, list[Peer]], Found]] = {
    "dynamics": run_dynamics,
    "start": run_start,
    "speed": run_speed,
    "update": run_update,
    "brax": run_brax,
    "learning": run_learning,
}


def stamped(found: Found) -> Found:
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
    parser.add_argument("studies", nargs="+", choices=(*PEERS, "report"), metavar="STUDY")
    parser.add_argument(
        "--peers", nargs="+", choices=_NAMES, metavar="PEER", help=", ".join(_NAMES)
    )
    parser.add_argument(
        "--environments", nargs="+", choices=studies.ENVIRONMENTS, default=["CartPole-v1"]
    )
    shapes = range(len(given.SHAPES))
    parser.add_argument("--shapes", nargs="+", type=int, choices=shapes, default=[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing, per study")
    parser.add_argument("--wait-for", type=Path, metavar="FILE", help="time once this is there")
    parser.add_argument("--venvs", type=Path, default=client.DEFAULT_VENVS, metavar="DIR")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "peers.md")
    parser.add_argument("--quick", action="store_true", help="a miniature, for the tests")
    arguments = parser.parse_args(argv)
    for study in set(arguments.studies) & set(PEERS):
        if not names_for(study, arguments.peers):
            parser.error(f"{study} can compare {', '.join(PEERS[study])}, but none of --peers")
    return arguments


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


def _run(study: str, arguments: argparse.Namespace, pool: Pool) -> Found:
    names = names_for(study, arguments.peers)
    if study in ("dynamics", "brax") and "trpo_jax" not in names:
        names.insert(0, "trpo_jax")  # what the others are held against
    peers = pool.get(names)
    if not peers:
        sys.exit(f"{study}: none of {', '.join(names)} is installed")
    return RUNS[study](arguments, peers)


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    stored = arguments.out.with_suffix(".json")
    stored.parent.mkdir(parents=True, exist_ok=True)
    results: Found = {}
    with Pool(arguments.venvs) as pool:
        for study in arguments.studies:
            found = {study: _run(study, arguments, pool)} if study != "report" else {}
            results = json.loads(stored.read_text()) if stored.exists() else {}
            # Seeds and peers of the learning curves add up; elsewhere a run replaces the last one.
            results = merged(results, found, keep=5 if study == "learning" else 2)
            stored.write_text(json.dumps(results, indent=1) + "\n")
    tables.write(arguments.out, results)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
