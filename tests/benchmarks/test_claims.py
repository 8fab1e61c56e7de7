"""The studies of the claims in miniature, and the statistics that they rest on."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import claims
import problems
from claim_studies import drops, returns, settings, solves, training
from claim_studies.statistics import (
    interquartile_mean,
    over_seeds,
    over_tasks,
    probability_of_improvement,
    ratio_over_seeds,
)
from claim_studies.study import Options

from trpo_jax.learner.objective import make_objective


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
    (directory / "runs" / "CartPole-v1_untrained.json").write_text('{"return": 20.0}')
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
    assert table["C4"][0]["VPG / TRPO"] == "1.67 [1.67, 1.67]"
    assert table["C7"][0]["PPO / TRPO"] == "1.00 [1.00, 1.00]"
    assert table["C6"][-1]["TRPO"] == "1 [1, 1]"
    assert table["C8"][-1]["violations"] == "5.0%"
    assert table["C9"][-1]["no backtrack"] == "95.0%"
    assert table["C17"][-1]["worst loss"] == "0%"
    assert table["C14"][0]["final return"] == "100 [100, 100]"
    assert (out / "C6.png").stat().st_size > 1000


def test_a_return_that_is_not_known_yet_does_not_reach_a_threshold():
    runs = {"training": [[None, None, 10.0, 20.0, 30.0, None, 30.0]] * 2}
    methods = {"trpo": {"untrained": 10.0, "runs": runs}}
    assert returns._updates_to(methods, "trpo", 1.0).tolist() == [7.0, 7.0]
    assert np.isinf(returns._updates_to(methods, "trpo", 1.01)).all()


def test_the_last_return_stands_where_no_episode_ended():
    curve = training.curve({"training": [[None, 1.0, None, None, 2.0, None]]})
    np.testing.assert_equal(curve, [[np.nan, 1, 1, 1, 2, 2]])


def test_an_untrained_policy_is_judged_by_all_its_episodes(tmp_path):
    """On Acrobot those that end first in training are the successes of a hopeless policy."""
    task = settings.get_task("Acrobot-v1", quick=True)
    start = training.untrained(tmp_path, task.env_id, quick=True)
    assert -500 <= start < -480
    (tmp_path / "Acrobot-v1_untrained.json").write_text('{"return": -1.0}')
    assert training.untrained(tmp_path, task.env_id, quick=True) == -1.0  # measured once


def test_only_policies_that_have_learned_can_lose():
    methods = {
        "trpo": {
            "untrained": 0.0,
            "runs": {"training": [[0.0, 8.0, 100.0, 40.0]], "kl": [[1.0] * 4]},
        }
    }
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


def test_ratio_of_runs_that_were_cut_off_is_a_bound():
    limit, many, few = 40, np.full(10, np.inf), np.full(10, 20.0)
    many[:7] = few[0]  # three of ten missed: one of them counts
    some = np.where(np.arange(10) < 8, few, np.inf)  # two missed: neither does
    ratios = [
        str(ratio_over_seeds(numerator, denominator, limit)).partition(" [")[0]
        for numerator in (few, some, many)
        for denominator in (few, some, many)
    ]
    assert ratios == ["1.00", "1.00", "≤ 0.86"] * 2 + ["≥ 1.17", "≥ 1.17", "–"]
    assert str(ratio_over_seeds(many, few, limit)).endswith(", ∞]")
    samples = np.random.default_rng(0).normal(20, 2, size=(2, 100))
    estimate = ratio_over_seeds(*samples, limit)
    assert estimate.low < estimate.value < estimate.high
    assert 0.02 < estimate.high - estimate.low < 0.12  # about 4 × 1.1 × 0.1 × √2 / √100


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


def dense_matrix(problem, damping):
    """H + λI from the dense Hessian of the mean KL in float64."""
    objective = make_objective(problem.policy, 0.0)
    with jax.enable_x64(True):
        cast = lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf  # noqa: E731
        params, batch = jax.tree.map(cast, (problem.params, problem.batch))
        theta, unravel = jax.flatten_util.ravel_pytree(params)

        def mean_kl(theta):
            kl = objective.divergence(objective.predict(unravel(theta), batch), batch)
            return jnp.sum(batch.weight * kl) / jnp.sum(batch.weight)

        return np.asarray(jax.jit(jax.hessian(mean_kl))(theta)) + damping * np.eye(theta.size)


def test_float64_solves_what_float32_does_not():
    (problem,) = solves.at_stages("CartPole-v1", (1,), quick=True)
    policy, params, batch, damping = problem.policy, problem.params, problem.batch, 1e-3
    gradient = np.asarray(problems.gradient_of(policy)(params, batch))
    matrix = dense_matrix(problem, damping)
    residuals = {}
    for dtype in ("float32", "float64"):
        solve = problems.solver(policy, 12, dtype)
        x = problems.in_double(solve, params, batch, gradient, damping).x
        residual = gradient - matrix @ np.asarray(x, float)
        residuals[dtype] = np.linalg.norm(residual) / np.linalg.norm(gradient)
    assert residuals["float64"] < 0.1 * residuals["float32"]

    # The dense Hessian is taken at the distributions of the rollout, which are float32: it differs
    # from the Fisher matrix by one rounding of them, relative to the whole product.
    multiply = problems.exact_product(policy)
    product = problems.in_double(multiply, params, batch, gradient, damping)
    expected = matrix @ gradient
    assert np.linalg.norm(product - expected) <= 2e-7 * np.linalg.norm(expected)


def miniature(name, tmp_path, monkeypatch):
    """Rows of a study from its command line."""
    monkeypatch.setattr(sys, "argv", ["claims.py", name, "--quick", "--out", str(tmp_path)])
    claims.main()
    (table,) = tmp_path.glob("*.json")
    assert table.with_suffix(".md").exists()
    assert table.with_suffix(".png").stat().st_size > 1000
    return json.loads(table.read_text())


@pytest.mark.parametrize("name", ["C3", "C10", "C12", "C13"])
def test_miniature(name, tmp_path, monkeypatch):
    assert miniature(name, tmp_path, monkeypatch)


def test_miniature_of_convergence(tmp_path, monkeypatch):
    rows = {row["damping"]: row for row in miniature("C11", tmp_path, monkeypatch)}
    assert int(rows["0.1"]["to 0.1"]) <= int(rows["0.1"]["to 0.001"]) <= 10
    assert float(rows["0.1"]["after 20"]) < 1e-12 < float(rows["0"]["after 20"])


def test_miniature_of_precision(tmp_path, monkeypatch):
    rows = {row["damping"]: row for row in miniature("C15", tmp_path, monkeypatch)}
    assert len(rows) == 5
    for row in rows.values():
        single, double = (float(row[f"true residual float{bits}"]) for bits in (32, 64))
        assert 0 < double < 1
        assert 0 < single < 1
        if float(row["damping"]) >= 1e-3:  # with less, ten iterations converge in neither
            assert double <= single
        assert 0 < float(row["efficiency"]) < 1.001


def test_miniature_of_warm_starts(tmp_path, monkeypatch):
    rows = miniature("C16", tmp_path, monkeypatch)
    assert [row["iterations"] for row in rows] == [2, 5, 10, 20]
    for start in ("cold", "warm"):
        errors = [float(row[f"error {start}"]) for row in rows]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] > 0.1 > 0.001 >= errors[-1]
        assert float(rows[-1][f"efficiency {start}"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("C99", "unknown study C99"),
        ("train NoSuch", "unknown environment NoSuch"),
        ("C1", "`claims.py train`"),
        ("C4", "`claims.py train`"),
        ("C6", "`claims.py train`"),
        ("C9", "`claims.py train`"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    words, complaint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["claims.py", *words.split(), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_info:
        claims.main()
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not list(tmp_path.iterdir())
