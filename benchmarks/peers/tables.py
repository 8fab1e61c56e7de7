"""From the JSON of all studies to the tables of results/peers.md."""

from pathlib import Path
from typing import Any

import picture
import report
from curve_tables import returns, solved
from goals import Rows, goals_met
from words import INTRODUCTION, disturbance, relative, stamps, title


def write(path: Path, results: dict[str, Any]) -> None:
    """Write the report and its picture; only of what there is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sections = [
        part
        for name, build in _SECTIONS.items()
        if results.get(name) or name in ("goals", "solved")
        for part in build(results)
    ]
    if results.get("learning"):
        picture.draw(path.with_suffix(".png"), results)
        sections.append(f"![Learning curves]({path.with_suffix('.png').name})")
    text = "\n\n".join(["# Beside the peers", INTRODUCTION, *sections]) + "\n"
    path.write_text(text, encoding="utf-8")


def _dynamics(results: dict[str, Any]) -> list[str]:
    rows = [
        [env_id, title(name), f"{entry['difference']:.1e}", str(entry["max_episode_steps"])]
        for env_id, study in results["dynamics"].items()
        for name, entry in study["peers"].items()
        if name != "trpo_jax"
    ]
    return [
        "## Same environments",
        "One step from 200 random states each: the largest difference from trpo_jax in any "
        "observation, reward or termination, and the time limit (ours: 500, 500, 200).",
        report.table(("environment", "peer", "largest difference", "time limit"), rows),
        stamps(results["dynamics"]),
    ]


def _speed(results: dict[str, Any]) -> list[str]:
    rows: Rows = []
    for env_id, study in results["speed"].items():
        ours = study["peers"].get("trpo_jax")
        batch = study["settings"]["num_envs"] * study["settings"]["num_steps"]
        for name, entry in study["peers"].items():
            each = entry["seconds_per_update"]
            rows.append([
                env_id, title(name), f"{1e3 * each:.1f}", f"{batch / each:,.0f}",
                f"{1e3 * entry['cpu_seconds_per_update']:.1f}",
                relative(entry, ours, "cpu_seconds_per_update"), *disturbance(entry),
            ])  # fmt: skip
    header = ("environment", "peer", "ms per iteration", "steps/s", "CPU ms",
              "CPU time relative to trpo_jax", "others", "timings used")  # fmt: skip
    return [
        "## End to end: rollout and update",
        "CPU ms: of all threads of the process, the median of all timings.",
        report.table(header, rows),
        stamps(results["speed"]),
    ]


def _update(results: dict[str, Any]) -> list[str]:
    times: Rows = []
    meaning: Rows = []
    for label, study in results["update"].items():
        peers = study["peers"]
        for name, entry in peers.items():
            for fit, timing in entry["fits"].items():
                ours = peers.get("trpo_jax", {}).get("fits", {}).get(fit)
                error = "" if fit == "none" else f"{timing['value_error']:.3f}"
                times.append([
                    label, title(name), _FITS[fit], f"{1e3 * timing['seconds']:.1f}",
                    f"{1e3 * timing['cpu_seconds']:.1f}", relative(timing, ours, "cpu_seconds"),
                    error, *disturbance(timing),
                ])  # fmt: skip
            if "@" not in name or name.partition("@")[0] not in peers:
                meaning.append([
                    label, title(name), f"{entry['kl_as_it_is']:.4f}", f"{entry['kl']:.4f}",
                    f"{entry['improvement']:.4f}",
                    f"{entry['distance']:.1e}" if "distance" in entry else "",
                ])  # fmt: skip
    return [
        "## One update alone, on the same batch from the same weights",
        "Batches are made by `peers/given.py`. Without compilation; the value error is that of the "
        "critic after its fit.",
        report.table(
            (
                "batch",
                "peer",
                "value fit",
                "ms",
                "CPU ms",
                "CPU time relative to trpo_jax",
                "value error",
                "others",
                "timings used",
            ),
            times,
        ),
        "Is it the same update? KL (summed over action dimensions) and improvement of the "
        "surrogate are computed by NumPy in float64 from the weights that each peer returned; the "
        "distance is ‖θ − θ_trpo_jax‖ / ‖θ_trpo_jax − θ_old‖. With δ = 0.01 as it "
        "is, sb3-contrib bounds the *mean* over dimensions; with δ and damping divided by their "
        "number it makes our step.",
        report.table(
            (
                "batch",
                "peer",
                "KL with δ = 0.01 as it is",
                "KL with joint δ = 0.01",
                "improvement",
                "distance",
            ),
            meaning,
        ),
        stamps(results["update"]),
    ]


_FITS = {"none": "none", "minibatch": "10 epochs of 128", "full": "10 steps, full batch"}


def _brax(results: dict[str, Any]) -> list[str]:
    rows: Rows = []
    for env_id, study in results["brax"].items():
        ours = study["peers"].get("trpo_jax")
        batch = study["settings"]["num_envs"] * study["settings"]["num_steps"]
        for name, entry in study["peers"].items():
            each = entry["seconds_per_update"]
            rows.append([
                env_id, title(name), f"{1e3 * each:.0f}", f"{batch / each:,.0f}",
                relative(entry, ours, "seconds_per_update"), f"{entry['compile_seconds']:.0f}",
            ])  # fmt: skip
    return [
        "## Beside brax's own PPO",
        "Spring backend, 32 environments × 64 steps, minibatch 128, 10 epochs.",
        report.table(
            (
                "environment",
                "peer",
                "ms per iteration",
                "steps/s",
                "time relative to trpo_jax",
                "compilation, s",
            ),
            rows,
        ),
        stamps(results["brax"]),
    ]


def _goals(results: dict[str, Any]) -> list[str]:
    rows = goals_met(results)
    header = ("goal", "measured", "by which time", "met")
    return ["## Goals", _GOALS, report.table(header, rows)] if rows else []


def _start(results: dict[str, Any]) -> list[str]:
    rows = [
        [env_id, title(name), f"{entry['seconds']:.1f}", f"{entry['cpu_seconds']:.1f}",
         relative(entry, study["peers"].get("trpo_jax"), "cpu_seconds"), *disturbance(entry)]
        for env_id, study in results["start"].items()
        for name, entry in study["peers"].items()
    ]  # fmt: skip
    header = ("environment", "peer", "s", "CPU s", "CPU time relative to trpo_jax", "others",
              "timings used")  # fmt: skip
    return [
        "## Cold start",
        "From the start of the process to the end of its first training (2 iterations), less what "
        "the same training takes the second time: imports, environment, networks and compilation, "
        "without a compilation cache.",
        report.table(header, rows),
        stamps(results["start"]),
    ]


_GOALS = (
    "Each is held against what was measured below, no more: where that is CPU time, of a PyTorch "
    "peer with one thread, a still machine and a thread per core may say otherwise."
)

_SECTIONS = {
    "goals": _goals,
    "speed": _speed,
    "start": _start,
    "solved": solved,
    "learning": returns,
    "update": _update,
    "brax": _brax,
    "dynamics": _dynamics,
}
