"""One picture: returns against environment steps and against seconds of training."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from client import TITLES
from goals import basis, best, entries

_COLOURS = {"trpo_jax": "C3", "sb3": "C0", "tianshou": "C2", "rejax": "C1"}


def draw(path: Path, results: dict[str, Any]) -> None:
    """A column per environment; above against steps, below against seconds (logarithmic)."""
    studies = results["learning"]
    figure, axes = plt.subplots(
        2, len(studies), figsize=(4 * len(studies), 6), squeeze=False, layout="constrained"
    )
    for column, (env_id, study) in enumerate(studies.items()):
        above, below = axes[:, column]
        speeds = entries(results, "speed", env_id)
        kind = basis(*speeds.values())
        for name, curves in study["curves"].items():
            base = name.partition("@")[0]
            speed = best(speeds, base)
            each = speed[kind] / speed["updates"] if speed else None
            _draw_curves(above, below, base, curves, study, each)
        above.set(title=env_id, xlabel="environment steps")
        unit = "seconds" if kind == "seconds" else "CPU seconds"
        below.set(xlabel=f"{unit} of training, without compilation", xscale="log")
        for panel in (above, below):
            panel.axhline(study["goal"]["threshold"], color="grey", linewidth=0.8, linestyle=":")
    axes[0, 0].set_ylabel("return")
    axes[1, 0].set_ylabel("return")
    axes[0, 0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_curves(above, below, base: str, curves, study, seconds_per_update) -> None:
    batch = study["settings"]["num_envs"] * study["settings"]["num_steps"]
    length = min(len(curve) for curve in curves.values())
    table = np.array([curve[:length] for curve in curves.values()])
    updates = study["goal"]["every"] * np.arange(1, length + 1)
    style = {"color": _COLOURS[base]}
    for panel, unit in ((above, batch), (below, seconds_per_update)):
        if unit is None:
            continue
        panel.plot(updates * unit, table.mean(axis=0), label=TITLES[base], **style)
        panel.fill_between(
            updates * unit, table.min(axis=0), table.max(axis=0), alpha=0.15, linewidth=0, **style
        )
