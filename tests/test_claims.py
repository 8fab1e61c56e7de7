"""The studies of the claims in miniature, and the statistics that they rest on."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import claims
from claim_studies import drops, returns, settings, training
from claim_studies.statistics import (
    interquartile_mean,
    over_seeds,
    over_tasks,
    probability_of_improvement,
)
from claim_studies.study import Options


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Shared runs with known numbers, as `train` leaves them: no training needed to test tables."""
    directory = tmp_path_factory.mktemp("claims")
    (directory / "runs").mkdir()
    for name in ("trpo", "npg", "vpg", "ppo"):
        path = directory / "runs" / f"CartPole-v1_{name}.json"
        path.write_text(json.dumps(made_up_record(name)))
    for iterations in (1, 2):
        path = directory / "runs" / f"CartPole-v1_cg{iterations}.json"
        path.write_text(json.dumps(made_up_record("trpo")["runs"]))
    return directory


def made_up_record(name):
    """Ten equal seeds that rise by 10 a step to 100; VPG half as fast, and it falls once."""
    rise = [20.0 + 10 * i for i in range(9)] + [100.0] * 11
    slow = [20.0 + 5 * i for i in range(17)] + [100.0, 50.0, 100.0]
    curve = slow if name == "vpg" else rise
    runs = {"training": [curve] * 10, "measured": [curve] * 10, "kl": [[0.008] * 19 + [0.02]] * 10}
    if name in ("trpo", "npg"):
        runs |= {
            "first_kl": runs["kl"],
            "residual": [[0.01] * 20] * 10,
            "backtracks": [[0] * 19 + [2]] * 10,
            "accepted": [[1] * 20] * 10,
        }
    value = 0.01
    tuning = [{"value": value, "score": 1.0, "runs": {k: v[:2] for k, v in runs.items()}}]
    return {"batch_size": 100, "chosen": value, "tuning": tuning, "runs": runs}


def test_every_study_of_the_shared_runs_says_what_was_made_up(out):
    options = Options(out, quick=True)
    names = ["C1", "C2", "C4", "C6", "C7", "C8", "C9", "C14", "C17"]
    claims.study(names, options)
    table = {name: json.loads((out / f"{name}.json").read_text()) for name in names}
    assert table["C1"][-1]["worst loss"] == "62%"  # from 100 to 50, having gained 80
    assert table["C1"][-1]["lost > 50 %"].startswith("10 ")  # one in each seed
    by_method = {row["method"]: row for row in table["C2"]}
    assert by_method["VPG"]["drops > 50 % per run (mean)"] == "1 [1, 1]"
    assert by_method["TRPO"]["drops > 50 % per run (mean)"] == "0 [0, 0]"
    # Half of the way is 60: TRPO's mean of three is there after 6 updates, VPG's after 10.
    assert table["C4"][0]["VPG / TRPO"] == "1.67"
    assert table["C7"][0]["PPO / TRPO"] == "1.00"
    assert table["C6"][-1]["TRPO"] == "1 [1, 1]"
    assert table["C8"][-1]["violations"] == "5.0%"
    assert table["C9"][-1]["no backtrack"] == "95.0%"
    assert table["C17"][-1]["worst loss"] == "0%"
    assert table["C14"][0]["final return"] == "100 [100, 100]"
    assert (out / "C6.png").stat().st_size > 1000


def test_a_return_that_is_not_known_yet_does_not_reach_a_threshold():
    runs = {"training": [[None, None, 10.0, 20.0, 30.0, 30.0, 30.0]] * 2}
    methods = {"trpo": {"runs": runs}}
    assert returns.first_return(methods) == 10.0
    assert returns._updates_to(methods, "trpo", 1.0).tolist() == [7.0, 7.0]
    assert np.isinf(returns._updates_to(methods, "trpo", 1.01)).all()


def test_only_policies_that_have_learned_can_lose():
    methods = {"trpo": {"runs": {"training": [[0.0, 8.0, 100.0, 40.0]], "kl": [[1.0] * 4]}}}
    updates = drops._updates(methods, methods["trpo"]["runs"])
    assert updates.counted.tolist() == [[False, False, True]]
    np.testing.assert_allclose(updates.loss, [[0, 0, 0.6]])


def test_interquartile_mean_and_intervals():
    assert interquartile_mean(np.array([0, 1, 2, 1000.0])) == 1.5
    samples = np.random.default_rng(0).normal(5, 1, size=100)
    estimate = over_seeds(samples)
    assert estimate.low < estimate.value < estimate.high
    assert 0.2 < estimate.high - estimate.low < 0.7  # about 4 × 1.1 / √100
    assert over_seeds(np.full(10, 3.0)) == (3.0, 3.0, 3.0)
    tasks = over_tasks(np.stack([samples, samples + 100]))
    assert tasks.low < tasks.value < tasks.high


def test_probability_of_improvement_counts_pairs():
    first, second = np.array([[1.0, 3.0]]), np.array([[2.0, 3.0]])
    assert probability_of_improvement(first, second).value == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    assert probability_of_improvement(second + 9, first).value == 1.0


def test_training_runs_are_kept_as_the_studies_read_them(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "METHODS", {"vpg": settings.METHODS["vpg"]})
    options = Options(tmp_path, quick=True)
    claims.train([], options)
    claims.train([], options)  # the second time from the disk
    (record,) = training.load(options.runs, method_ids=("vpg",))["CartPole-v1"].values()
    assert [s["value"] for s in record["tuning"]] == list(settings.METHODS["vpg"].values)
    best = max(record["tuning"], key=lambda setting: setting["score"])
    assert record["chosen"] == best["value"]
    kls = np.array(record["runs"]["kl"])
    assert kls.shape == (settings.NUM_SEEDS, 4)
    assert (kls > 0).all()


@pytest.mark.parametrize("name", ["C3", "C10", "C12", "C13", "C16"])
def test_miniature(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["claims.py", name, "--quick", "--out", str(tmp_path)])
    claims.main()
    (table,) = tmp_path.glob("*.json")
    assert json.loads(table.read_text())
    assert table.with_suffix(".md").exists()


def test_unknown_claims_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["claims.py", "C99"])
    with pytest.raises(SystemExit):
        claims.main()
    assert "unknown: C99" in capsys.readouterr().err
