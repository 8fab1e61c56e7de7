"""Does the guard keep its promise? Error rates in simulation, and trainings that collapse.

python benchmarks/guard.py boundary
python benchmarks/guard.py drift
python benchmarks/guard.py training

`boundary` and `drift` are NumPy alone: the guard's own decisions on simulated returns
(`guard_simulations.py`). `training` trains CartPole with faults of the doctor's (`guard_runs.py`).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import report
from guard_simulations import DISTRIBUTIONS, Returns, training
from scipy import stats

from trpo_jax.experiments.guard.deciding import NOT_WORSE, REPLACED, WORSE
from trpo_jax.experiments.guard.settings import Guard

PARTS = {
    "boundary": "Error rate at the boundary of the null hypothesis",
    "drift": "Many small steps down",
    "training": "Trainings that collapse",
}
CANDIDATES, PAIRS = 10, 256
GUARD = Guard(confidence=0.95, share=1.0)


def seen_at_boundary(returns: Returns, trainings: int) -> dict[str, object]:
    """One row: candidates that are worse by exactly the margin, and ones that are as good."""
    rng = np.random.default_rng(17)
    guard = GUARD._replace(margin=returns.margin)
    wrong, verdicts, pairs = 0, [], []
    for _ in range(trainings):
        _, tests, _ = training(
            *(rng, guard, returns),
            candidates=CANDIDATES,
            pairs=PAIRS,
            worse_by=returns.margin,
        )
        wrong += any(test.action == REPLACED for test in tests)
        verdicts += [test.verdict for test in tests]
        pairs += [test.num_pairs for test in tests]
    low, high = stats.binomtest(wrong, trainings).proportion_ci(method="wilson")
    row = {
        "returns": returns.name,
        "margin": returns.margin,
        "trainings with a false replacement": f"{wrong} of {trainings}",
        "that is": f"{100 * wrong / trainings:.1f} % [{100 * low:.1f}, {100 * high:.1f}]",
        "candidates shown to be worse": f"{100 * np.mean(np.array(verdicts) == WORSE):.1f} %",
        "pairs per candidate": f"{np.mean(pairs):.0f}",
        "as good, and shown to be not worse": power(rng, guard, returns, max(trainings // 5, 1)),
    }
    print(*row.values(), sep=" | ", flush=True)
    return row


def power(rng: np.random.Generator, guard: Guard, returns: Returns, trainings: int) -> str:
    """How often the first candidate of a training replaces a policy that is exactly as good."""
    if not returns.shifted:
        return "–"
    shown = 0
    for _ in range(trainings):
        _, (test,), _ = training(rng, guard, returns, candidates=1, pairs=PAIRS, worse_by=0.0)
        shown += test.verdict == NOT_WORSE or test.action == REPLACED
    return f"{100 * shown / trainings:.0f} %"


def boundary(arguments: argparse.Namespace) -> str:
    trainings = 20 if arguments.quick else arguments.trainings
    distributions = DISTRIBUTIONS[:1] if arguments.quick else DISTRIBUTIONS
    rows = report.records([seen_at_boundary(each, trainings) for each in distributions])
    return (
        f"{trainings:,} simulated trainings a row, each with {CANDIDATES} candidates of up to "
        f"{PAIRS} pairs, at a confidence of 0.95. Every candidate has exactly `margin` less mean "
        "return than the policy in service: any replacement is false, and at most 5 % of the "
        "trainings may have one. In the last three rows the policy in service has always the same "
        f"return, and the candidate loses 490 now and then.\n\n{rows}\n\n"
        "The last row is beyond any method that knows no bound of the returns: nothing below 0 was "
        "ever seen, and 32 to 256 episodes in which nothing falls look like a policy that never "
        "does. A return of 0 always counts as possible, which covers the two rows before it. In a "
        "run the mean returns of training, from the first update on, say how low returns can be."
    )


def drift(arguments: argparse.Namespace) -> str:
    trainings = 5 if arguments.quick else 100
    returns, rows = DISTRIBUTIONS[1], []
    guard = GUARD._replace(margin=returns.margin)
    for remembers in (True, False):
        rng, falls, replacements = np.random.default_rng(3), [], []
        for _ in range(trainings):
            _, tests, means = training(
                *(rng, guard, returns),
                candidates=20,
                pairs=2000,
                worse_by=returns.margin / 3,
                remembers=remembers,
            )
            falls.append(-means[-1] / returns.margin)
            replacements.append(sum(test.action == REPLACED for test in tests))
        reference = "best lower bound ever in service" if remembers else "policy in service alone"
        rows.append(
            {
                "compared with": reference,
                "replacements": f"{np.mean(replacements):.1f}",
                "mean fall, margins": f"{np.mean(falls):.2f}",
                "largest fall, margins": f"{np.max(falls):.2f}",
            }
        )
    return (
        f"{trainings} simulated trainings with 20 candidates of up to 2,000 pairs, each a third of "
        f"a margin worse than the policy in service ({returns.name}, margin {returns.margin}): "
        f"each of them alone is within the margin.\n\n{report.records(rows)}"
    )


def trained(arguments: argparse.Namespace) -> str:
    import guard_runs as runs

    steps, guard = 300_000, Guard(0.95, margin=10.0, share=0.1, every=15)
    if arguments.quick:
        steps, guard = 20_480, guard._replace(share=1.0, every=5)
    kinds = runs.FAULTS[:1] if arguments.quick else (*runs.FAULTS, None)
    found: dict[str, list] = {kind.__name__ if kind else "nothing": [] for kind in kinds}
    agents = {name: runs.make_agent(kind) for name, kind in zip(found, kinds, strict=True)}
    deadline, seed, text = time.monotonic() + arguments.minutes * 60, 0, ""
    with tempfile.TemporaryDirectory() as directory:
        while not (seed and (arguments.quick or time.monotonic() > deadline)):
            for name, agent in agents.items():
                path = Path(directory) / f"{name}-{seed}"
                found[name].append(runs.guarded(agent, guard, seed, steps, path))
                print(name, seed, found[name][-1], flush=True)
            seed += 1
            rows = [training_row(name, each, guard) for name, each in found.items()]
            text = (
                f"{runs.ENV_ID} with a limit of {runs.MAX_STEPS} steps, {steps:,} steps of "
                f"training, guard 0.95 with margin {guard.margin:g}, share {guard.share:g}, a "
                f"candidate every {guard.every} updates. Faults begin at random and last 40 "
                "updates. Every policy that came into service was played for 4096 episodes of its "
                "own; falls are of these true returns, at a replacement and below the best one "
                f"before.\n\n{report.records(rows)}"
            )
            write(arguments, text)  # so that stopping it loses no more than a round
    return text


def training_row(name: str, found: list, guard: Guard) -> dict[str, object]:
    """One row: what the runs with one fault have in common."""
    number = len(found)
    return {
        "injected": name.replace("_", " "),
        "runs": number,
        "fall > margin at a replacement": sum(run.worst_step > guard.margin for run in found),
        "fall > margin below the best": sum(run.worst_fall > guard.margin for run in found),
        "largest fall": f"{max(run.worst_fall for run in found):.2f}",
        "runs with a roll back": sum(run.rolled_back > 0 for run in found),
        "replacements, roll backs": f"{sum(run.replaced for run in found)}, "
        f"{sum(run.rolled_back for run in found)}",
        "learner ends > margin below the service": sum(
            run.learner < run.in_service - guard.margin for run in found
        ),
        "in service at the end, mean (least)": f"{np.mean([run.in_service for run in found]):.1f} "
        f"({min(run.in_service for run in found):.1f})",
        "largest share of steps": f"{100 * max(run.share for run in found):.2f} %",
    }


def main() -> None:
    parser = report.parser(__doc__, "guard.md", tuple(PARTS))
    parser.add_argument("--trainings", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=9.0, help="of trainings that collapse")
    arguments = parser.parse_args()
    measure = {"boundary": boundary, "drift": drift, "training": trained}[arguments.part]
    write(arguments, measure(arguments))


def write(arguments: argparse.Namespace, text: str) -> None:
    title = "Does the guard keep its promise?"
    report.write_part(arguments.out, title, PARTS, arguments.part, text)


if __name__ == "__main__":
    main()
