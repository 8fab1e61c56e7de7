"""C4, C6, C7 and C14: returns and the steps they take, from training runs."""

import numpy as np
import pictures

from claim_studies import training
from claim_studies.settings import COLORS, METHODS
from claim_studies.statistics import (
    interquartile_mean,
    over_seeds,
    over_tasks,
    probability_of_improvement,
    ratio_over_seeds,
)
from claim_studies.study import Options, Study

SMOOTHED = 3
"""Updates of the moving average in which a threshold has to be reached."""
SHARES = (0.5, 0.9)
"""Thresholds: so much of the way from the untrained policy to TRPO's final return."""
CG_ITERATIONS = (1, 2, 5, 10, 20)
CG_MAX_KL = {"CartPole-v1": 0.01, "Pendulum-v1": 0.01}


def final_returns(runs: dict) -> np.ndarray:
    """[seeds]: mean return over the last tenth of the updates, of the stochastic policy."""
    curve = training.curve(runs)
    return np.nanmean(curve[:, -max(1, curve.shape[1] // 10) :], axis=1)


def first_return(methods: dict) -> float:
    """Mean return of the untrained policy, the same for every method."""
    return next(iter(methods.values()))["untrained"]


def comparison(options: Options) -> Study:
    """C6: final returns of the four methods, and PPO against TRPO over all environments."""
    records = training.load(options.runs)
    labels = {name: method.label for name, method in METHODS.items()}
    rows, scores = [], {name: [] for name in METHODS}
    for env_id, methods in records.items():
        finals = {name: final_returns(record["runs"]) for name, record in methods.items()}
        better = probability_of_improvement(finals["ppo"][None], finals["trpo"][None])
        steps = methods["trpo"]["batch_size"] * len(methods["trpo"]["runs"]["training"][0])
        rows.append({
            **{"environment": env_id, "steps": f"{steps:,}"},
            **{labels[name]: str(over_seeds(final)) for name, final in finals.items()},
            "P(PPO > TRPO)": str(better),
            "chosen": ", ".join(f"{labels[m]} {r['chosen']:g}" for m, r in methods.items()),
        })  # fmt: skip
        start = first_return(methods)
        best = max(interquartile_mean(final) for final in finals.values())
        for name, final in finals.items():
            scores[name].append((final - start) / (best - start))
    better = probability_of_improvement(scores["ppo"], scores["trpo"])
    totals = {labels[name]: str(over_tasks(score)) for name, score in scores.items()}
    total = {"environment": "all, normalised", **totals, "P(PPO > TRPO)": str(better)}
    return Study(
        "C6",
        "C6: PPO matches or exceeds TRPO's return",
        "Interquartile mean over seeds, with 95 % bootstrap interval, of the final return: the "
        "stochastic policy's, over the last tenth of the updates. Normalised: 0 is the "
        "untrained policy, 1 the best method's interquartile mean. P: probability that a run of "
        "PPO ends above one of TRPO. Every method had five values of one number to try, two seeds "
        "each, half the updates; the last column has what was chosen.",
        [*rows, total],
        lambda: _learning_curves(records),
    )


def _learning_curves(records: dict):
    figure, axes = pictures.panels(len(records))
    for axis, (env_id, methods) in zip(axes, records.items(), strict=True):
        for name, record in methods.items():
            curve = training.curve(record["runs"])
            steps = record["batch_size"] * np.arange(1, curve.shape[1] + 1) / 1e3
            low, high = np.nanpercentile(curve, [10, 90], axis=0)
            middle, colour = interquartile_mean(curve, axis=0), COLORS[name]
            axis.plot(steps, middle, color=colour, label=METHODS[name].label)
            axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set(title=env_id, xlabel="thousand steps", ylabel="return")
    axes[0].legend(fontsize="small")
    figure.suptitle("interquartile mean of ten seeds; band: 10th to 90th percentile")
    return figure


def iterations(options: Options) -> Study:
    """C4: updates that VPG needs for the returns that TRPO reaches."""
    title = "C4: TRPO needs 10× fewer iterations than VPG for the same return"
    return _race(options, "C4", title, "vpg")


def samples(options: Options) -> Study:
    """C7: steps that PPO needs for the returns that TRPO reaches."""
    title = "C7: TRPO is the more sample-efficient (1–2 M against 5–10 M steps of PPO)"
    return _race(options, "C7", title, "ppo")


def _race(options: Options, name: str, title: str, rival: str) -> Study:
    records, label = training.load(options.runs), METHODS[rival].label
    rows, ratios = [], {}
    for env_id, methods in records.items():
        limit, batch = len(methods["trpo"]["runs"]["kl"][0]), methods["trpo"]["batch_size"]
        for share in SHARES:
            ours, theirs = (_updates_to(methods, m, share) for m in ("trpo", rival))
            ratios[env_id, share] = ratio_over_seeds(theirs, ours, limit)
            cells = {}
            for who, reached in (("TRPO", ours), (label, theirs)):
                known = np.minimum(reached, limit)
                cells[f"{who} updates"] = str(over_seeds(known))
                cells[f"{who} steps"] = f"{interquartile_mean(known) * batch:,.0f}"
                cells[f"{who} seeds that missed"] = int(np.sum(np.isinf(reached)))
            cells[f"{label} / TRPO"] = str(ratios[env_id, share])
            rows.append({"environment": env_id, "of the way": f"{share:.0%}", **cells})

    def draw():
        figure, [axis] = pictures.panels(1, width=6.5, height=4.5)
        own = {s: [ratios[env_id, s] for env_id in records] for s in SHARES}
        values = {
            f"{share:.0%} of the way": [0 if r.sign == "–" else r.value for r in each]
            for share, each in own.items()
        }
        drawn = pictures.bars(axis, list(records), values)
        for bars, each in zip(drawn, own.values(), strict=True):
            axis.bar_label(bars, [str(ratio) for ratio in each], padding=3, fontsize="x-small")
        axis.set_xlabel(f"updates of {label} / updates of TRPO, 95 % interval")
        axis.set_xlim(0, 1.3 * axis.get_xlim()[1])  # room for the labels
        return figure

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
        rows,
        draw,
    )


def _updates_to(methods: dict, method_id: str, share: float) -> np.ndarray:
    """[seeds]: the first update at which the threshold was reached; infinite if never."""
    start = first_return(methods)
    goal = interquartile_mean(final_returns(methods["trpo"]["runs"]))
    threshold = start + share * (goal - start)
    curve = training.curve(methods[method_id]["runs"])
    curve = np.where(np.isnan(curve), start, curve)
    windows = np.lib.stride_tricks.sliding_window_view(curve, SMOOTHED, axis=1).mean(axis=-1)
    reached = windows >= threshold
    first = np.argmax(reached, axis=1) + SMOOTHED
    return np.where(reached.any(axis=1), first, np.inf)


def few_iterations(options: Options) -> Study:
    """C14: returns over ten seeds with 1, 2, 5, 10 and 20 iterations of conjugate gradients."""
    rows, all_runs = [], {}
    for env_id in ("CartPole-v1",) if options.quick else tuple(CG_MAX_KL):
        max_kl, all_runs[env_id] = CG_MAX_KL[env_id], {}
        for count in CG_ITERATIONS[:2] if options.quick else CG_ITERATIONS:
            runs = training.with_iterations(options.runs, env_id, count, max_kl, options.quick)
            all_runs[env_id][count] = runs
            whole = np.nanmean(training.curve(runs), axis=1)
            rows.append({
                **{"environment": env_id, "δ": max_kl, "CG iterations": count},
                "final return": str(over_seeds(final_returns(runs))),
                "return over the run": str(over_seeds(whole)),
                "‖r‖/‖g‖": f"{np.median(runs['residual']):.1e}",
                "KL / δ": f"{np.median(runs['kl']) / max_kl:.2f}",
                "backtracks": f"{np.mean(runs['backtracks']):.2f}",
            })  # fmt: skip

    def draw():
        figure, axes = pictures.panels(len(all_runs), per_row=3)
        for axis, (env_id, by_count) in zip(axes, all_runs.items(), strict=True):
            for count, runs in by_count.items():
                middle = interquartile_mean(training.curve(runs), axis=0)
                axis.plot(np.arange(1, middle.size + 1), middle, label=f"{count} iterations")
            title = f"{env_id}, δ = {CG_MAX_KL[env_id]:g}"
            axis.set(title=title, xlabel="update", ylabel="return")
        axes[0].legend(fontsize="small")
        figure.suptitle("interquartile mean of ten seeds")
        return figure

    return Study(
        "C14",
        "C14: fewer than 10 CG iterations hurts",
        "TRPO, ten seeds a row, the stochastic policy's return: over the last tenth of the "
        "updates, and over all of them (interquartile mean over seeds, 95 % bootstrap interval). "
        "Residual and KL: medians over all updates and seeds. Damping 0.1.",
        rows,
        draw,
    )
