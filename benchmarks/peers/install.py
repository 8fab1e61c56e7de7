"""Make each peer's virtual environment from its pinned requirements.

python benchmarks/peers/install.py [--venvs DIR] [PEER …]

About 1 GB a peer. Where pip finds a `+cpu` build of the pinned PyTorch (PIP_FIND_LINKS,
PIP_EXTRA_INDEX_URL), it prefers that; the plain one wants several gigabytes of CUDA besides, which
`--no-deps` leaves out.
"""

import argparse
import subprocess
import venv
from pathlib import Path

from client import DEFAULT_VENVS, HERE

REQUIREMENTS = HERE / "requirements"


PEERS = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def install(name: str, venvs: Path) -> None:
    """A fresh virtual environment with exactly what the peer's requirements list."""
    folder = venvs / name
    print(f"{name}: {folder}")
    venv.create(folder, with_pip=True, clear=True)
    requirements = str(REQUIREMENTS / f"{name}.txt")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "-r", requirements]
    subprocess.run([str(folder / "bin" / "python"), *command], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; all")
    parser.add_argument("--venvs", type=Path, default=DEFAULT_VENVS, metavar="DIR")
    arguments = parser.parse_args()
    if unknown := set(arguments.peers) - set(PEERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    for name in arguments.peers or PEERS:
        install(name, arguments.venvs)


if __name__ == "__main__":
    main()
