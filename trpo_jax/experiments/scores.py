"""Scores of runs as rliable reads them, with what it would say of them."""

import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trpo_jax.experiments import run_directory as layout
from trpo_jax.experiments.figures import COLORS, new_figure, save_figure
from trpo_jax.experiments.files import to_json, write_text
from trpo_jax.experiments.run_directory import Run
from trpo_jax.experiments.statistics import (
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)

_THRESHOLDS = 200
_RESERVED = ("file", "allow_pickle")
"""Names that `np.savez` takes for itself."""


class Scores(NamedTuple):
    """The scores of several algorithms on the same environments."""

    environments: tuple[str, ...]
    """The columns."""
    scores: dict[str, np.ndarray]
    """By name: mean return of the evaluation at the end, [seeds, environments]."""


def read_scores(
    runs: Sequence[tuple[str, Run]], ranges: dict[str, tuple[float, float]] | None = None
) -> Scores:
    """The scores of named runs; runs of one name are one algorithm.

    `ranges` maps environments to (low, high), and a return becomes (return − low) / (high − low).
    Raises `ValueError` if a run has no evaluation at its end, if a name lacks an environment that
    another has, or if a name has more seeds in one environment than in another.
    """
    columns: dict[str, dict[str, list[float]]] = {}
    for name, run in runs:
        returns = columns.setdefault(name, {}).setdefault(run.spec.env_id, [])
        returns += _returns(run)
    environments = tuple(dict.fromkeys(run.spec.env_id for _, run in runs))
    ranges = ranges or {}
    if unknown := [env for env in ranges if env not in environments]:
        raise ValueError(f"normalize={unknown[0]} is none of {', '.join(environments)}")
    scores = {name: _matrix(name, by_env, environments) for name, by_env in columns.items()}
    low, high = np.array([ranges.get(env, (0.0, 1.0)) for env in environments]).T
    return Scores(
        environments, {name: (each - low) / (high - low) for name, each in scores.items()}
    )


def _returns(run: Run) -> list[float]:
    """Mean return of each seed in the evaluation at the end."""
    file = run.path / layout.FINAL_EVALUATION
    if not file.is_file():
        raise ValueError(
            f"run={run.path} has no evaluation at its end; finish it: trpo-jax train --resume"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))["mean_per_run"]
        return [float(value) for value in values]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is damaged: it has no mean return of each seed") from None


def _matrix(name: str, by_env: dict[str, list[float]], environments: tuple[str, ...]) -> np.ndarray:
    if name in _RESERVED:
        raise ValueError(f"the name {name!r} is reserved by .npz files; choose another")
    if missing := [env for env in environments if env not in by_env]:
        raise ValueError(
            f"{name} has no run of {missing[0]}, which others have; leave it out there"
        )
    seeds = {env: len(by_env[env]) for env in environments}
    if len(set(seeds.values())) > 1:
        raise ValueError(f"{name} has different numbers of seeds: {seeds}; scores are a rectangle")
    return np.array([by_env[env] for env in environments]).T


def summary(scores: Scores) -> dict[str, Any]:
    """Interquartile means, and the probability that a run of X is better than one of Y, each as
    [value, low, high] with the 95 % stratified bootstrap interval."""
    return {
        "environments": list(scores.environments),
        "scores": {name: each.tolist() for name, each in scores.scores.items()},
        "interquartile_mean": {
            name: _with_interval(interquartile_mean, each) for name, each in scores.scores.items()
        },
        "probability_of_improvement": {
            f"{name},{other}": _with_interval(
                probability_of_improvement, scores.scores[name], scores.scores[other]
            )
            for name, other in itertools.permutations(scores.scores, 2)
        },
    }


def _with_interval(statistic: Any, *scores: np.ndarray) -> list[float]:
    return [float(x) for x in (statistic(*scores), *stratified_interval(statistic, *scores))]


def write_scores(scores: Scores, content: dict[str, Any], directory: Path) -> list[Path]:
    """Write scores.npz, which is rliable's dictionary; scores.json; and the profile's picture."""
    archive = io.BytesIO()
    arrays: dict[str, Any] = scores.scores
    np.savez(archive, **arrays)
    files = [directory / "scores.npz", directory / "scores.json"]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        files[0].write_bytes(archive.getvalue())
        write_text(files[1], to_json(content, indent=1) + "\n")
    except OSError as error:
        raise ValueError(f"out={directory} cannot be written: {error.strerror}") from None
    return [*files, *save_figure(_profile(scores), directory / "profile", ("png", "svg"))]


def _profile(scores: Scores) -> Any:
    """Fraction of runs above each score, with pointwise 95 % bands."""
    every = np.concatenate([each.reshape(-1) for each in scores.scores.values()])
    margin = 0.05 * (np.ptp(every) or 1.0)
    thresholds = np.linspace(every.min() - margin, every.max() + margin, _THRESHOLDS)
    figure = new_figure((8.0, 5.0), constrained=True)
    ax = figure.add_subplot()
    for (name, each), color in zip(scores.scores.items(), itertools.cycle(COLORS), strict=False):

        def fractions(drawn: np.ndarray) -> np.ndarray:
            return performance_profile(drawn, thresholds)

        low, high = stratified_interval(fractions, each)
        ax.fill_between(thresholds, low, high, color=color, alpha=0.18, linewidth=0)
        ax.step(thresholds, fractions(each), where="mid", color=color, label=_legend(name, each))
    ax.set_xlabel("score τ")
    ax.set_ylabel("fraction of runs with a score above τ")
    ax.set_ylim(-0.02, 1.02)
    ax.grid(alpha=0.25)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    figure.suptitle(f"performance profile · {' · '.join(scores.environments)}", fontsize=12)
    ax.set_title("band: 95 % stratified bootstrap interval", fontsize=8, color="0.35")
    return figure


def _legend(name: str, scores: np.ndarray) -> str:
    seeds, environments = scores.shape
    where = "" if environments == 1 else f" × {environments} environments"
    return f"{name} ({seeds} {'seed' if seeds == 1 else 'seeds'}{where})"
