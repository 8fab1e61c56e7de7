"""A sweep that several machines share, and what merging makes of it."""

import json

import jax
import numpy as np
import pytest

from trpo_jax.cli import main
from trpo_jax.experiments import run_directory, states
from trpo_jax.experiments.checkpoints import to_host

SMALL = ["--num-envs", "2", "--num-steps", "16", "--hidden-sizes", "4", "--value-epochs", "1"]
SLICES = ["--max-parallel", "2"]  # of one width in every sweep, so that they share their programs
GRID = ["--max-kl", "0.003", "0.01", "0.03", "--seeds", "2", "--total-steps", "96"]
STATIC = ["--static", "activation=tanh,relu", "--eval-episodes", "2"]
SWEEP = ["sweep", "CartPole-v1", *SMALL, *GRID, *STATIC, *SLICES]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The whole sweep, its two shards, and the two merged."""
    path = tmp_path_factory.mktemp("shards")
    for shard in ("1/2", "2/2"):
        assert main([*SWEEP, "--shard", shard, "--out", str(path / shard[0])]) == 0
    assert main([*SWEEP, "--out", str(path / "whole")]) == 0
    assert main(["merge", str(path / "2"), str(path / "1"), "--out", str(path / "merged")]) == 0
    return path


def test_a_shard_trains_its_own_settings(directory):
    rows = (directory / "2" / "results.csv").read_text().splitlines()
    assert {line.split(",")[1] for line in rows[1:]} == {"0.01"}
    assert json.loads((directory / "2" / "sweep.json").read_text())["shard"] == [2, 2]


def test_merged_shards_are_the_sweep(directory):
    tables = [
        np.genfromtxt(directory / name / "results.csv", delimiter=",", names=True, dtype=None)
        for name in ("merged", "whole")
    ]
    for merged, whole in zip(*tables, strict=True):
        assert merged["activation"] == whole["activation"]
        assert merged["max_kl"] == whole["max_kl"]
        np.testing.assert_allclose(merged["mean"], whole["mean"], rtol=1e-5)
    best = [run_directory.load_run(directory / name / "best") for name in ("merged", "whole")]
    assert best[0].spec == best[1].spec
    final = [
        to_host(states.final_state(run, states.make_agent(run.spec))).policy_params for run in best
    ]
    for mine, theirs in zip(*map(jax.tree.leaves, final), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    assert (directory / "merged" / "sensitivity_max_kl.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SWEEP, "--shard", "3/2"], "1 ≤ I ≤ N"),
        ([*SWEEP, "--shard", "1/7"], "of 3 settings"),
        ([*SWEEP, "--shard", "half"], "must be I/N"),
        ([*SWEEP, "--shard", "1/2", "--halving", "0.5"], "halving"),
        (["merge"], "SHARD"),
        (["merge", "{}/1"], "shards 2/2 are missing"),
        (["merge", "{}/1", "{}/1"], "the same shard"),
        (["merge", "{}/1", "{}/whole"], "a whole sweep"),
        (["merge", "{}/1", "{}/2", "--out", "{}/whole"], "not an empty directory"),
        (["merge", "{}/nothing"], "does not exist"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, directory, capsys):
    arguments = [word.format(directory) for word in arguments]
    if arguments[0] == "sweep":
        arguments += ["--out", str(directory / "never")]
    assert main(arguments) == 2
    complaint = capsys.readouterr().err.strip()
    assert message in complaint
    assert "\n" not in complaint
    assert not (directory / "never").exists()


def test_a_shard_that_is_not_complete_says_how_to_go_on(directory, tmp_path, capsys):
    results = directory / "1" / "results.csv"
    kept = results.rename(tmp_path / "results.csv")
    assert main(["merge", str(directory / "1"), str(directory / "2")]) == 2
    assert f"--resume {directory / '1'}" in capsys.readouterr().err
    kept.rename(results)
