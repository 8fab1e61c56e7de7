"""Runs and sweeps of an environment with costs: logs, evaluations, pictures, the best policy."""

import csv
import json

import pytest
from constrained_mdp import TwoStates

from trpo_jax import TRPOConfig, load_run
from trpo_jax.cli import main
from trpo_jax.experiments.evaluation import _rank

SMALL = [
    *("--num-envs", "8", "--num-steps", "16", "--hidden-sizes", "8", "--value-epochs", "2"),
    *("--total-steps", "1024", "--eval-episodes", "8"),
]


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A directory, and the environment's module to be imported."""
    return tmp_path_factory.mktemp("costs")


@pytest.fixture(scope="module")
def run(where):
    path = where / "run"
    arguments = ["--algorithm", "lagrangian", "--cost-limit", "2", "--eval-every", "4"]
    assert main(["train", "constrained_mdp:TwoStates", *SMALL, *arguments, "--out", str(path)]) == 0
    return path


def test_a_run_knows_its_algorithm_and_its_costs(run, capsys):
    agent, state, *_ = load_run(run)
    assert agent.parts.config.algorithm == "lagrangian"
    assert state.cost_critic is not None
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name in ("episode_cost", "cost_estimate", "constraint_multiplier", "mean_length"):
        assert all(line[name] is not None for line in lines), name
    evaluations = [json.loads(x) for x in (run / "evaluations.jsonl").read_text().splitlines()]
    assert all(0 <= line["mean_cost"] <= 12 for line in evaluations)
    assert main(["evaluate", str(run), "--episodes", "8"]) == 0
    assert "\ncost  " in capsys.readouterr().out


def test_a_run_is_continued(run):
    """The critic of the costs and the multiplier come back from disk."""
    assert main(["train", "--resume", str(run), "--total-steps", "1280"]) == 0


def test_its_pictures_show_the_costs(run, tmp_path, capsys):
    assert main(["plot", str(run), "--out", str(tmp_path), "--formats", "png"]) == 0
    names = {line.rpartition("/")[2] for line in capsys.readouterr().out.split()}
    assert {"cost.png", "multiplier.png", "cost_critic.png"} <= names


def test_a_sweep_over_the_limit_draws_the_trade_off(where):
    """All limits in one program; return against cost as a picture."""
    path = where / "sweep"
    arguments = ["--algorithm", "cpo", "--cost-limit", "1", "3", "9", "--seeds", "2"]
    arguments += ["--out", str(path)]
    assert main(["sweep", "constrained_mdp:TwoStates", *SMALL, *arguments]) == 0
    assert (path / "trade_off.png").is_file()
    rows = list(csv.DictReader((path / "results.csv").open()))
    assert {float(row["cost_limit"]) for row in rows} == {1.0, 3.0, 9.0}
    assert all(float(row["cost"]) >= 0 for row in rows)


def test_the_best_policy_keeps_the_limit_if_any_does():
    """Among those that keep it the return decides; else the smallest excess."""
    records = [
        {"mean": 90.0, "mean_cost": 40.0}, {"mean": 50.0, "mean_cost": 24.0},
        {"mean": 60.0, "mean_cost": 25.0}, {"mean": 99.0, "mean_cost": 26.0},
    ]  # fmt: skip
    ranked = sorted(records, key=lambda record: _rank(record, 25.0), reverse=True)
    assert [record["mean"] for record in ranked] == [60.0, 50.0, 99.0, 90.0]
    assert max(records, key=lambda record: _rank(record, None))["mean"] == 99.0
    unknown = {"mean": 500.0, "mean_cost": float("nan")}
    assert _rank(unknown, 25.0) < _rank(records[0], 25.0)


def test_a_limit_without_costs_is_one_line(capsys):
    assert main(["train", "CartPole-v1", "--algorithm", "cpo"]) == 2
    error = capsys.readouterr().err
    assert "algorithm='cpo' limits costs, and CartPole-v1 has none" in error
    assert error.count("\n") == 1


def test_settings_are_checked():
    with pytest.raises(ValueError, match="algorithm='safe' is unknown"):
        TRPOConfig(algorithm="safe")
    assert TwoStates().costs is None
