"""What follows from the measurements: time until solved, and whether the goals are met."""

import statistics
from typing import Any

from client import TITLES
from stillness import STILL

Rows = list[list[str]]
Entry = dict[str, Any]


def basis(*entries: Entry) -> str:
    """ "seconds" where the machine was still for all of these timings, else "cpu_seconds"."""
    return "seconds" if all(entry["others"] <= STILL for entry in entries) else "cpu_seconds"


def best(entries: dict[str, Entry], base: str) -> Entry | None:
    """The cheaper of a peer's entries, which differ in threads; None if it was not measured."""
    found = [entry for name, entry in entries.items() if name.partition("@")[0] == base]
    kind = basis(*found)
    return min(found, key=lambda entry: entry[kind], default=None)


def solved_at(curve: list[float], goal: dict[str, Any]) -> float:
    """Updates until the first evaluation at or above the threshold; infinite if never."""
    reached = [i for i, value in enumerate(curve) if value >= goal["threshold"]]
    return goal["every"] * (reached[0] + 1) if reached else float("inf")


def solved_times(results: dict[str, Any], env_id: str) -> dict[str, dict[str, float]]:
    """Per peer: median updates until solved, and seconds: training alone, and from a cold start.

    All of one kind: wall time if the machine was still for all of them, else CPU time.
    """
    study = results["learning"][env_id]
    speeds = results.get("speed", {}).get(env_id, {}).get("peers", {})
    starts = results.get("start", {}).get("CartPole-v1", {}).get("peers", {})
    kind = basis(*speeds.values(), *starts.values())
    times = {}
    for name, curves in study["curves"].items():
        updates = statistics.median(solved_at(curve, study["goal"]) for curve in curves.values())
        speed = best(speeds, name.partition("@")[0])
        start = best(_total(starts), name.partition("@")[0])
        each = speed[kind] / speed["updates"] if speed else float("nan")
        before = start[kind] if start else float("nan")
        times[name] = {
            "updates": updates,
            "training": updates * each,
            "cold": updates * each + before,
        }
    return times


def _total(starts: dict[str, Entry]) -> dict[str, Entry]:
    """Start and compilation together."""
    return {
        name: {
            "others": entry["others"],
            "seconds": entry["start_seconds"] + entry["compile_seconds"],
            "cpu_seconds": entry["start_cpu_seconds"] + entry["compile_cpu_seconds"],
        }
        for name, entry in starts.items()
    }


def goals_met(results: dict[str, Any]) -> Rows:
    """Each goal of the project with what was measured; rows only for what there is."""
    return [*_speed_goals(results), *_solved_goals(results), *_update_goals(results)]


def _row(goal: str, ratio: float, met: bool, kind: str) -> list[str]:
    words = {"seconds": "wall", "cpu_seconds": "CPU"}
    return [goal, f"{ratio:.2f}", words[kind], "yes" if met else "no"]


def _speed_goals(results: dict[str, Any]) -> Rows:
    rows: Rows = []
    speeds = results.get("speed", {}).get("CartPole-v1", {}).get("peers", {})
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
    if not results.get("speed") or "CartPole-v1" not in results.get("learning", {}):
        return rows
    times = solved_times(results, "CartPole-v1")
    starts = results.get("start", {}).get("CartPole-v1", {}).get("peers", {})
    used = basis(*results["speed"]["CartPole-v1"]["peers"].values(), *starts.values())
    for name, found in times.items():
        base = name.partition("@")[0]
        if base not in ("sb3", "tianshou") or "trpo_jax" not in times:
            continue
        for which, words in (("training", ""), ("cold", " (with start and compilation)")):
            ratio = found[which] / times["trpo_jax"][which]
            goal = f"CartPole solved: {TITLES[base]} takes ≥ 30 times ours{words}"
            rows.append(_row(goal, ratio, ratio >= 30, used))
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
