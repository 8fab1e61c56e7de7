"""C4, C6 and C7: returns and the steps they take, from the shared training runs."""

import numpy as np

from claim_studies import training
from claim_studies.settings import COLORS, METHODS
from claim_studies.statistics import (
    interquartile_mean,
    over_seeds,
    over_tasks,
    probability_of_improvement,
    ratio_over_seeds,
)
from claim_studies.study import Options, Study, panels

SMOOTHED = 3
"""Updates of the moving average in which a threshold has to be reached."""
SHARES = (0.5, 0.9)
"""Thresholds: so much of the way from the untrained policy to TRPO's final return."""


def final_returns(record: dict) -> np.ndarray:
    """[seeds]: mean return over the last tenth of the updates, of the stochastic policy."""
    curve = training.curve(record["runs"])
    return np.nanmean(curve[:, -max(1, curve.shape[1] // 10) :], axis=1)


def comparison(options: Options) -> Study:
    """C6: final returns of the four methods, and PPO against TRPO over all environments."""
    records = training.load(options.runs)
    rows = []
    for env_id, methods in records.items():
        cells = [f"{over_seeds(final_returns(record))}" for record in methods.values()]
        chosen = ", ".join(f"{METHODS[m].label} {r['chosen']:g}" for m, r in methods.items())
        better = probability_of_improvement(*_pair(methods, "ppo", "trpo"))
        rows.append([env_id, f"{_steps(methods):,}", *cells, f"{better}", chosen])
    scores = {name: np.stack([_scores(m)[name] for m in records.values()]) for name in METHODS}
    better = probability_of_improvement(scores["ppo"], scores["trpo"])
    totals = [f"{over_tasks(score)}" for score in scores.values()]
    rows.append(["all, normalised", "", *totals, f"{better}", ""])

    return Study(
        "C6",
        "C6: PPO matches or exceeds TRPO's return",
        "Interquartile mean over seeds, with 95 % bootstrap interval, of the final return: the "
        "stochastic policy's, over the last tenth of the updates. Normalised: 0 is the "
        "untrained policy, 1 the best method's interquartile mean. P: probability that a run of "
        "PPO ends above one of TRPO. Every method had five values of one number to try, two seeds "
        "each, half the updates; the last column has what was chosen.",
        ("environment", "steps", *(m.label for m in METHODS.values()), "P(PPO > TRPO)", "chosen"),
        rows,
        lambda: _learning_curves(records),
    )


def iterations(options: Options) -> Study:
    """C4: updates that VPG needs for the returns that TRPO reaches."""
    return _race(
        options,
        "C4",
        "C4: TRPO needs 10× fewer iterations than VPG for the same return",
        "vpg",
    )


def samples(options: Options) -> Study:
    """C7: steps that PPO needs for the returns that TRPO reaches."""
    return _race(
        options,
        "C7",
        "C7: TRPO is the more sample-efficient (1–2 M against 5–10 M steps of PPO)",
        "ppo",
    )


def _race(options: Options, name: str, title: str, rival: str) -> Study:
    records = training.load(options.runs)
    rows, ratios = [], {}
    for env_id, methods in records.items():
        for share in SHARES:
            reached = {m: _updates_to(methods, m, share) for m in (rival, "trpo")}
            limit = training.curve(methods["trpo"]["runs"]).shape[1]
            ratios[env_id, share] = ratio_over_seeds(reached[rival], reached["trpo"], limit)
            ours, theirs = (np.minimum(reached[m], limit) for m in ("trpo", rival))
            missed = [int(np.sum(np.isinf(reached[m]))) for m in ("trpo", rival)]
            batch = methods["trpo"]["batch_size"]
            rows.append([env_id, f"{share:.0%}", f"{over_seeds(ours)}", f"{over_seeds(theirs)}",
                         f"{interquartile_mean(ours) * batch:,.0f}",
                         f"{interquartile_mean(theirs) * batch:,.0f}",
                         *missed, f"{ratios[env_id, share]}"])  # fmt: skip

    label = METHODS[rival].label
    return Study(
        name,
        title,
        f"Updates until the moving average of {SMOOTHED} returns first reached a share of the way "
        "from the untrained policy's return to TRPO's final one; interquartile mean over seeds and "
        "95 % bootstrap interval. Seeds that never did count with all the updates there were in "
        "the columns of updates and steps. Up to two of ten are left out of an interquartile mean "
        "anyway; with more of them the ratio is only a bound, ≥ if the rival missed and ≤ if TRPO "
        "did, and not even that (–) if both did. Both methods use the same batches, so that the "
        "ratio is that of the steps too.",
        ("environment", "of the way", "TRPO updates", f"{label} updates", "TRPO steps",
         f"{label} steps", "TRPO seeds that missed", f"{label} seeds that missed",
         f"{label} / TRPO"),
        rows,
        lambda: _bars(list(records), ratios, label),
    )  # fmt: skip


def _bars(env_ids: list[str], ratios: dict, label: str):
    """The ratios that are known or bounded; what is only a bound says so."""
    figure, (axis,) = panels(1, width=6.5, height=4.5)
    for offset, share in zip((-0.2, 0.2), SHARES, strict=True):
        own = [ratios[env_id, share] for env_id in env_ids]
        values = [0 if ratio.sign == "–" else ratio.value for ratio in own]
        bars = axis.barh(
            np.arange(len(env_ids)) + offset, values, 0.38, label=f"{share:.0%} of the way"
        )
        axis.bar_label(bars, [str(ratio) for ratio in own], padding=3, fontsize="x-small")
    axis.set(yticks=range(len(env_ids)), yticklabels=env_ids)
    axis.set_xlabel(f"updates of {label} / updates of TRPO, 95 % interval")
    axis.set_xlim(0, 1.3 * axis.get_xlim()[1])  # room for the labels
    axis.axvline(1, color="black", linewidth=1)
    axis.legend()
    return figure


def _updates_to(methods: dict, method_id: str, share: float) -> np.ndarray:
    """[seeds]: the first update at which the threshold was reached; infinite if never."""
    start, goal = first_return(methods), interquartile_mean(final_returns(methods["trpo"]))
    threshold = start + share * (goal - start)
    curve = training.curve(methods[method_id]["runs"])
    curve = np.where(np.isnan(curve), start, curve)
    windows = np.lib.stride_tricks.sliding_window_view(curve, SMOOTHED, axis=1).mean(axis=-1)
    reached = windows >= threshold
    first = np.argmax(reached, axis=1) + SMOOTHED
    return np.where(reached.any(axis=1), first, np.inf)


def first_return(methods: dict) -> float:
    """Mean return of the untrained policy, the same for every method."""
    return next(iter(methods.values()))["untrained"]


def _scores(methods: dict) -> dict[str, np.ndarray]:
    start = first_return(methods)
    finals = {name: final_returns(record) for name, record in methods.items()}
    best = max(interquartile_mean(final) for final in finals.values())
    return {name: (final - start) / (best - start) for name, final in finals.items()}


def _pair(methods: dict, first: str, second: str):
    return (final_returns(methods[name])[None] for name in (first, second))


def _steps(methods: dict) -> int:
    record = methods["trpo"]
    return record["batch_size"] * len(record["runs"]["training"][0])


def _learning_curves(records: dict):
    figure, axes = panels(len(records))
    for axis, (env_id, methods) in zip(axes, records.items(), strict=True):
        for name, record in methods.items():
            curve = training.curve(record["runs"])
            steps = record["batch_size"] * np.arange(1, curve.shape[1] + 1)
            middle = interquartile_mean(curve, axis=0)
            low, high = np.nanpercentile(curve, [10, 90], axis=0)
            axis.plot(steps / 1e3, middle, color=COLORS[name], label=METHODS[name].label)
            axis.fill_between(steps / 1e3, low, high, color=COLORS[name], alpha=0.15, linewidth=0)
        axis.set(title=env_id, xlabel="thousand steps", ylabel="return")
    axes[0].legend(fontsize="small")
    figure.suptitle("interquartile mean of ten seeds; band: 10th to 90th percentile")
    return figure
