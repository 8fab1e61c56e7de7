"""C8 and C9: what the line search is needed for, from the KL of every update."""

import numpy as np

from claim_studies import training
from claim_studies.settings import COLORS
from claim_studies.study import Options, Study, panels

EARLY = 10
"""Updates that count as early."""


def violations(options: Options) -> Study:
    """C8: how often the natural policy gradient, which takes the full step, exceeds its bound."""
    records = training.load(options.runs, method_ids=("npg",))
    rows, pooled = [], {}
    for env_id, methods in records.items():
        for setting in methods["npg"]["tuning"]:
            bound, kls = setting["value"], _array(setting["runs"]["kl"])
            rows.append([env_id, "tuning", bound, kls.shape[0], *_shares(kls, bound)])
            pooled.setdefault(bound, []).append((kls / bound).ravel())
        bound, kls = methods["npg"]["chosen"], _array(methods["npg"]["runs"]["kl"])
        rows.append([env_id, "tuned", bound, kls.shape[0], *_shares(kls, bound)])

    def draw():
        figure, axes = panels(len(records))
        for axis, (env_id, methods) in zip(axes, records.items(), strict=True):
            record = methods["npg"]
            ratio = _array(record["runs"]["kl"]) / record["chosen"]
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
        ("environment", "runs", "δ", "seeds", "violations", "of them above 1.5 δ", "early",
         "later", "median KL / δ", "worst KL / δ"),
        rows,
        draw,
    )  # fmt: skip


def backtracks(options: Options) -> Study:
    """C9: how many times TRPO's line search shrinks the step."""
    records = training.load(options.runs, method_ids=("trpo",))
    rows, counts_of = [], {}
    for env_id, methods in records.items():
        record = methods["trpo"]
        runs = [(s["value"], "tuning", s["runs"]) for s in record["tuning"]]
        for bound, kind, own in [*runs, (record["chosen"], "tuned", record["runs"])]:
            counts, accepted = np.array(own["backtracks"]), np.array(own["accepted"], bool)
            shares = [f"{np.mean(counts <= most):.1%}" for most in (0, 1, 5)]
            rows.append([env_id, kind, bound, counts.size, *shares, counts[accepted].max(),
                         f"{np.mean(~accepted):.1%}"])  # fmt: skip
            if kind == "tuned":
                counts_of[env_id] = counts.ravel()

    def draw():
        figure, (axis,) = panels(1)
        width = 0.8 / len(counts_of)
        for index, (env_id, counts) in enumerate(counts_of.items()):
            shares = np.bincount(counts, minlength=11) / counts.size
            axis.bar(np.arange(shares.size) + index * width - 0.4, shares, width, label=env_id)
        axis.set(xlabel="backtracks in an update", ylabel="share of updates", xticks=range(11))
        axis.legend()
        return figure

    return Study(
        "C9",
        "C9: 5–10 backtracks suffice",
        "Every update of the TRPO runs; factor 0.8, at most 10 backtracks. A step that is rejected "
        "after all of them leaves the policy as it is.",
        ("environment", "runs", "δ", "updates", "no backtrack", "at most 1", "at most 5",
         "most in an accepted step", "rejected"),
        rows,
        draw,
    )  # fmt: skip


def _array(rows: list) -> np.ndarray:
    return np.array(rows, dtype=float)


def _shares(kls: np.ndarray, bound: float) -> list[str]:
    above = kls > bound
    return [
        f"{np.mean(above):.1%}",
        f"{np.mean(kls > 1.5 * bound):.1%}",
        f"{np.mean(above[:, :EARLY]):.1%}",
        f"{np.mean(above[:, EARLY:]):.1%}" if above.shape[1] > EARLY else "",
        f"{np.median(kls) / bound:.2f}",
        f"{np.max(kls) / bound:.2f}",
    ]
