"""From the JSON of all studies to the tables of results/peers.md, and what follows from them."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import picture
import report
from client import TITLES, base_of, title
from turns import STILL

Entry = dict[str, Any]
Study = dict[str, Any]
Results = dict[str, dict[str, Study]]
Rows = list[dict[str, Any]]

INTRODUCTION = """\
Written by `python benchmarks/compare_peers.py`, study by study; each has its command, date and
machine below it, for every run that gave rows. Equal for all: 8 environments × 256 steps, 64 × 64
tanh for policy and critic, γ 0.99 (Pendulum 0.9), λ 0.95, joint δ 0.01, 10 CG iterations, damping
0.1, 10 line search tries × 0.8, 10 epochs of minibatch 128 with Adam 1e-3. What cannot be made
equal: tianshou fits its critic on the full batch, so an epoch is one step of Adam instead of 16;
PPO (rejax) moves policy and critic in each of the 160 minibatch steps.

Peers are timed in turn, at least three rounds, in one process each; a call is repeated until a
timing lasts half a second. PEER, 1 thread, is a PyTorch peer with one thread instead of one per
core. A wall time counts only if other processes took at most a tenth of the cores meanwhile; where
there were not three such, the three least disturbed count, and the column *others* says how much
they were disturbed. CPU time, of all threads of a process, hardly depends on others; a program's
wall time on a still machine is at most that. So where the machine was not still, peers are compared
by CPU time. That favours a peer of one thread: trpo_jax uses both cores. All without compilation
unless it says otherwise."""


def write(path: Path, results: Results) -> None:
    """Write the report and its picture; only of what there is."""
    sections = []
    for name, (heading, text, rows_of) in _SECTIONS.items():
        rows = rows_of(results) if callable(rows_of) else _simple_rows(results, name, rows_of)
        if rows:
            sections += [f"## {heading}", text, report.records(rows)]
        if rows and name == "update":
            sections += [_SAME_UPDATE, report.records(_meaning(results))]
        if rows and name in results:
            sections.append(stamps(_runs(results) if name == "learning" else results[name]))
    if results.get("learning"):
        picture_path = path.with_suffix(".png")
        sections.append(picture.draw(picture_path, results, seconds_per_update))
    report.write(path, "Beside the peers", INTRODUCTION, *sections, stamp=False)


def _simple_rows(results: Results, name: str, columns: dict[str, Callable]) -> Rows:
    """A row for each peer; columns {header: (entry, trpo_jax's entry, size of a batch) -> cell}."""
    rows = []
    for env_id, study in results.get(name, {}).items():
        ours, settings = study["peers"].get("trpo_jax"), study.get("settings", {})
        batch = settings.get("num_envs", 0) * settings.get("num_steps", 0)
        for peer, entry in study["peers"].items():
            if name != "dynamics" or entry is not ours:
                cells = {header: cell(entry, ours, batch) for header, cell in columns.items()}
                rows.append({"environment": env_id, "peer": title(peer), **cells})
    return rows


def _relative(kind: str) -> Callable[..., str]:
    """A cost of a peer as a multiple of ours."""
    return lambda entry, ours, *_: f"{entry[kind] / ours[kind]:.2f}" if ours and ours[kind] else ""


def _milliseconds(kind: str, digits: int = 1) -> Callable[..., str]:
    return lambda entry, *_: f"{1e3 * entry[kind]:.{digits}f}"


def _seconds(kind: str, digits: int = 1) -> Callable[..., str]:
    return lambda entry, *_: f"{entry[kind]:.{digits}f}"


def _rate(entry: Entry, ours: Entry, batch: int) -> str:
    return f"{batch / entry['seconds_per_update']:,.0f}"


_DISTURBANCE = {
    "others": lambda entry, *_: f"{100 * entry['others']:.0f} %",
    "timings used": lambda entry, *_: f"{entry['used']} of {entry['of']}",
}
_SPEED = {
    "ms per iteration": _milliseconds("seconds_per_update"),
    "steps/s": _rate,
    "CPU ms": _milliseconds("cpu_seconds_per_update"),
    "CPU time relative to trpo_jax": _relative("cpu_seconds_per_update"),
    **_DISTURBANCE,
}
_START = {
    "s": _seconds("seconds"),
    "CPU s": _seconds("cpu_seconds"),
    "CPU time relative to trpo_jax": _relative("cpu_seconds"),
    **_DISTURBANCE,
}
_BRAX = {
    "ms per iteration": _milliseconds("seconds_per_update", 0),
    "steps/s": _rate,
    "time relative to trpo_jax": _relative("seconds_per_update"),
    "compilation, s": _seconds("compile_seconds", 0),
}
_DYNAMICS = {
    "largest difference": lambda entry, *_: f"{entry['difference']:.1e}",
    "time limit": lambda entry, *_: str(entry["max_episode_steps"]),
}


def stamps(studies: dict[str, Study]) -> str:
    """Command, date, machine and versions, as a Markdown list; one for each command or day.

    `studies` are named after the rows that they gave; those names are told if there are several
    lists.
    """
    runs: dict[tuple[str, str, str], dict[str, Study]] = {}
    for rows, study in studies.items():
        runs.setdefault((study["command"], study["date"], study["hardware"]), {})[rows] = study
    parts = []
    for (command, date, hardware), covered in runs.items():
        versions = {
            TITLES[base_of(name)]: ", ".join(f"{k} {v}" for k, v in entry["versions"].items())
            for study in covered.values()
            for name, entry in study["peers"].items()
        }
        known = "; ".join(f"{name}: {each}" for name, each in versions.items())
        if len(runs) > 1:
            parts.append(f"Rows {'; '.join(covered)}:")
        parts.append("\n".join([command, f"- date: {date}", hardware, f"- versions: {known}"]))
    return "\n\n".join(parts)


def _runs(results: Results) -> dict[str, Study]:
    """Where the curves come from: by environment, or by seed where an environment has several."""
    named: dict[str, Study] = {}
    for env_id, study in results["learning"].items():
        runs = {
            f"{env_id}, {title(name)}, seed {seed}": run
            for name, seeds in study["runs"].items()
            for seed, run in seeds.items()
        }
        if len({(run["command"], run["date"]) for run in runs.values()}) == 1:
            peers = {name: entry for run in runs.values() for name, entry in run["peers"].items()}
            runs = {env_id: {**next(iter(runs.values())), "peers": peers}}
        named |= runs
    return named


def basis(*entries: Entry) -> str:
    """ "seconds" where the machine was still for all of these timings, else "cpu_seconds"."""
    return "seconds" if all(entry["others"] <= STILL for entry in entries) else "cpu_seconds"


def best(found: dict[str, Entry], base: str) -> Entry | None:
    """The cheaper of a peer's entries, which differ in threads; None if it was not measured."""
    own = [entry for name, entry in found.items() if base_of(name) == base]
    kind = basis(*own)
    return min(own, key=lambda entry: entry[kind], default=None)


def entries(results: Results, study: str, env_id: str) -> dict[str, Entry]:
    """What a study found for each peer; empty where it was not made."""
    return results.get(study, {}).get(env_id, {}).get("peers", {})


def seconds_per_update(results: Results, env_id: str) -> tuple[str, Callable]:
    """By which time, and peer -> that time of one iteration, None if it was not measured."""
    speeds = entries(results, "speed", env_id)
    kind = basis(*speeds.values())

    def each(base: str) -> float | None:
        speed = best(speeds, base)
        return speed[kind] / speed["updates"] if speed else None

    return kind, each


def solved_at(curve: list[float], goal: dict[str, Any]) -> float:
    """Updates until the first evaluation at or above the threshold; infinite if never."""
    reached = [i for i, value in enumerate(curve) if value >= goal["threshold"]]
    return goal["every"] * (reached[0] + 1) if reached else math.inf


def solved_times(results: Results, env_id: str) -> tuple[str, dict[str, dict[str, float]]]:
    """By which time, and per peer: until solved, of training alone and from a cold start.

    The median over seeds of the updates needed, times the seconds of one; NaN where that was not
    measured. The same time is told of both.
    """
    speeds, starts = (entries(results, study, env_id) for study in ("speed", "start"))
    study, kind, times = results["learning"][env_id], basis(*speeds.values(), *starts.values()), {}
    for name, curves in study["curves"].items():
        updates = statistics.median(solved_at(curve, study["goal"]) for curve in curves.values())
        speed, start = (best(found, base_of(name)) for found in (speeds, starts))
        training = updates * speed[kind] / speed["updates"] if speed else math.nan
        times[name] = {"training": training, "cold": training + start[kind] if start else math.nan}
    return kind, times


def goals_met(results: Results) -> list[dict[str, str]]:
    """Each goal of the project with what was measured; rows only for what there is."""
    found: list[tuple[str, float, float, str]] = []  # goal, at least, measured, by which time
    speeds = entries(results, "speed", "CartPole-v1")
    for base in ("sb3", "tianshou", "rejax"):
        ours, peer = speeds.get("trpo_jax"), best(speeds, base)
        if ours and peer:
            kind = basis(ours, peer)
            ratio = (peer[kind] / peer["updates"]) / (ours[kind] / ours["updates"])
            if base == "rejax":
                goal = "CartPole: one iteration of ours ≤ 0.8 of rejax PPO's"
                found.append((goal, -0.8, -1 / ratio, kind))
            else:
                goal = f"CartPole end to end: {TITLES[base]} takes ≥ 30 times ours"
                found.append((goal, 30, ratio, kind))
    if "CartPole-v1" in results.get("learning", {}):
        kind, times = solved_times(results, "CartPole-v1")
        for name in times if "trpo_jax" in times else ():
            for which, words in (("training", ""), ("cold", ", from a cold start")):
                if base_of(name) in ("sb3", "tianshou"):
                    goal = f"CartPole solved: {TITLES[base_of(name)]} takes ≥ 30 times ours{words}"
                    ratio = times[name][which] / times["trpo_jax"][which]
                    found.append((goal, 30, ratio, kind))
    for label, study in results.get("update", {}).items():
        for fit, words in (("none", "policy step"), ("minibatch", "policy step and value fit")):
            fits = {n: e["fits"][fit] for n, e in study["peers"].items() if fit in e["fits"]}
            ours, peer = fits.get("trpo_jax"), best(fits, "sb3")
            if ours and peer:
                kind = basis(ours, peer)
                goal = f"{label}: {words} of sb3-contrib takes ≥ 3 times ours"
                found.append((goal, 3, peer[kind] / ours[kind], kind))
    return [
        {
            "goal": goal,
            "measured": f"{abs(ratio):.2f}",
            "by which time": {"seconds": "wall", "cpu_seconds": "CPU"}[kind],
            "met": "yes" if ratio >= least else "no",
        }
        for goal, least, ratio, kind in found
        if not math.isnan(ratio)
    ]


def _solved(results: Results) -> Rows:
    rows = []
    for env_id, study in results.get("learning", {}).items():
        _, times = solved_times(results, env_id)
        ours = times.get("trpo_jax", {"training": math.nan, "cold": math.nan})
        for name, found in times.items():
            each = [solved_at(curve, study["goal"]) for curve in study["curves"][name].values()]
            rows.append({
                "environment": f"{env_id} ≥ {study['goal']['threshold']:.0f}",
                "peer": TITLES[base_of(name)],
                "updates needed, per seed": " ".join(_number(value, 0) for value in each),
                "training, s": _number(found["training"], 2),
                "times ours": _number(found["training"] / ours["training"], 1),
                "cold, s": _number(found["cold"], 1),
                "times ours, cold": _number(found["cold"] / ours["cold"], 1),
            })  # fmt: skip
    return rows


def _number(value: float, digits: int) -> str:
    """Of updates or seconds until something; infinite if it never came, NaN if nobody looked."""
    if math.isnan(value):
        return ""
    return f"{value:.{digits}f}" if math.isfinite(value) else "never"


def _returns(results: Results) -> Rows:
    rows = []
    for env_id, study in results.get("learning", {}).items():
        batch = study["settings"]["num_envs"] * study["settings"]["num_steps"]
        for name, curves in study["curves"].items():
            length = min(len(curve) for curve in curves.values())
            row = {
                **{"environment": env_id, "peer": TITLES[base_of(name)], "seeds": len(curves)},
                "steps": f"{batch * study['goal']['every'] * length:,}",
            }
            marks = {"after ¼": length // 4, "after ½": length // 2, "at the end": length}
            for column, mark in marks.items():
                mean = statistics.mean(curve[max(1, mark) - 1] for curve in curves.values())
                row[column] = f"{mean:.1f}"
            worst = min(curve[length - 1] for curve in curves.values())
            rows.append(row | {"worst seed": f"{worst:.1f}"})
    return rows


def _update(results: Results) -> Rows:
    names = {"none": "none", "minibatch": "10 epochs of 128", "full": "10 steps, full batch"}
    columns = {
        "ms": _milliseconds("seconds"),
        "CPU ms": _milliseconds("cpu_seconds"),
        "CPU time relative to trpo_jax": _relative("cpu_seconds"),
    }
    rows = []
    for label, study in results.get("update", {}).items():
        ours = study["peers"].get("trpo_jax", {"fits": {}})["fits"]
        for name, entry in study["peers"].items():
            for fit, timing in entry["fits"].items():
                error = "" if fit == "none" else f"{timing['value_error']:.3f}"
                rows.append({
                    **{"batch": label, "peer": title(name), "value fit": names[fit]},
                    **{header: cell(timing, ours.get(fit)) for header, cell in columns.items()},
                    "value error": error,
                    **{header: cell(timing) for header, cell in _DISTURBANCE.items()},
                })  # fmt: skip
    return rows


def _meaning(results: Results) -> Rows:
    return [
        {
            **{"batch": label, "peer": title(name)},
            "KL with δ = 0.01 as it is": f"{entry['kl_as_it_is']:.4f}",
            "KL with joint δ = 0.01": f"{entry['kl']:.4f}",
            "improvement": f"{entry['improvement']:.4f}",
            "distance": f"{entry['distance']:.1e}" if "distance" in entry else "",
        }
        for label, study in results["update"].items()
        for name, entry in study["peers"].items()
        if "@" not in name or base_of(name) not in study["peers"]
    ]


_SAME_UPDATE = """\
Is it the same update? KL (summed over action dimensions) and improvement of the \
surrogate are computed by NumPy in float64 from the weights that each peer returned; the \
distance is ‖θ − θ_trpo_jax‖ / ‖θ_trpo_jax − θ_old‖. With δ = 0.01 as it is, sb3-contrib bounds \
the *mean* over dimensions; with δ and damping divided by their number it makes our step."""
_SECTIONS = {
    "goals": (
        "Goals",
        "Each is held against what was measured below, no more: where that is CPU time, of a "
        "PyTorch peer with one thread, a still machine and a thread per core may say otherwise.",
        goals_met,
    ),
    "speed": (
        "End to end: rollout and update",
        "CPU ms: of all threads of the process, the median of all timings.",
        _SPEED,
    ),
    "start": (
        "Cold start",
        "From the start of the process to the end of its first training (2 iterations), less what "
        "the same training takes the second time: imports, environment, networks and compilation, "
        "without a compilation cache.",
        _START,
    ),
    "solved": (
        "Time to a solved environment",
        "Solved at the first evaluation (32 deterministic episodes, every 2 updates on CartPole, "
        "every 4 elsewhere, seed by seed) whose mean return reaches the threshold; evaluations are "
        "not timed. Seconds: the median over seeds of the updates needed, times the seconds per "
        "iteration of the table above (CPU seconds, unless the machine was still for all of them). "
        "Cold: with the cold start of the table above. Never: not within the steps of the next "
        "table, at the common settings; no peer was tuned.",
        _solved,
    ),
    "learning": (
        "Return at equal numbers of steps",
        "Mean over seeds of the same evaluations, after a quarter, a half and all of the steps.",
        _returns,
    ),
    "update": (
        "One update alone, on the same batch from the same weights",
        "Batches are made by `peers/given.py`. Without compilation; the value error is that of the "
        "critic after its fit.",
        _update,
    ),
    "brax": (
        "Beside brax's own PPO",
        "Spring backend, 32 environments × 64 steps, minibatch 128, 10 epochs.",
        _BRAX,
    ),
    "dynamics": (
        "Same environments",
        "One step from 200 random states each: the largest difference from trpo_jax in any "
        "observation, reward or termination, and the time limit (ours: 500, 500, 200).",
        _DYNAMICS,
    ),
}
"""In the order of the report: heading, text, and columns or results -> rows."""
