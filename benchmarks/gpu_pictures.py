"""Pictures of `gpu.py`'s records; one that cannot be drawn is left out."""

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

Records = dict[str, dict]


def _throughput(axes: Axes, records: Records) -> None:
    for name in ("cartpole", "breakout", "hopper", "ant"):
        rows = sorted(records.get(name, {"rows": []})["rows"], key=lambda row: row["num_envs"])
        for key, style in (("rollout", "-"), ("training", "--")):
            values = [row[f"{key}_steps_per_second"] for row in rows]
            axes.plot([row["num_envs"] for row in rows], values, style, marker="o",
                      label=f"{name}, {key}")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="environments", ylabel="steps per second")


def _lanes(axes: Axes, records: Records) -> None:
    rows = sorted(records["lanes"]["rows"], key=lambda row: row["lanes"])
    axes.plot([row["lanes"] for row in rows], [row["ms_per_lane"] for row in rows], marker="o")
    axes.set(xscale="log", yscale="log", xlabel="seeds side by side", ylabel="ms per update, each")


def _reward(axes: Axes, records: Records) -> None:
    rows = records["reward"]["rows"]
    axes.plot([row["seconds"] for row in rows], [row["mean_return"] for row in rows])
    axes.set(xlabel="seconds of training", ylabel="mean return of the episodes that ended")


def _roofline(axes: Axes, records: Records) -> None:
    rows = records["policy_step"]["rows"]
    axes.barh([row["shape"] for row in rows], [row["fraction_of_roofline"] for row in rows])
    axes.set(xlim=(0, 1), xlabel="policy step: share of the big product's rate")


_PICTURES: dict[str, Callable[[Axes, Records], None]] = {
    "throughput": _throughput,
    "lanes": _lanes,
    "reward": _reward,
    "roofline": _roofline,
}


def draw(records: Records, out: Path) -> list[str]:
    """Draw what the records allow; returns the names of the files in `out`."""
    names = []
    for name, picture in _PICTURES.items():
        figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
        try:
            picture(axes, records)
            if axes.has_data():
                if axes.get_legend_handles_labels()[0]:
                    axes.legend(fontsize="small")
                axes.grid(alpha=0.3)
                figure.savefig(out / f"{name}.png", dpi=120)
                names.append(f"{name}.png")
        except (KeyError, ValueError, TypeError) as error:
            print(f"no picture {name}: {type(error).__name__}: {error}")
        plt.close(figure)
    return names
