"""The driver's side: one process per peer, started once and asked in turn."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from turns import Timing, Usage, others_share

HERE = Path(__file__).parent
DEFAULT_VENVS = Path.home() / ".cache" / "trpo_jax" / "peers"
TITLES = {
    "trpo_jax": "trpo_jax",
    "sb3": "sb3-contrib TRPO",
    "tianshou": "tianshou TRPO",
    "rejax": "rejax PPO",
    "brax": "brax PPO",
}
"""How each peer is called in tables; trpo_jax runs in the driver's own environment."""

_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
"""A cache on disk would hide from a cold start what has to be compiled."""


class PeerFailed(RuntimeError):
    """A peer answered with an error, or ended."""


class Peer:
    """A peer's process, until it is closed."""

    def __init__(self, name: str, python: Path):
        self.name, self.python = name, python
        program, _, threads = name.partition("@")
        self.started = time.perf_counter()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        if not os.environ.get("PEERS_VERBOSE"):
            pipes["stderr"] = subprocess.DEVNULL
        environment = {**os.environ, **_ENVIRONMENT, "PEER_THREADS": threads}
        command = [str(python), str(HERE / f"worker_{program}.py")]
        self._process = subprocess.Popen(command, env=environment, **pipes)
        self.description = self.ask("describe")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its reply. Raises `PeerFailed` with the peer's own error."""
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerFailed(f"{self.name} ended while it was asked to {do}; set PEERS_VERBOSE=1")
        reply = json.loads(line)
        if "error" in reply:
            raise PeerFailed(f"{self.name} failed to {do}:\n{reply['error']}")
        return reply

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def time(self, do: str, *, at_least: float, **arguments: Any) -> Timing:
        """Ask for something whose reply holds "seconds", until `at_least` so many have passed.

        Per call, the mean.
        """
        before = Usage.now(self.pid)
        replies = [self.ask(do, **arguments)]
        while sum(reply["seconds"] for reply in replies) < at_least:
            replies.append(self.ask(do, **arguments))
        others = others_share(before, Usage.now(self.pid))
        seconds, cpu = (
            statistics.mean(reply[kind] for reply in replies) for kind in ("seconds", "cpu_seconds")
        )
        return Timing(seconds, cpu, others)

    def another(self) -> "Peer":
        """A new process of the same peer."""
        return type(self)(self.name, self.python)

    def close(self) -> None:
        """End the process and wait for it."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def base_of(name: str) -> str:
    """A peer without its number of threads."""
    return name.partition("@")[0]


def title(name: str) -> str:
    """How a peer is called in a table."""
    threads = name.partition("@")[2]
    return TITLES[base_of(name)] + (f", {threads} thread" if threads else "")


def python_of(name: str, venvs: Path) -> Path | None:
    """The interpreter that has the peer, or None where its virtual environment is missing."""
    if name == "trpo_jax":
        return Path(sys.executable)
    python = venvs / base_of(name) / "bin" / "python"
    return python if python.exists() else None


class Pool:
    """Peers by name, each started when it is first asked for; ended on exit from `with`."""

    def __init__(self, venvs: Path):
        self._venvs = venvs
        self._peers: dict[str, Peer] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._peers.values():
            peer.close()

    def get(self, names: list[str]) -> list[Peer]:
        """Those that are installed; says of the others what to do."""
        for name in names:
            python = python_of(name, self._venvs)
            if python is None:
                print(
                    f"skipped: no {base_of(name)} in {self._venvs}; see benchmarks/peers/install.py"
                )
            elif name not in self._peers:
                self._peers[name] = Peer(name, python)
        return [self._peers[name] for name in names if name in self._peers]
