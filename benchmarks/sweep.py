"""A sweep of 64 runs from the command line, and how far its lanes are the single runs.

python benchmarks/sweep.py
"""

import contextlib
import io
import json
import logging
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
import report
from jax.flatten_util import ravel_pytree

import trpo_jax
from trpo_jax.cli import main as command
from trpo_jax.experiments.sweep import SweepResult

AXES = "--max-kl 0.003 0.01 0.03 0.1 --gae-lambda 0.8 0.9 0.95 0.98"
QUICK_AXES = "--max-kl 0.003 0.03 --gae-lambda 0.9 0.98 --num-envs 2 --num-steps 16"
SMALL = trpo_jax.TRPOConfig(num_envs=4, num_steps=64, hidden_sizes=(32,))
GRID = {"max_kl": [0.003, 0.03], "gae_lambda": [0.9, 0.98]}
SEEDS = (0, 1, 2)
UPDATES = (1, 2, 5, 10)
WIDTHS = (12, 5, 1)


def main() -> None:
    parser = report.parser(__doc__, "sweep.md")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--total-steps", type=int, default=51_200)
    parser.add_argument("--episodes", type=int, default=256)
    arguments = parser.parse_args()
    size = arguments.seeds, arguments.total_steps, arguments.episodes
    if arguments.quick:
        sections = from_the_command_line(QUICK_AXES, 1, 128, 2)
    else:
        sections = from_the_command_line(AXES, *size)
    report.write(
        arguments.out,
        "Sweeps",
        *sections,
        "## Is a lane the single run?",
        "Twelve lanes of a smaller sweep, all at once, against the single runs with the same seeds "
        "and settings (`agent.train`), against the same lanes in slices of 5 and of 1, and against "
        "the same sweep again. The difference is ‖Δθ‖ / ‖θ‖ of the policy's parameters, "
        "the largest of the lanes. Batched and single products round differently, "
        "by 1e-7; training amplifies that.",
        report.records(independence(*((1,), (6,)) if arguments.quick else (UPDATES, WIDTHS))),
    )


def from_the_command_line(axes: str, seeds: int, total_steps: int, episodes: int) -> list[str]:
    """The sweep as a user types it: programs, seconds, table, and its best lane evaluated."""
    words = f"sweep CartPole-v1 {axes} --seeds {seeds} --total-steps {total_steps}"
    out = Path(tempfile.mkdtemp()) / "sweep"
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    with compiled_programs() as programs:
        printed = run(f"{words} --out {out}")
    best = json.loads(run(f"evaluate {out} --best --episodes {episodes} --json"))
    lines = (out / "results.csv").read_text().splitlines()
    print(f"sweep directory: {out}")
    rows = [line.split(",") for line in lines[1:]]
    pictures = ", ".join(sorted(file.name for file in out.glob("*.png")))
    return [
        f"## {len(rows) * seeds} runs from the command line",
        f"`trpo-jax {words}`. Programs compiled that hold the training: {programs['advance']}; "
        f"that hold the evaluation: {programs['play']}. Pictures: {pictures}.",
        f"`trpo-jax evaluate SWEEP --best --episodes {episodes}`: {best['mean']:.2f} "
        f"[{best['low']:.2f}, {best['high']:.2f}] (asked for: 475).",
        "results.csv, rounded; mean over seeds of each run's evaluation, its 95 % bootstrap "
        "interval, and the interquartile mean:",
        report.table(
            lines[0].split(","),
            [[*row[:2], *(f"{float(cell):.1f}" for cell in row[2:6]), *row[6:]] for row in rows],
        ),
        "The end of what it printed:",
        "```text\n" + "\n".join(printed.splitlines()[-19:-2]) + "\n```",
    ]


def run(words: str) -> str:
    """A command; what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = command(shlex.split(words))
    assert code == 0, words
    return printed.getvalue()


@contextlib.contextmanager
def compiled_programs():
    """Counts, by name, what is asked of the compiler meanwhile."""
    names: Counter[str] = Counter()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found = re.match(r"Finished XLA compilation of jit\((\w+)\)", record.getMessage())
            if found:
                names[found[1]] += 1

    logger, listener = logging.getLogger("jax._src.dispatch"), Listener()
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield names
    finally:
        logger.removeHandler(listener)


def independence(numbers_of_updates: Iterable[int], widths: Iterable[int]) -> list[dict]:
    """How far the lanes of a sweep depend on what runs beside them."""
    env = trpo_jax.make_env("CartPole-v1")
    agent = trpo_jax.make_trpo(env, SMALL)
    rows = []
    for updates in numbers_of_updates:
        common = {"num_updates": updates, "seeds": SEEDS, "num_episodes": 1}
        whole = trpo_jax.sweep(env, SMALL, GRID, max_parallel=12, **common)
        lanes = range(len(whole.returns))
        for width in widths:
            other = trpo_jax.sweep(env, SMALL, GRID, max_parallel=width, **common)
            name = "the same again" if width == 12 else f"slices of {width}"
            rows.append(differences(name, updates, whole, [lane(other, i) for i in lanes]))
        singles = [
            agent.train(
                agent.init(jax.random.key(seed)),
                trpo_jax.HParams(**setting).as_arrays(),
                num_updates=updates,
            )
            for setting in whole.settings
            for seed in SEEDS
        ]
        pairs = [(state.policy_params, history.accepted) for state, history in singles]
        rows.append(differences("single runs", updates, whole, pairs))
    return sorted(rows, key=lambda row: row["12 lanes against"])


def lane(result: SweepResult, number: int):
    """Parameters of the policy and accept decisions."""
    params = jax.tree.map(lambda leaf: leaf[number], result.states.policy_params)
    return params, result.history.accepted[number]


def differences(name: str, updates: int, whole: SweepResult, others) -> dict[str, str]:
    """Lanes that are equal, the largest distance, decisions that are equal."""
    distances, decisions = [], []
    for number, (params, accepted) in enumerate(others):
        ours, our_decisions = lane(whole, number)
        left, right = (np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (ours, params))
        distances.append(np.linalg.norm(left - right) / np.linalg.norm(left))
        decisions += (np.asarray(accepted) == our_decisions).tolist()
    equal = sum(distance == 0 for distance in distances)
    return {
        "12 lanes against": name,
        "updates": str(updates),
        "policies equal bit for bit": f"{equal} of {len(distances)}",
        "largest relative difference": f"{max(distances):.1e}",
        "accept decisions equal": f"{np.mean(decisions):.1%}",
    }


if __name__ == "__main__":
    main()
