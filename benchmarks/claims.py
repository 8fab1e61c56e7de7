"""The claims C1–C17 of the article on TRPO, each confirmed or refuted by measurement.

python benchmarks/claims.py train                 the runs that C1, C2, C4, C6–C9 and C17 share
python benchmarks/claims.py train CartPole-v1     some of them; what lies on the disk is kept
python benchmarks/claims.py C8 C11                studies: NAME.md, NAME.png, NAME.json each
python benchmarks/claims.py all --quick           a miniature of everything, for the tests

Results go to benchmarks/results/claims/, or to --out. What they mean: docs/claims.md.
"""

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Collection

import report

STUDIES = {
    "C1": "drops.bad_steps",
    "C2": "drops.smoothness",
    "C3": "costs.whole_iterations",
    "C4": "returns.iterations",
    "C5": "costs.whole_iterations",
    "C6": "returns.comparison",
    "C7": "returns.samples",
    "C8": "drops.violations",
    "C9": "drops.backtracks",
    "C10": "costs.line_search_and_cg",
    "C11": "solves.convergence",
    "C12": "costs.iteration_cost",
    "C13": "costs.products",
    "C14": "returns.few_iterations",
    "C15": "solves.precisions",
    "C16": "solves.warm_starts",
    "C17": "drops.destructive_updates",
}
"""Claim to the function in a module of claim_studies that turns `Options` into a `Study`."""


class UnknownNameError(Exception):
    """The command line asks for what there is not."""


def train(names: list[str], options) -> None:
    """The shared training runs that are not on the disk yet."""
    from claim_studies import training
    from claim_studies.settings import METHODS, TASKS

    _require_known("environment", names, TASKS)
    for env_id in names or (["CartPole-v1"] if options.quick else list(TASKS)):
        start = training.untrained(options.runs, env_id, options.quick)
        print(env_id, f"untrained {start:g}", flush=True)
        for method_id in METHODS:
            record = training.run(options.runs, env_id, method_id, options.quick)
            print(env_id, method_id, f"chosen {record['chosen']:g}", flush=True)


def study(names: list[str], options) -> None:
    """Some studies, one after the other; claims that share one have it done once."""
    from claim_studies.study import write

    _require_known("study", names, STUDIES)
    for path in dict.fromkeys(STUDIES[name] for name in names):
        module, function = path.split(".")
        make = getattr(importlib.import_module(f"claim_studies.{module}"), function)
        write(make(options), options)


def _require_known(what: str, names: list[str], known: Collection[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownNameError(f"unknown {what} {', '.join(unknown)}; use {', '.join(known)}")


def everything(arguments: argparse.Namespace) -> None:
    """Each study in a process of its own: XLA dies in one that has compiled too much."""
    rest = ["--out", str(arguments.out), *(["--quick"] if arguments.quick else [])]
    for name in ["train", *STUDIES]:
        subprocess.run([sys.executable, __file__, name, *rest], check=True, env=os.environ)


def main() -> None:
    parser = report.parser(__doc__, "claims")
    parser.add_argument("names", nargs="+", metavar="NAME", help="train [ENV …], C1 … C17, or all")
    arguments = parser.parse_args()
    first, *others = arguments.names
    if first == "all" and not others:
        return everything(arguments)

    from claim_studies.study import Options
    from claim_studies.training import NotTrainedError

    options = Options(arguments.out, arguments.quick)
    try:
        train(others, options) if first == "train" else study(arguments.names, options)
    except (UnknownNameError, NotTrainedError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
