"""C1, C2 and C17: sudden drops of the return, and the KL of the updates that caused them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from claim_studies import training
from claim_studies.returns import first_return
from claim_studies.settings import COLORS, METHODS, TASKS
from claim_studies.statistics import over_seeds
from claim_studies.study import Options, Study, panels

LEARNED = 0.25
"""Only policies that have gained this share of the best gain on the environment can lose it."""


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
    records = _measured(options)
    rows = [
        [env_id, kind, value, *_drop_cells(updates)]
        for env_id, methods in records.items()
        for kind, value, updates in _settings(methods, "vpg")
    ]
    return Study(
        "C1",
        "C1: one bad vanilla-policy-gradient step can lose 50 % of the return",
        _HOW,
        ("environment", "runs", "learning rate", *_DROP_HEADER),
        rows,
        lambda: _scatter(records, ("vpg",)),
    )


def smoothness(options: Options) -> Study:
    """C2: drops per run, and how much of the return's movement is downwards."""
    records = _measured(options)
    rows = []
    for env_id, methods in records.items():
        for name, record in methods.items():
            updates = _updates(methods, record["runs"])
            runs = training.curve(record["runs"])
            steps = np.diff(runs, axis=1)
            moved, fallen = np.abs(steps).sum(axis=1), np.maximum(-steps, 0).sum(axis=1)
            down = fallen / np.where(moved > 0, moved, 1)
            drops = [np.sum((updates.loss > s) & updates.counted, axis=1) for s in (0.2, 0.5)]
            drops = [f"{over_seeds(count, np.mean)}" for count in drops]
            rows.append([env_id, METHODS[name].label, record["chosen"], *drops,
                         f"{over_seeds(down)}"])  # fmt: skip
    return Study(
        "C2",
        "C2: TRPO's learning curve is smooth, with far fewer sudden drops than VPG's",
        _HOW + " Every method with its tuned setting, ten seeds. Downward: the sum of all falls "
        "as a share of the sum of all movements, 0 for a curve that only rises or never moves; "
        "interquartile mean",
        ("environment", "method", "setting", "drops > 20 % per run (mean)",
         "drops > 50 % per run (mean)", "downward share of movement"),
        rows,
        lambda: _seed_curves(records),
    )  # fmt: skip


def destructive_updates(options: Options) -> Study:
    """C17: destructive updates of PPO and TRPO, and the KL that went with them."""
    records = _measured(options)
    rows = [
        [env_id, METHODS[name].label, kind, value, *_drop_cells(updates)]
        for env_id, methods in records.items()
        for name in ("trpo", "ppo")
        for kind, value, updates in _settings(methods, name)
    ]
    return Study(
        "C17",
        "C17: PPO lets destructive updates through where TRPO does not",
        _HOW,
        ("environment", "method", "runs", "setting", *_DROP_HEADER),
        rows,
        lambda: _scatter(records, ("trpo", "ppo")),
    )


_HOW = (
    "After every update the stochastic policy plays 32 episodes of its own, the same for every "
    "method, so that a fall is the policy's and not the sampling's. A loss is the fall of the "
    "return as a share of the gain over the untrained policy; updates count whose policy before "
    f"had at least {LEARNED:.0%} of the best gain on the environment."
)
_DROP_HEADER = (
    "updates counted",
    "lost > 20 %",
    "lost > 50 %",
    "worst loss",
    "median KL",
    "worst KL",
)


def _measured(options: Options) -> dict:
    """The runs whose policy was measured apart from training, after every update."""
    return training.load(options.runs, [name for name, task in TASKS.items() if task.num_episodes])


def _settings(methods: dict, name: str) -> Iterator[tuple[str, float, Updates]]:
    record = methods[name]
    for setting in record["tuning"]:
        yield "tuning", setting["value"], _updates(methods, setting["runs"])
    yield "tuned", record["chosen"], _updates(methods, record["runs"])


def _updates(methods: dict, runs: dict) -> Updates:
    start = first_return(methods)
    best = max(np.max(training.curve(record["runs"])) for record in methods.values())
    curve = training.curve(runs)
    gain = curve[:, :-1] - start
    counted = gain >= LEARNED * (best - start)
    loss = np.where(counted, -np.diff(curve, axis=1) / np.where(counted, gain, 1), 0)
    return Updates(loss, np.array(runs["kl"], dtype=float)[:, 1:], counted)


def _drop_cells(updates: Updates) -> list[str]:
    lost = updates.loss[updates.counted]
    if not lost.size:
        return ["0", "", "", "", f"{np.median(updates.kl):.2g}", f"{np.max(updates.kl):.2g}"]
    shares = [f"{np.sum(lost > s)} ({np.mean(lost > s):.1%})" for s in (0.2, 0.5)]
    return [str(lost.size), *shares, f"{np.max(lost) + 0.0:.0%}", f"{np.median(updates.kl):.2g}",
            f"{np.max(updates.kl):.2g}"]  # fmt: skip


def _scatter(records: dict, names: tuple[str, ...]):
    """KL of every update against what it lost, tuned and untuned settings."""
    figure, axes = panels(len(records), width=4.2)
    for axis, (env_id, methods) in zip(axes, records.items(), strict=True):
        for name in names:
            for kind, _, updates in _settings(methods, name):
                tuned = kind == "tuned"
                label = f"{METHODS[name].label}, {'tuned' if tuned else 'other settings'}"
                axis.plot(
                    np.maximum(updates.kl[updates.counted], 1e-6),
                    np.clip(updates.loss[updates.counted], -0.5, 1.5),
                    "o" if tuned else "x",
                    color=COLORS[name],
                    markersize=3,
                    alpha=0.5 if tuned else 0.35,
                    label=label,
                )
        axis.axhline(0.5, color="black", linewidth=1, linestyle="--")
        axis.set(title=env_id, xscale="log", xlabel="KL of the update")
        axis.set_ylabel("share of the gain lost (clipped)")
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes[0].legend(unique.values(), unique.keys(), fontsize="small", loc="lower left")
    return figure


def _seed_curves(records: dict):
    figure, axes = panels(len(records) * len(METHODS), height=2.2)
    pairs = [(e, n) for e in records for n in METHODS]
    for axis, (env_id, name) in zip(axes, pairs, strict=True):
        curve = training.curve(records[env_id][name]["runs"])
        updates = np.arange(1, curve.shape[1] + 1)
        axis.plot(updates, curve.T, color=COLORS[name], linewidth=0.8, alpha=0.7)
        axis.set(title=f"{env_id}, {METHODS[name].label}", xlabel="update", ylabel="return")
        axis.sharey(axes[pairs.index((env_id, "trpo"))])
    figure.suptitle("every seed, 32 episodes after every update")
    return figure
