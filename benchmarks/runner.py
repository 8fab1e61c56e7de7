"""What a run on disk costs beside the bare `agent.train`, and how fast a second start is.

python benchmarks/runner.py
"""

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
from timing import seconds

import trpo_jax
from trpo_jax.experiments.evaluation import (
    EPISODES_DURING_TRAINING,
    evaluation_interval,
    evaluation_key,
)
from trpo_jax.experiments.run_directory import write_run
from trpo_jax.experiments.runner import carry_out
from trpo_jax.experiments.specification import RunOptions, RunSpec, num_updates
from trpo_jax.experiments.states import make_agent

STARTS = ("first", "second", "second / first")


def main() -> None:
    parser = report.parser(__doc__, "runner.md")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=200, help="updates that are timed")
    parser.add_argument("names", nargs="*", default=["CartPole-v1", "Pendulum-v1", "reacher"])
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.updates, arguments.repeats, arguments.names = 5, 1, ["CartPole-v1"]
    size = arguments.updates, arguments.repeats, not arguments.quick
    costs = [cost(name, *size) for name in arguments.names]
    header = ("start", "seconds to the first update")
    report.write(
        arguments.out,
        "A run on disk",
        "Both programs do the same updates, alternately in one process. The run on disk logs every "
        "update to metrics.jsonl and TensorBoard, writes checkpoints and shows its "
        "progress; its cost per update is the difference of a long and a short run, so that "
        "compilation and the evaluation at the end drop out. Medians. Evaluations during training "
        f"play {EPISODES_DURING_TRAINING} episodes; their share is for the preset's whole run.",
        report.records(costs),
        "## The same CartPole command twice, from the start of the process to the first line of "
        "metrics.jsonl",
        report.table(header, starts(arguments.repeats)),
    )


def cost(name: str, updates: int, repeats: int, warm_up: bool) -> dict[str, str]:
    """One row: overhead of the runner and of its evaluations on a preset."""
    preset = trpo_jax.get_preset(name)
    spec = RunSpec(name, {}, preset.config, preset.hparams, seed=0, num_seeds=1)
    agent = make_agent(spec)
    state = agent.init(jax.random.key(0))
    short = max(1, updates // 10)

    def both() -> tuple[float, float]:
        bare = seconds(lambda: agent.train(state, spec.hparams, num_updates=updates))
        on_disk = seconds_of_run(spec, short + updates) - seconds_of_run(spec, short)
        return bare / updates, on_disk / updates

    if warm_up:
        both()
    pairs = np.array([both() for _ in range(repeats)])
    bare_time, disk_time = np.median(pairs, axis=0)
    total = num_updates(spec.config, preset.total_steps)
    with tempfile.TemporaryDirectory() as directory:
        run = write_run(Path(directory), spec, preset.total_steps)
        number = total // evaluation_interval(run, agent, total)
    trained, _ = agent.train(state, spec.hparams, num_updates=updates)

    def evaluate():
        return agent.evaluate(trained, evaluation_key(), num_episodes=EPISODES_DURING_TRAINING)

    seconds(evaluate)
    evaluation = float(np.median([seconds(evaluate) for _ in range(repeats)]))
    row = {
        "environment": name,
        "updates": str(updates),
        "bare train, ms per update": f"{bare_time * 1e3:.2f}",
        "run on disk, ms per update": f"{disk_time * 1e3:.2f}",
        "overhead": f"{np.median(pairs[:, 1] / pairs[:, 0]) - 1:.1%}",
        "evaluations by default": str(number),
        "ms each": f"{evaluation * 1e3:.1f}",
        "share of training": f"{number * evaluation / (total * bare_time):.1%}",
    }
    print(row, flush=True)
    return row


def seconds_of_run(spec: RunSpec, updates: int) -> float:
    with tempfile.TemporaryDirectory() as directory:
        steps = updates * spec.config.batch_size
        run = write_run(Path(directory), spec, steps, RunOptions(eval_every=0, eval_episodes=1))
        agent = make_agent(spec)
        started = time.perf_counter()
        carry_out(run, agent, Console(file=io.StringIO()))
        return time.perf_counter() - started


def starts(repeats: int) -> list[list[str]]:
    """The first start with an empty compilation cache, the second with what it left."""
    rows = []
    for _ in range(max(1, repeats // 2)):
        with tempfile.TemporaryDirectory() as directory:
            rows.append([seconds_to_first_update(Path(directory), name) for name in "ab"])
    first, second = np.median(rows, axis=0)
    values = first, second, second / first
    return [[name, f"{value:.2f}"] for name, value in zip(STARTS, values, strict=True)]


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
    process.terminate()
    process.wait()
    return seconds


if __name__ == "__main__":
    main()
