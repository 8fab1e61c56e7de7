"""trpo_jax beside what a user would pick instead.

python benchmarks/compare_peers.py STUDY … [--peers PEER …] [--environments ID …] [--quick]

Studies: dynamics, start, speed, update, brax, learning; `report` only writes the tables anew.
Peers live in virtual environments of their own (`python benchmarks/peers/install.py`); one that is
missing is skipped. PEER@1 runs a PyTorch peer with one thread instead of one per core. Every study
adds to `results/peers.json`, from which `results/peers.md` and `results/peers.png` are drawn.
"""

import argparse
import datetime
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "peers"))

import client
import given
import report
import studies
import tables
from client import Peer, Pool, base_of
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


def names_for(study: str, peers: list[str] | None) -> list[str]:
    """Those of the `peers` (None: the usual ones) that the study can ask."""
    able = {base_of(name) for name in PEERS[study]}
    return [name for name in peers or PEERS[study] if base_of(name) in able]


def measure(study: str, arguments: argparse.Namespace, peers: list[Peer]) -> Found:
    """What the study finds, by environment or batch."""
    quick = arguments.quick
    settings = [studies.ENVIRONMENTS[env_id] for env_id in arguments.environments]
    if quick:
        settings = [_TINY.replace(env_id=chosen.env_id) for chosen in settings]
    pace = Pace(arguments.seconds, **({"rounds": 1, "at_least": 0.0} if quick else {}))
    if study == "dynamics":
        return studies.dynamics(peers)
    if study == "start":
        return studies.cold_start(peers, settings, pace)
    if study == "speed":
        return studies.speed(peers, settings, pace, {"jax": 2 if quick else 20, "torch": 1})
    if study == "update":
        shapes = [given.SHAPES[i] for i in arguments.shapes]
        shapes = [given.Shape(32, 3, 2, False, (8,))] if quick else shapes
        return studies.update_alone(peers, shapes, _TINY if quick else Settings(), pace)
    if study == "brax":
        chosen = list(studies.BRAX.values())
        chosen = [_TINY.replace(env_id=chosen[0].env_id)] if quick else chosen
        count = 2 if quick else 5
        return {
            each.env_id.removeprefix("brax/"): studies.against_brax(peers, each, count, count)
            for each in chosen
        }
    found = {}
    for chosen in settings:
        goal = studies.Goal(9.0, 4, 2) if quick else studies.GOALS[chosen.env_id]
        size = arguments.seeds, 4 if quick else 32
        found[chosen.env_id] = studies.learning(peers, chosen, goal, *size, stamp())
    return found


def stamp() -> Found:
    """The command with its commit, the date and the load that the machine has."""
    lines = report.provenance()
    return {
        "command": "\n".join(lines[:2]),
        "date": datetime.date.today().isoformat(),
        "hardware": next(line for line in lines if "hardware" in line),
        "load": os.getloadavg()[0],
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = report.parser(__doc__, "peers.md")
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
    parser.add_argument("--venvs", type=Path, default=client.DEFAULT_VENVS, metavar="DIR")
    arguments = parser.parse_args(argv)
    for study in set(arguments.studies) & set(PEERS):
        if not names_for(study, arguments.peers):
            parser.error(f"{study} can compare {', '.join(PEERS[study])}, but none of --peers")
    return arguments


def run(study: str, arguments: argparse.Namespace, pool: Pool) -> Found:
    names = names_for(study, arguments.peers)
    if study in ("dynamics", "brax") and "trpo_jax" not in names:
        names.insert(0, "trpo_jax")  # what the others are held against
    peers = pool.get(names)
    if not peers:
        sys.exit(f"{study}: none of {', '.join(names)} is installed")
    found = measure(study, arguments, peers)
    return {name: each | ({} if study == "learning" else stamp()) for name, each in found.items()}


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    results = report.kept(arguments.out)
    with Pool(arguments.venvs) as pool:
        for study in (name for name in arguments.studies if name != "report"):
            found = {study: run(study, arguments, pool)}
            # Seeds and peers of the learning curves add up; elsewhere a run replaces the last one.
            results = report.keep(arguments.out, found, 5 if study == "learning" else 2)
    tables.write(arguments.out, results)


if __name__ == "__main__":
    main()
