"""`trpo-jax scores`: aggregate scores of runs, in the form that rliable reads."""

import math
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trpo_jax.cli.parsing import parse
from trpo_jax.cli.reading_arguments import ScoresArguments


def scores(argv: list[str]) -> int:
    """Write the scores of runs, their aggregates and the performance profile."""
    arguments = parse(ScoresArguments, argv, "trpo-jax scores")
    from trpo_jax.experiments import run_directory
    from trpo_jax.experiments import scores as reading
    from trpo_jax.experiments.files import to_json

    if not arguments.runs:
        raise ValueError("RUN is missing; `trpo-jax runs` lists the runs there are")
    named = [_named(word) for word in arguments.runs]
    runs = [(name, run_directory.load_run(path)) for name, path in named]
    ranges = dict(map(_range, arguments.normalize))
    read = reading.read_scores(runs, ranges)
    if len(read.environments) > 1 and len(ranges) < len(read.environments):
        print(
            "warning: returns of several environments are averaged as they are; --normalize "
            "ENV=LOW,HIGH puts them on one scale",
            file=sys.stderr,
        )
    content = reading.summary(read)
    files = reading.write_scores(read, content, arguments.out)
    if arguments.json:
        print(to_json(content))
        return 0
    table = Table("name", "seeds", "interquartile mean", "95 % interval", box=None)
    for name, (value, low, high) in content["interquartile_mean"].items():
        seeds = str(len(read.scores[name]))
        table.add_row(name, seeds, f"{value:.4g}", f"[{low:.4g}, {high:.4g}]")
    Console().print(table)
    for pair, (value, low, high) in content["probability_of_improvement"].items():
        better, worse = pair.split(",")
        print(f"P({better} > {worse}) = {value:.3f} [{low:.3f}, {high:.3f}]")
    for file in files:
        print(file)
    return 0


def _named(word: str) -> tuple[str, Path]:
    """NAME=RUN, or RUN, whose name is that of its directory."""
    name, equals, path = word.partition("=")
    if Path(word).is_dir() or not equals:
        return Path(word).resolve().name, Path(word)
    if not name or "," in name:
        raise ValueError(f"run={word!r}: NAME of NAME=RUN must be a word without commas")
    return name, Path(path)


def _range(word: str) -> tuple[str, tuple[float, float]]:
    """The environment and its two returns in ENV=LOW,HIGH."""
    env, _, bounds = word.rpartition("=")
    try:
        low, high = map(float, bounds.split(","))
    except ValueError:
        low = high = math.nan
    if not env or not low < high < math.inf:
        raise ValueError(f"normalize={word!r} is not of the form ENV=LOW,HIGH with LOW < HIGH")
    return env, (low, high)
