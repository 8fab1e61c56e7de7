"""Sweeps from the command line: what they leave on disk, stopped and gone on or not."""

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

import trpo_jax
from trpo_jax.cli import main
from trpo_jax.cli.parsing import static_values_of
from trpo_jax.experiments import run_directory, states
from trpo_jax.experiments.checkpoints import Checkpoints, to_host
from trpo_jax.experiments.sweep import on_disk
from trpo_jax.experiments.sweep.pictures import plot_sweep
from trpo_jax.experiments.sweep.slices import Slices


def test_the_command_line_can_sweep_every_hyperparameter(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    printed = capsys.readouterr().out
    for name in vars(trpo_jax.HParams()):
        assert f"--{name.replace('_', '-')} " in printed


def test_static_values_are_separated_by_commas():
    pairs = ["num_envs=8,16", "hidden_sizes=32,64x64", "activation=tanh,relu", "line_search=True"]
    assert static_values_of(pairs) == {
        "num_envs": [8, 16],
        "hidden_sizes": [(32,), (64, 64)],
        "activation": ["tanh", "relu"],
        "line_search": [True],
    }


def test_a_sweep_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "sweep"
    small = ["--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--eval-episodes", "4"]
    axes = ["--max-kl", "0.003", "0.01", "--static", "num_envs=2,4", "--seeds", "2"]
    arguments = ["sweep", "CartPole-v1", *small, *axes, "--total-steps", "256", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"best run: {out / 'best'}" in printed
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    means = [float(row["mean"]) for row in rows]
    assert means == sorted(means, reverse=True)
    updates = {(row["num_envs"], row["updates"], row["steps"]) for row in rows}
    assert updates == {("2", "4", "256"), ("4", "2", "256")}
    for name in ("heat_map", "sensitivity_max_kl", "sensitivity_num_envs", "best_curves"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 300
    assert main(["evaluate", str(out), "--best", "--episodes", "4", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert np.isfinite(evaluated["mean"])
    assert main(["train", "--resume", str(out / "best"), "--total-steps", "512"]) == 0
    assert main(["evaluate", str(out)]) == 2
    assert "--best" in capsys.readouterr().err
    assert main(["sweep", "--resume", str(out)]) == 2
    assert "complete" in capsys.readouterr().err
    assert main(["sweep", "CartPole-v1", "--out", str(tmp_path / "other")]) == 2
    assert "nothing to sweep" in capsys.readouterr().err


def test_a_sweep_on_disk_that_was_stopped_goes_on_to_the_same_end(tmp_path, monkeypatch, capsys):
    """Twice: after its first slice, and when all is trained but nothing written yet."""
    small = ["--num-envs", "2", "--num-steps", "32", "--hidden-sizes", "8", "--eval-episodes", "2"]
    axes = ["--max-kl", "0.003", "0.01", "--seeds", "2", "--max-parallel", "2"]
    arguments = ["sweep", "CartPole-v1", *small, *axes, "--total-steps", "128"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*arguments, "--out", str(whole)]) == 0

    advance, trained = Slices.advance, []

    def advance_once(*slice_):
        if trained:
            raise KeyboardInterrupt
        trained.append(advance(*slice_))

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Slices, "advance", advance_once)
        assert main([*arguments, "--out", str(stopped)]) == 130
    with monkeypatch.context() as patched:
        patched.setattr(on_disk, "plot_sweep", interrupt)
        assert main(["sweep", "--resume", str(stopped)]) == 130
        patched.setattr(Slices, "advance", interrupt)  # nothing is trained again
        patched.setattr(on_disk, "plot_sweep", plot_sweep)
        assert main(["sweep", "--resume", str(stopped)]) == 0
    assert "damaged" not in capsys.readouterr().out
    for name in ("results.csv", "best/metrics.jsonl"):
        ours, theirs = ((path / name).read_text() for path in (stopped, whole))
        assert ours == theirs
    runs = [run_directory.load_run(path / "best") for path in (stopped, whole)]
    agent = states.make_agent(runs[0].spec)
    assert runs[0].spec == runs[1].spec
    ours, theirs = (to_host(states.final_state(run, agent)) for run in runs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_checkpoint_of_what_jax_would_narrow_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"state\['count'\] is int64.*int32"):
        Checkpoints(tmp_path / "states").save(1, {"count": np.arange(3, dtype=np.int64)})
