"""Shards of one sweep, trained apart from each other, become that sweep."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from trpo_jax.experiments import run_directory as layout
from trpo_jax.experiments.files import create_directory
from trpo_jax.experiments.specification import SweepSpec
from trpo_jax.experiments.sweep import on_disk
from trpo_jax.experiments.sweep.result import SweepResult
from trpo_jax.experiments.sweep.slices import writer


def merge_shards(paths: Sequence[Path], out: Path, console: Console) -> SweepResult:
    """Write the sweep of which the directories hold all shards, in any order, to `out`.

    Nothing is trained again; the evaluation, whose initial states all lanes share, is repeated.
    Raises `ValueError`, before anything is written, if a shard is missing, is there twice, is not
    complete or belongs to another sweep.
    """
    shards = _in_order(paths)
    first, _ = shards[0]
    spec = first._replace(shard=None)

    def load(part: int, like: Any) -> tuple[int, Any]:
        """The progress of all lanes of a part, from that of its shards."""
        whole, slices_done = jax.tree.map(np.array, like), 0
        for each, path in shards:
            lanes = _lanes_of(each)
            mine = jax.tree.map(lambda leaf, chosen=lanes: leaf[chosen], like)
            number, progress = _progress(path, part, mine)
            slices_done += number
            jax.tree.map(writer(lanes), whole, progress)
        return slices_done, whole

    create_directory(out)
    on_disk.store_sweep(out, spec, num_devices=1)
    return on_disk.run_sweep(out, spec, console, load=load)


def _in_order(paths: Sequence[Path]) -> list[tuple[SweepSpec, Path]]:
    """The shards from the first to the last; what is wrong with them is a `ValueError`."""
    if not paths:
        raise ValueError("SHARD is missing; name the directories of all shards of a sweep")
    found: dict[int, tuple[SweepSpec, Path]] = {}
    totals, specs = set(), []
    for path in paths:
        spec = on_disk.load_sweep(path).spec
        if spec.shard is None:
            raise ValueError(f"shard={path} is a whole sweep; it was not made with --shard")
        if not (path / on_disk.RESULTS).is_file():
            raise ValueError(f"shard={path} is not complete: trpo-jax sweep --resume {path}")
        number, total = spec.shard
        totals.add(total)
        specs.append(spec._replace(shard=None))
        if specs[0] != specs[-1] or len(totals) > 1:
            raise ValueError(f"shard={path} belongs to another sweep than {paths[0]}")
        if number in found:
            raise ValueError(f"shard={path} is the same shard as {found[number][1]}")
        found[number] = spec, path
    total = totals.pop()
    missing = [f"{number}/{total}" for number in range(1, total + 1) if number not in found]
    if missing:
        raise ValueError(f"shards {', '.join(missing)} are missing; train them, or name them too")
    return [found[number] for number in sorted(found)]


def _lanes_of(spec: SweepSpec) -> np.ndarray:
    """Which lanes of the whole sweep a shard has trained, in its own order."""
    settings = np.array(spec.own_numbers())
    return (settings[:, None] * spec.num_seeds + np.arange(spec.num_seeds)).ravel()


def _progress(path: Path, part: int, like: Any) -> tuple[int, Any]:
    """What a shard has stored of a part."""
    damage: list[str] = []
    checkpoints = on_disk.PartCheckpoints(path / layout.CHECKPOINTS, damage.append)
    with contextlib.closing(checkpoints):
        stored = checkpoints.load(part, like)
    if stored is None or damage:
        raise ValueError(f"shard={path} is damaged: {' '.join(damage) or 'it has no checkpoint'}")
    return stored
