"""What single updates do: sudden drops of the return (C1, C2, C17), KL and backtracks (C8, C9)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pictures

from claim_studies import training
from claim_studies.returns import first_return
from claim_studies.settings import COLORS, METHODS, TASKS
from claim_studies.statistics import over_seeds
from claim_studies.study import Options, Study

LEARNED = 0.25
"""Only policies that have gained this share of the best gain on the environment can lose it."""
EARLY = 10
"""Updates that count as early."""
_HOW = (
    "After every update the stochastic policy plays 32 episodes of its own, the same for every "
    "method, so that a fall is the policy's and not the sampling's. A loss is the fall of the "
    "return as a share of the gain over the untrained policy; updates count whose policy before "
    f"had at least {LEARNED:.0%} of the best gain on the environment."
)


class Updates(NamedTuple):
    """All updates of some runs of one method, [seeds, updates − 1]."""

    loss: np.ndarray
    """Share of the gain over the untrained policy that the update lost; negative if it gained."""
    kl: np.ndarray
    """Of the same update."""
    counted: np.ndarray
    """bool: the policy before it had learned enough to lose something."""


def bad_steps(options: Options) -> Study:
    """C1: the worst update of VPG, for every learning rate tried."""
    title = "C1: one bad vanilla-policy-gradient step can lose 50 % of the return"
    return _worst_updates(options, "C1", title, ("vpg",))


def destructive_updates(options: Options) -> Study:
    """C17: destructive updates of PPO and TRPO, and the KL that went with them."""
    title = "C17: PPO lets destructive updates through where TRPO does not"
    return _worst_updates(options, "C17", title, ("trpo", "ppo"))


def _worst_updates(options: Options, name: str, title: str, methods: tuple[str, ...]) -> Study:
    records = _measured(options)
    rows = [
        {"environment": env_id, "method": METHODS[method].label, "runs": kind, "setting": value}
        | _drop_cells(_updates(records[env_id], runs))
        for env_id in records
        for method in methods
        for kind, value, runs in settings_of(records[env_id][method])
    ]
    return Study(name, title, _HOW, rows, lambda: _scatter(records, methods))


def smoothness(options: Options) -> Study:
    """C2: drops per run, and how much of the return's movement is downwards."""
    records = _measured(options)
    rows = []
    for env_id, methods in records.items():
        for name, record in methods.items():
            updates = _updates(methods, record["runs"])
            steps = np.diff(training.curve(record["runs"]), axis=1)
            moved, fallen = np.abs(steps).sum(axis=1), np.maximum(-steps, 0).sum(axis=1)
            row = {"environment": env_id, "method": METHODS[name].label}
            row["setting"] = record["chosen"]
            for share in (0.2, 0.5):
                drops = np.sum((updates.loss > share) & updates.counted, axis=1)
                column = f"drops > {100 * share:.0f} % per run (mean)"
                row[column] = str(over_seeds(drops, np.mean))
            down = fallen / np.where(moved > 0, moved, 1)
            rows.append(row | {"downward share of movement": str(over_seeds(down))})
    return Study(
        "C2",
        "C2: TRPO's learning curve is smooth, with far fewer sudden drops than VPG's",
        _HOW + " Every method with its tuned setting, ten seeds. Downward: the sum of all falls "
        "as a share of the sum of all movements, 0 for a curve that only rises or never moves; "
        "interquartile mean",
        rows,
        lambda: _seed_curves(records),
    )


def violations(options: Options) -> Study:
    """C8: how often the natural policy gradient, which takes the full step, exceeds its bound."""
    records = training.load(options.runs, method_ids=("npg",))
    rows = []
    for env_id, methods in records.items():
        for kind, bound, runs in settings_of(methods["npg"]):
            kls = np.array(runs["kl"], float)
            above, late = kls > bound, kls[:, EARLY:] > bound
            rows.append({
                **{"environment": env_id, "runs": kind, "δ": bound, "seeds": kls.shape[0]},
                "violations": f"{np.mean(above):.1%}",
                "of them above 1.5 δ": f"{np.mean(kls > 1.5 * bound):.1%}",
                "early": f"{np.mean(above[:, :EARLY]):.1%}",
                "later": f"{np.mean(late):.1%}" if late.size else "",
                "median KL / δ": f"{np.median(kls) / bound:.2f}",
                "worst KL / δ": f"{np.max(kls) / bound:.2f}",
            })  # fmt: skip

    def draw():
        figure, axes = pictures.panels(len(records))
        for axis, (env_id, methods) in zip(axes, records.items(), strict=True):
            record = methods["npg"]
            ratio = np.array(record["runs"]["kl"], float) / record["chosen"]
            updates = np.arange(1, ratio.shape[1] + 1)
            axis.plot(updates, ratio.T, ".", color=COLORS["npg"], markersize=3, alpha=0.5)
            axis.axhline(1, color="black", linewidth=1)
            axis.set(title=f"{env_id}, δ = {record['chosen']:g}", xlabel="update", ylim=(0, None))
            axis.set_ylabel("KL of the full step / δ")
        return figure

    return Study(
        "C8",
        "C8: without the line search the KL constraint is violated often, most of all early",
        "Natural policy gradient: every full step is taken, untested. A violation is a mean KL on "
        f"the batch above δ. Early: the first {EARLY} updates. Tuning has two seeds and half the "
        "updates for each δ, tuned has ten seeds with the δ that was chosen.",
        rows,
        draw,
    )


def backtracks(options: Options) -> Study:
    """C9: how many times TRPO's line search shrinks the step."""
    records = training.load(options.runs, method_ids=("trpo",))
    rows, shares = [], {}
    for env_id, methods in records.items():
        for kind, bound, runs in settings_of(methods["trpo"]):
            counts, accepted = np.array(runs["backtracks"]), np.array(runs["accepted"], bool)
            rows.append({
                **{"environment": env_id, "runs": kind, "δ": bound, "updates": counts.size},
                "no backtrack": f"{np.mean(counts == 0):.1%}",
                "at most 1": f"{np.mean(counts <= 1):.1%}",
                "at most 5": f"{np.mean(counts <= 5):.1%}",
                "most in an accepted step": counts[accepted].max(),
                "rejected": f"{np.mean(~accepted):.1%}",
            })  # fmt: skip
        shares[env_id] = np.bincount(counts.ravel(), minlength=11) / counts.size  # tuned is last

    def draw():
        figure, [axis] = pictures.panels(1, width=6.5, height=6)
        pictures.bars(axis, [str(count) for count in range(11)], shares)
        axis.set(ylabel="backtracks in an update", xlabel="share of updates")
        return figure

    return Study(
        "C9",
        "C9: 5–10 backtracks suffice",
        "Every update of the TRPO runs; factor 0.8, at most 10 backtracks. A step that is rejected "
        "after all of them leaves the policy as it is.",
        rows,
        draw,
    )


def settings_of(record: dict) -> Iterator[tuple[str, float, dict]]:
    """(kind, setting, runs) of a method: all that tuning tried, and last what was chosen."""
    for setting in record["tuning"]:
        yield "tuning", setting["value"], setting["runs"]
    yield "tuned", record["chosen"], record["runs"]


def _measured(options: Options) -> dict:
    """The runs whose policy was measured apart from training, after every update."""
    return training.load(options.runs, [name for name, task in TASKS.items() if task.num_episodes])


def _updates(methods: dict, runs: dict) -> Updates:
    start = first_return(methods)
    best = max(np.max(training.curve(record["runs"])) for record in methods.values())
    curve = training.curve(runs)
    gain = curve[:, :-1] - start
    counted = gain >= LEARNED * (best - start)
    loss = np.where(counted, -np.diff(curve, axis=1) / np.where(counted, gain, 1), 0)
    return Updates(loss, np.array(runs["kl"], dtype=float)[:, 1:], counted)


def _drop_cells(updates: Updates) -> dict[str, str]:
    lost = updates.loss[updates.counted]
    cells = {"updates counted": str(lost.size)}
    for share in (0.2, 0.5):
        found = f"{np.sum(lost > share)} ({np.mean(lost > share):.1%})" if lost.size else ""
        cells[f"lost > {100 * share:.0f} %"] = found
    worst = f"{np.max(lost) + 0.0:.0%}" if lost.size else ""
    kls = {"median KL": f"{np.median(updates.kl):.2g}", "worst KL": f"{np.max(updates.kl):.2g}"}
    return cells | {"worst loss": worst} | kls


def _scatter(records: dict, names: tuple[str, ...]):
    """KL of every update against what it lost, tuned and untuned settings."""
    figure, axes = pictures.panels(len(records), width=4.2)
    for axis, (env_id, methods) in zip(axes, records.items(), strict=True):
        for name in names:
            for kind, value, runs in settings_of(methods[name]):
                updates = _updates(methods, runs)
                kl, loss = updates.kl[updates.counted], updates.loss[updates.counted]
                style = {"marker": "o"} if kind == "tuned" else {"marker": "x", "alpha": 0.35}
                label = f"{METHODS[name].label}, {kind} {value:g}"
                axis.plot(np.maximum(kl, 1e-6), np.clip(loss, -0.5, 1.5), color=COLORS[name],
                          linestyle="", markersize=3, label=label, **style)  # fmt: skip
        axis.axhline(0.5, color="black", linewidth=1, linestyle="--")
        axis.set(title=env_id, xscale="log", xlabel="KL of the update")
        axis.set_ylabel("share of the gain lost (clipped)")
        axis.legend(fontsize="xx-small", loc="lower left")
    return figure


def _seed_curves(records: dict):
    pairs = [(env_id, name) for env_id in records for name in METHODS]
    figure, axes = pictures.panels(len(pairs), height=2.2)
    for axis, (env_id, name) in zip(axes, pairs, strict=True):
        curve = training.curve(records[env_id][name]["runs"])
        updates = np.arange(1, curve.shape[1] + 1)
        axis.plot(updates, curve.T, color=COLORS[name], linewidth=0.8, alpha=0.7)
        axis.set(title=f"{env_id}, {METHODS[name].label}", xlabel="update", ylabel="return")
        axis.sharey(axes[pairs.index((env_id, "trpo"))])
    figure.suptitle("every seed, 32 episodes after every update")
    return figure
