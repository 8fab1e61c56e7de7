"""One picture: returns against environment steps and against seconds of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pictures
from client import TITLES, base_of

_COLOURS = {"trpo_jax": "C3", "sb3": "C0", "tianshou": "C2", "rejax": "C1"}


def draw(path: Path, results: dict[str, Any], seconds_per_update: Callable) -> str:
    """A column per environment; above against steps, below against seconds (logarithmic)."""
    studies = results["learning"]
    figure, axes = pictures.panels(2 * len(studies), 4, 3, len(studies))
    for column, (env_id, study) in enumerate(studies.items()):
        above, below = axes[column], axes[column + len(studies)]
        kind, seconds = seconds_per_update(results, env_id)
        batch = study["settings"]["num_envs"] * study["settings"]["num_steps"]
        for name, curves in study["curves"].items():
            base = base_of(name)
            length = min(len(curve) for curve in curves.values())
            table = np.array([curve[:length] for curve in curves.values()])
            updates = study["goal"]["every"] * np.arange(1, length + 1)
            for panel, unit in ((above, batch), (below, seconds(base))):
                if unit is not None:
                    colour, band = _COLOURS[base], (table.min(axis=0), table.max(axis=0))
                    panel.plot(updates * unit, table.mean(axis=0), colour, label=TITLES[base])
                    panel.fill_between(updates * unit, *band, alpha=0.15, linewidth=0, color=colour)
        unit = "seconds" if kind == "seconds" else "CPU seconds"
        above.set(title=env_id, xlabel="environment steps", ylabel="return")
        below.set(xlabel=f"{unit} of training, without compilation", xscale="log", ylabel="return")
        for panel in (above, below):
            panel.axhline(study["goal"]["threshold"], color="grey", linewidth=0.8, linestyle=":")
    axes[0].legend(fontsize="small")
    return pictures.save(figure, path, "Learning curves")
