"""The report of `published.py`: a table per protocol, comparisons of settings, and the curves."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import report

import trpo_jax
from trpo_jax.experiments.figures import COLORS, draw_line, new_figure, save_figure
from trpo_jax.experiments.statistics import interquartile_mean, stratified_interval

# Return at 1 M steps ± what the source gives, of tasks of version 4 or older.
# Maximum over training of the test return, ten seeds: tianshou's TRPO.
TIANSHOU = {
    "HalfCheetah": "4471 ± 805", "Hopper": "2046 ± 1038", "Walker2d": "3827 ± 783",
    "Ant": "2867 ± 708", "Swimmer": "41 ± 20", "Humanoid": "810 ± 126", "Reacher": "−5.1 ± 0.8",
    "InvertedPendulum": "1000 ± 0", "InvertedDoublePendulum": "8435 ± 1073",
}  # fmt: skip
# Evaluation of the final policy: sb3-contrib's documentation, three seeds; RL-Zoo, tuned, one run.
SB3 = {
    "HalfCheetah": "1803 ± 46", "Hopper": "3372 ± 215", "Walker2d": "4502 ± 234",
    "Ant": "3554 ± 591", "Swimmer": "359 ± 2",
}  # fmt: skip
ZOO = {
    "HalfCheetah": "1785 ± 69", "Hopper": "3618 ± 357", "Walker2d": "4933 ± 1453",
    "Ant": "4982 ± 664", "Swimmer": "366 ± 2",
}  # fmt: skip
TARGETS = {
    "HalfCheetah": 4471, "Hopper": 3618, "Walker2d": 4933, "Ant": 4982, "Swimmer": 366,
    "Humanoid": 810, "Reacher": -4.8, "InvertedPendulum": 1000, "InvertedDoublePendulum": 8435,
}  # fmt: skip
"""The best published TRPO at 1 M steps, whatever its protocol."""
HEADER = (
    "task", "method", "seeds", "steps", "final policy, deterministic: mean ± sd", "IQM [95 %]",
    "worst seed", "sb3-contrib", "RL-Zoo (1 run)", "last 100 training episodes",
    "maximum of the tests", "tianshou", "best published", "minutes", "measured",
)  # fmt: skip


def describe(config: trpo_jax.TRPOConfig, hparams: trpo_jax.HParams) -> dict[str, Any]:
    """All settings that are not the library's defaults."""
    found = {}
    for mine, default in ((config, trpo_jax.TRPOConfig()), (hparams, trpo_jax.HParams())):
        for field in dataclasses.fields(default):
            value = getattr(mine, field.name)
            if value != getattr(default, field.name):
                found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def write(folder: Path, out: Path) -> None:
    """Write the report of all JSON files in a folder, and its picture."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    tasks = [row for row in rows if not row["tried"]]
    tried = [row for row in rows if row["tried"]]
    tasks.sort(key=lambda row: (row["env"], row["method"] != "trpo", row["method"]))
    sections = [
        "All seeds of a row train side by side in one process, on a machine with other work; "
        "minutes are those of training alone, of all seeds. Three protocols, never to be compared "
        "with each other: the deterministic evaluation of the final policy (20 episodes a seed; "
        "beside it sb3-contrib's documentation and RL-Zoo, which evaluate so); the mean of the "
        "last 100 training episodes; and the maximum over training of the mean of 10 test episodes "
        "(20 tests), as tianshou reports. `best published` is the best "
        "return of any TRPO at 1 M steps, whatever its protocol. Published numbers are of "
        "MuJoCo v4 and older; nobody has published v5. IQM and its interval are rliable's.",
        report.table(HEADER, [_cells(row) for row in tasks]),
    ]
    if tasks:
        _draw(tasks, out)
        sections.append(f"![Training returns over steps]({out.stem}.png)")
        sections += ["## Settings", _settings(tasks)]
    if tried:
        sections += ["## Settings compared", _compared(tried)]
    report.write(out, "TRPO beside everything published", *sections)


def _cells(row: dict[str, Any]) -> list[str]:
    final = np.mean(row["final"], axis=1)
    best = np.max(row["tests"], axis=1)
    low, high = stratified_interval(interquartile_mean, final[:, None])
    task, _, version = row["env"].partition("/")[2].partition("-v")
    old = row["method"] == "trpo" and version and int(version) <= 4 and row["total_steps"] < 1.1e6
    digits = 0 if np.abs(final).max() >= 100 else 2
    columns = [each.get(task, "–") if old else "" for each in (SB3, ZOO, TIANSHOU)]
    target = f"{TARGETS[task]:g}" if old and task in TARGETS else ""

    def spread(values: Sequence[float]) -> str:
        return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"

    return [
        row["env"], row["method"], str(len(final)), f"{row['total_steps']:,}", spread(final),
        f"{interquartile_mean(final):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]",
        f"{final.min():.{digits}f}", columns[0], columns[1], spread(row["last_100"]), spread(best),
        columns[2], target, f"{row['seconds'] / 60:.1f}",
        row["measured"].partition("commit ")[2].partition(",")[0],
    ]  # fmt: skip


def _settings(tasks: Sequence[dict[str, Any]]) -> str:
    rows = [[row["env"], row["method"], _short(row["settings"])] for row in tasks]
    return "What differs from the library's defaults.\n\n" + report.table(
        ["task", "method", "settings"], rows
    )


def _compared(tried: Sequence[dict[str, Any]]) -> str:
    rows = []
    for row in tried:
        for label in dict.fromkeys(row["tried"]):
            lanes = [i for i, each in enumerate(row["tried"]) if each == label]
            final = np.mean(np.array(row["final"])[lanes], axis=1)
            digits = 0 if np.abs(final).max() >= 100 else 2
            changed = _short(json.loads(label)) if label else ""
            rows.append([
                row["env"], row["method"], f"{row['total_steps']:,}",
                ", ".join(each for each in (*row["set"], changed) if each),
                f"{final.mean():.{digits}f}",
                ", ".join(f"{each:.{digits}f}" for each in final),
                f"{np.mean(np.array(row['last_100'])[lanes]):.{digits}f}",
            ])  # fmt: skip
    header = ["task", "method", "steps", "instead of the preset", "mean", "by seed", "last 100"]
    return "Seeds 100, 101, 102; deterministic evaluation of the final policy.\n\n" + report.table(
        header, rows
    )


def _short(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _draw(tasks: Sequence[dict[str, Any]], out: Path) -> None:
    names = list(dict.fromkeys(row["env"] for row in tasks))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = new_figure((4 * columns, 2.8 * lines), constrained=True)
    axes = np.ravel(figure.subplots(lines, columns, squeeze=False))
    colors = dict(zip(("trpo", "npg", "ppo", "vpg"), COLORS, strict=False))
    for axis, name in zip(axes, names, strict=False):
        mine = [row for row in tasks if row["env"] == name]
        for row in mine:
            style = {"color": colors[row["method"]], "label": row["method"]}
            draw_line(axis, np.array(row["steps"]) / 1e6, np.array(row["returns"]), **style)
        axis.set(title=name, xlabel="million steps")
        if len(mine) > 1:
            axis.legend()
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    save_figure(figure, out.with_suffix(""), ["png"])
