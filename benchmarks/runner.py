"""What a run on disk costs beside the bare `agent.train`, and how fast a second start is.

python benchmarks/runner.py
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import report
from rich.console import Console

import trpo_jax
from trpo_jax.experiments.evaluation import (
    EPISODES_DURING_TRAINING,
    evaluation_interval,
    evaluation_key,
)
from trpo_jax.experiments.run_directory import write_run
from trpo_jax.experiments.runner import train_run
from trpo_jax.experiments.specification import RunOptions, RunSpec, num_updates
from trpo_jax.experiments.states import make_agent

COSTS = (
    "environment", "updates", "bare train, ms per update", "run on disk, ms per update", "overhead",
    "evaluations by default", "ms each", "share of training",
)  # fmt: skip
STARTS = ("start", "seconds to the first update")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=200, help="updates that are timed")
    parser.add_argument("--quick", action="store_true", help="a miniature, for the tests")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "runner.md")
    parser.add_argument("names", nargs="*", default=["CartPole-v1", "Pendulum-v1", "reacher"])
    arguments = parser.parse_args()
    warm_up = not arguments.quick
    if arguments.quick:
        arguments.updates, arguments.repeats, arguments.names = 5, 1, ["CartPole-v1"]
    size = arguments.updates, arguments.repeats, warm_up
    costs = [cost(name, *size) for name in arguments.names]
    report.write(
        arguments.out,
        "A run on disk",
        "Both programs do the same updates, alternately in one process. The run on disk logs every "
        "update to metrics.jsonl and TensorBoard, writes checkpoints and shows its "
        "progress; its cost per update is the difference of a long and a short run, so that "
        "compilation and the evaluation at the end drop out. Medians. Evaluations during training "
        f"play {EPISODES_DURING_TRAINING} episodes; their share is for the preset's whole run.",
        report.table(COSTS, costs),
        "## The same CartPole command twice, from the start of the process to the first line of "
        "metrics.jsonl",
        report.table(STARTS, starts(arguments.repeats)),
    )
    print(f"written: {arguments.out}")


def cost(name: str, updates: int, repeats: int, warm_up: bool) -> list[str]:
    """One row: overhead of the runner and of its evaluations on a preset."""
    preset = trpo_jax.get_preset(name)
    spec = RunSpec(name, {}, preset.config, preset.hparams, seed=0, num_seeds=1)
    agent = make_agent(spec)
    state = agent.init(jax.random.key(0))
    short = max(1, updates // 10)

    def bare() -> float:
        started = time.perf_counter()
        jax.block_until_ready(agent.train(state, spec.hparams, num_updates=updates))
        return (time.perf_counter() - started) / updates

    def on_disk() -> float:
        long_run, short_run = seconds_of_run(spec, short + updates), seconds_of_run(spec, short)
        return (long_run - short_run) / updates

    if warm_up:
        bare(), on_disk()
    pairs = np.array([(bare(), on_disk()) for _ in range(repeats)])
    bare_time, disk_time = np.median(pairs, axis=0)
    overhead = np.median(pairs[:, 1] / pairs[:, 0]) - 1

    total = num_updates(spec.config, preset.total_steps)
    with tempfile.TemporaryDirectory() as directory:
        run = write_run(Path(directory), spec, preset.total_steps)
        number = total // evaluation_interval(run, total)
    trained, _ = agent.train(state, spec.hparams, num_updates=updates)
    evaluation = seconds_of_evaluation(agent, trained, repeats)
    share = number * evaluation / (total * bare_time)
    print(name, f"overhead {overhead:.1%}, evaluation {share:.1%}", flush=True)
    return [
        name,
        str(updates),
        f"{bare_time * 1e3:.2f}",
        f"{disk_time * 1e3:.2f}",
        f"{overhead:.1%}",
        str(number),
        f"{evaluation * 1e3:.1f}",
        f"{share:.1%}",
    ]


def seconds_of_run(spec: RunSpec, updates: int) -> float:
    with tempfile.TemporaryDirectory() as directory:
        steps = updates * spec.config.batch_size
        run = write_run(Path(directory), spec, steps, RunOptions(eval_every=0, eval_episodes=1))
        agent = make_agent(spec)
        started = time.perf_counter()
        train_run(run, agent, Console(file=io.StringIO()))
        return time.perf_counter() - started


def seconds_of_evaluation(agent: trpo_jax.Agent, state: trpo_jax.TrainState, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        stats = agent.evaluate(state, evaluation_key(), num_episodes=EPISODES_DURING_TRAINING)
        jax.block_until_ready(stats)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def starts(repeats: int) -> list[list[str]]:
    """The first start with an empty compilation cache, the second with what it left."""
    rows = []
    for _ in range(max(1, repeats // 2)):
        with tempfile.TemporaryDirectory() as directory:
            rows.append([seconds_to_first_update(Path(directory), name) for name in "ab"])
    first, second = np.median(rows, axis=0)
    return [
        ["first", f"{first:.2f}"],
        ["second", f"{second:.2f}"],
        ["second / first", f"{second / first:.2f}"],
    ]


def seconds_to_first_update(directory: Path, name: str) -> float:
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(directory / "cache")}
    command = [sys.executable, "-m", "trpo_jax", "train", "CartPole-v1", "--out", name]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    metrics = directory / name / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        if process.poll() is not None:
            raise RuntimeError(process.stderr.read().decode())
        time.sleep(0.005)
    seconds = time.perf_counter() - started
    process.wait()
    return seconds


if __name__ == "__main__":
    main()
