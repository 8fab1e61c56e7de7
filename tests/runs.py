"""Small runs for the tests: the command line in a process of its own, or in this one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from trpo_jax.experiments.states import final_state, make_agent

SMALL = [
    *("CartPole-v1", "--num-envs", "4", "--num-steps", "16", "--hidden-sizes", "16"),
    *("--value-epochs", "2", "--normalize-observations", "--normalize-rewards"),
    *("--eval-every", "50", "--eval-episodes", "8"),
]
BATCH_SIZE = 64
TESTS = Path(__file__).parent


def start(*arguments: str, cwd: Path) -> subprocess.Popen:
    """`trpo-jax …` as a process; its output goes to cwd/output."""
    output = (cwd / "output").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "trpo_jax", *arguments],
        cwd=cwd,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def run_program(program: str, *arguments: str, cwd: Path | None = None, **environment: str) -> str:
    """What a Python program prints, which can import what tests do, in a process of its own."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def with_devices(number: int, program: str, *arguments: str, cwd: Path | None = None) -> str:
    """The same on a CPU that counts as several devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={number}"
    return run_program(program, *arguments, cwd=cwd, XLA_FLAGS=flags)


def wait_for_update(run: Path, update: int, process: subprocess.Popen, patience: float = 120):
    """Return as soon as a run has logged more than `update` lines, or its process has ended."""
    deadline = time.monotonic() + patience
    while count_lines(run) <= update and process.poll() is None:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.01)


def count_lines(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


def kill_after(run: Path, seconds: float, process: subprocess.Popen) -> bool:
    """SIGKILL a run some time after it logged something new; whether it was still alive."""
    wait_for_update(run, count_lines(run), process)
    time.sleep(seconds)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive


def updates_in(run: Path) -> list[int]:
    return [json.loads(line)["update"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def parameters(run_path: Path) -> list[np.ndarray]:
    """All leaves of the last checkpoint, random keys as their data."""
    import jax

    from trpo_jax.experiments.run_directory import load_run

    run = load_run(run_path)
    leaves = jax.tree.leaves(final_state(run, make_agent(run.spec)))
    return [
        np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
                   else x)
        for x in leaves
    ]  # fmt: skip
