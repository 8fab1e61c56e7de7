"""What follows from the measurements: time until solved, and whether the goals are met."""

import math
import statistics
from typing import Any

from client import TITLES
from stillness import STILL

Rows = list[list[str]]
Entry = dict[str, Any]


def basis(*entries: Entry) -> str:
    """ "seconds" where the machine was still for all of these timings, else "cpu_seconds"."""
    return "seconds" if all(entry["others"] <= STILL for entry in entries) else "cpu_seconds"


def best(found: dict[str, Entry], base: str) -> Entry | None:
    """The cheaper of a peer's entries, which differ in threads; None if it was not measured."""
    own = [entry for name, entry in found.items() if name.partition("@")[0] == base]
    kind = basis(*own)
    return min(own, key=lambda entry: entry[kind], default=None)


def solved_at(curve: list[float], goal: dict[str, Any]) -> float:
    """Updates until the first evaluation at or above the threshold; infinite if never."""
    reached = [i for i, value in enumerate(curve) if value >= goal["threshold"]]
    return goal["every"] * (reached[0] + 1) if reached else float("inf")


def entries(results: dict[str, Any], study: str, env_id: str) -> dict[str, Entry]:
    """What a study found for each peer; empty where it was not made."""
    return results.get(study, {}).get(env_id, {}).get("peers", {})


def solved_basis(results: dict[str, Any], env_id: str) -> str:
    """Which time is told until an environment is solved: the same for training and cold start."""
    speeds, starts = (entries(results, study, env_id) for study in ("speed", "start"))
    return basis(*speeds.values(), *starts.values())


def solved_times(results: dict[str, Any], env_id: str) -> dict[str, dict[str, float]]:
    """Per peer: seconds until solved, of training alone and from a cold start.

    The median over seeds of the updates needed, times the seconds of one; NaN where that was not
    measured.
    """
    study, kind = results["learning"][env_id], solved_basis(results, env_id)
    times = {}
    for name, curves in study["curves"].items():
        updates = statistics.median(solved_at(curve, study["goal"]) for curve in curves.values())
        base = name.partition("@")[0]
        speed = best(entries(results, "speed", env_id), base)
        start = best(entries(results, "start", env_id), base)
        training = updates * speed[kind] / speed["updates"] if speed else math.nan
        times[name] = {"training": training, "cold": training + start[kind] if start else math.nan}
    return times


def goals_met(results: dict[str, Any]) -> Rows:
    """Each goal of the project with what was measured; rows only for what there is."""
    return [*_speed_goals(results), *_solved_goals(results), *_update_goals(results)]


def _row(goal: str, ratio: float, met: bool, kind: str) -> list[str]:
    words = {"seconds": "wall", "cpu_seconds": "CPU"}
    return [goal, f"{ratio:.2f}", words[kind], "yes" if met else "no"]


def _speed_goals(results: dict[str, Any]) -> Rows:
    rows: Rows = []
    speeds = entries(results, "speed", "CartPole-v1")
    ours = speeds.get("trpo_jax")
    for base in ("sb3", "tianshou", "rejax"):
        peer = best(speeds, base)
        if ours is None or peer is None:
            continue
        kind = basis(ours, peer)
        ratio = (peer[kind] / peer["updates"]) / (ours[kind] / ours["updates"])
        if base == "rejax":
            goal = "CartPole: one iteration of ours ≤ 0.8 of rejax PPO's"
            rows.append(_row(goal, 1 / ratio, 1 / ratio <= 0.8, kind))
        else:
            goal = f"CartPole end to end: {TITLES[base]} takes ≥ 30 times ours"
            rows.append(_row(goal, ratio, ratio >= 30, kind))
    return rows


def _solved_goals(results: dict[str, Any]) -> Rows:
    rows: Rows = []
    if "CartPole-v1" not in results.get("learning", {}):
        return rows
    times, kind = solved_times(results, "CartPole-v1"), solved_basis(results, "CartPole-v1")
    for name, found in times.items():
        base = name.partition("@")[0]
        if base not in ("sb3", "tianshou") or "trpo_jax" not in times:
            continue
        for which, words in (("training", ""), ("cold", ", from a cold start")):
            ratio = found[which] / times["trpo_jax"][which]
            goal = f"CartPole solved: {TITLES[base]} takes ≥ 30 times ours{words}"
            if not math.isnan(ratio):
                rows.append(_row(goal, ratio, ratio >= 30, kind))
    return rows


def _update_goals(results: dict[str, Any]) -> Rows:
    rows: Rows = []
    for label, study in results.get("update", {}).items():
        for fit, words in (("none", "policy step"), ("minibatch", "policy step and value fit")):
            found = {
                name: entry["fits"][fit]
                for name, entry in study["peers"].items()
                if fit in entry["fits"]
            }
            ours, peer = found.get("trpo_jax"), best(found, "sb3")
            if ours and peer:
                kind = basis(ours, peer)
                ratio = peer[kind] / ours[kind]
                goal = f"{label}: {words} of sb3-contrib takes ≥ 3 times ours"
                rows.append(_row(goal, ratio, ratio >= 3, kind))
    return rows
