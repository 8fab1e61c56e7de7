"""From the learning curves to tables: time until solved, returns at equal numbers of steps."""

import math
import statistics
from typing import Any

import report
from client import TITLES
from goals import Rows, solved_at, solved_times
from words import Study, stamps, title


def solved(results: dict[str, Any]) -> list[str]:
    """Updates and seconds until the threshold is reached; nothing without learning curves."""
    rows: Rows = []
    for env_id, study in results.get("learning", {}).items():
        times = solved_times(results, env_id)
        ours = times.get("trpo_jax", {"training": math.nan, "cold": math.nan})
        for name, found in times.items():
            curves = study["curves"][name]
            each = [_number(solved_at(curve, study["goal"]), 0) for curve in curves.values()]
            rows.append([
                f"{env_id} ≥ {study['goal']['threshold']:.0f}", TITLES[name.partition("@")[0]],
                " ".join(each), _number(found["training"], 2),
                _number(found["training"] / ours["training"], 1),
                _number(found["cold"], 1), _number(found["cold"] / ours["cold"], 1),
            ])  # fmt: skip
    if not rows:
        return []
    return [
        "## Time to a solved environment",
        "Solved at the first evaluation (32 deterministic episodes, every 2 updates on CartPole, "
        "every 4 elsewhere, seed by seed) whose mean return reaches the threshold; evaluations are "
        "not timed. Seconds: the median over seeds of the updates needed, times the seconds per "
        "iteration of the table above (CPU seconds, unless the machine was still for all of them). "
        "Cold: with the cold start of the table above. Never: not within the steps of the next "
        "table, at the common settings; no peer was tuned.",
        report.table(
            (
                "environment",
                "peer",
                "updates needed, per seed",
                "training, s",
                "times ours",
                "cold, s",
                "times ours, cold",
            ),
            rows,
        ),
    ]


def returns(results: dict[str, Any]) -> list[str]:
    """Mean returns after equal numbers of steps."""
    rows: Rows = []
    for env_id, study in results["learning"].items():
        goal = study["goal"]
        for name, curves in study["curves"].items():
            batch = study["settings"]["num_envs"] * study["settings"]["num_steps"]
            length = min(len(curve) for curve in curves.values())
            marks = [max(1, length // 4), max(1, length // 2), length]
            means = [statistics.mean(c[m - 1] for c in curves.values()) for m in marks]
            worst = min(curve[length - 1] for curve in curves.values())
            rows.append([
                env_id, TITLES[name.partition("@")[0]], str(len(curves)),
                f"{batch * goal['every'] * length:,}", *(f"{mean:.1f}" for mean in means),
                f"{worst:.1f}",
            ])  # fmt: skip
    return [
        "## Return at equal numbers of steps",
        "Mean over seeds of the same evaluations, after a quarter, a half and all of the steps.",
        report.table(
            (
                "environment",
                "peer",
                "seeds",
                "steps",
                "after ¼",
                "after ½",
                "at the end",
                "worst seed",
            ),
            rows,
        ),
        stamps(_runs(results["learning"])),
    ]


def _runs(studies: dict[str, Study]) -> dict[str, Study]:
    """Where the curves come from: by environment, or by seed where an environment has several."""
    named: dict[str, Study] = {}
    for env_id, study in studies.items():
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


def _number(value: float, digits: int) -> str:
    """Of updates or seconds until something; infinite if it never came, NaN if nobody looked."""
    if math.isnan(value):
        return ""
    return f"{value:.{digits}f}" if math.isfinite(value) else "never"
