"""Does `doctor` name the fault, and is it silent on healthy runs?

python benchmarks/doctor.py

Every fault is injected into real training, over several seeds; what the doctor's main finding is
goes into a confusion table. Healthy runs are the presets themselves. Records are written and read
back as those of runs are; with --histories they are kept, so that a rule can be changed without
training again.
"""

import argparse
import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import report
from injected import FAULTS, SILENT, Training, healthy, keeps_its_limit, train

import trpo_jax
from trpo_jax.experiments.loggers import to_records
from trpo_jax.experiments.run_directory import read_histories
from trpo_jax.learner.trpo import build_agent

LIMITED = ("cpo", "lagrangian")
"""Algorithms that train on Catch with a limit that can be kept."""
HEALTHY = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0", "Catch-bsuite")
NOTES = """\
Thresholds were chosen on runs of this benchmark: this is how well they fit, not how well they would
do on other environments. A favoured action on Pendulum takes the return hardly below that of the
first policy; it is told by how much of the advantages one direction explains.
Records that --histories found were trained by the code of their day, the rules are today's."""
History = dict[str, np.ndarray]


def histories(
    label: str, training: Training, seeds: int, updates: int, directory: Path
) -> list[History]:
    """The records of a training, one per seed; those in `directory` if they are there.

    They are written as a run does; the file is whole or not there.
    """
    name = f"{label}-{training.env.name}-{seeds}x{updates}".replace("/", "-")
    file = directory / f"{name}.jsonl"
    if not file.is_file():
        history = train(training, seeds, updates)
        records = to_records(history, 0, training.config.batch_size, list(range(seeds)))
        unfinished = file.with_suffix(".part")
        unfinished.write_text("".join(json.dumps(record) + "\n" for record in records))
        os.replace(unfinished, file)
        # XLA's CPU client dies when a process has compiled some hundred programs.
        build_agent.cache_clear()
        jax.clear_caches()
    return read_histories(file, list(range(seeds)))


def diagnose(training: Training, records: list[History]) -> list[trpo_jax.Diagnosis]:
    """Every seed by itself."""
    continuous = isinstance(training.env.action_space, trpo_jax.Box)
    return [
        trpo_jax.diagnose(record, training.config, training.hparams, continuous=continuous)
        for record in records
    ]


def is_right(training: Training, diagnosis: trpo_jax.Diagnosis) -> bool:
    """The fault is the main finding; of a healthy run, nothing is severe."""
    if training.expected == SILENT:
        return not diagnosis.severe
    return bool(diagnosis.findings) and diagnosis.findings[0].name == training.expected


def row(label: str, training: Training, diagnoses: list[trpo_jax.Diagnosis]) -> dict[str, str]:
    """One row of the table."""
    right = sum(is_right(training, each) for each in diagnoses)
    cells = {
        "injected": "nothing" if training.expected == SILENT else label.replace("_", " "),
        "environment": training.env.name,
        "right": f"{training.expected}: {right} of {len(diagnoses)}",
        "main findings": counted([f for each in diagnoses for f in each.findings[:1]]) or "–",
        "other findings": counted([f for each in diagnoses for f in each.findings[1:]]) or "–",
    }
    print(*cells.values(), sep=" | ", flush=True)
    return cells


def counted(findings: list[trpo_jax.Finding]) -> str:
    """Names with severity, and how often."""
    counts = Counter(f"{finding.name} ({finding.severity})" for finding in findings)
    return ", ".join(f"{name}: {count}" for name, count in counts.most_common())


def confusion_table(
    arguments: argparse.Namespace, directory: Path
) -> tuple[list[dict[str, str]], int, int]:
    """The rows, how many faulty runs got their name, how many healthy ones a severe finding."""
    faulty = [(f.__name__, f(env_id)) for f, env_ids in FAULTS.items() for env_id in env_ids]
    sound = [("healthy", healthy(env_id)) for env_id in HEALTHY]
    sound += [(f"limit-{name}", keeps_its_limit(name)("Catch-bsuite")) for name in LIMITED]
    if arguments.quick:
        faulty, sound = faulty[:1], sound[:1]
    rows, right, false_alarms = [], 0, 0
    for label, training in [*faulty, *sound]:
        size = arguments.seeds, arguments.updates
        if training.expected == SILENT:
            updates = arguments.healthy_steps // training.config.batch_size
            size = arguments.healthy_seeds, updates
        diagnoses = diagnose(training, histories(label, training, *size, directory))
        rows.append(row(label, training, diagnoses))
        if training.expected == SILENT:
            false_alarms += sum(each.severe for each in diagnoses)
        else:
            right += sum(is_right(training, each) for each in diagnoses)
    return rows, right, false_alarms


def main() -> None:
    parser = report.parser(__doc__, "doctor.md")
    parser.add_argument("--seeds", type=int, default=2, help="seeds per fault and environment")
    parser.add_argument("--updates", type=int, default=25, help="updates of a faulty run")
    parser.add_argument("--healthy-seeds", type=int, default=4)
    parser.add_argument("--healthy-steps", type=int, default=100_000)
    parser.add_argument("--histories", type=Path, help="directory in which records are kept")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = arguments.healthy_seeds = 1
        arguments.updates, arguments.healthy_steps = 3, 8192
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.histories or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        rows, right, false_alarms = confusion_table(arguments, directory)
    num_faulty = arguments.seeds * sum(map(len, FAULTS.values()))
    num_healthy = arguments.healthy_seeds * len(HEALTHY + LIMITED)
    report.write(
        arguments.out,
        "Does the doctor name the fault?",
        f"{right} of {num_faulty} faulty runs: the fault is the main finding. {false_alarms} of "
        f"{num_healthy} healthy runs have a severe finding. Every run is diagnosed by itself. "
        f"Faulty runs have {arguments.updates} updates of 1024 steps; healthy ones are "
        f"{arguments.healthy_steps:,} steps of the preset.",
        report.records(rows),
        NOTES,
        "What is injected:",
        "\n".join(f"- {fault.__name__.replace('_', ' ')}: {fault.__doc__}" for fault in FAULTS),
    )


if __name__ == "__main__":
    main()
