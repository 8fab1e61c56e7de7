"""Aggregate scores against closed forms and loops; the files that `trpo-jax scores` writes."""

import json

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

import trpo_jax
from trpo_jax.cli import main
from trpo_jax.experiments.run_directory import write_run
from trpo_jax.experiments.specification import RunSpec
from trpo_jax.experiments.statistics import (
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)

RNG = np.random.default_rng(0)


def test_the_interquartile_mean_is_that_of_the_middle_half():
    assert interquartile_mean(np.arange(8.0).reshape(4, 2)) == np.mean([2, 3, 4, 5])
    assert interquartile_mean(np.array([[-1e9], [1.0], [3.0], [1e9], [2.0]])) == 2
    assert interquartile_mean(np.array([[7.0]])) == 7
    quantiles = (np.arange(100_000) + 0.5) / 100_000
    exponential = -np.log1p(-quantiles)
    assert interquartile_mean(quantiles[:, None]) == pytest.approx(0.5)
    assert interquartile_mean(exponential[:, None]) == pytest.approx(_middle_of_exponential())


def _middle_of_exponential():
    """2 ∫ −log(1 − u) du over [¼, ¾] = 2 [(1 − u) log(1 − u) + u]."""

    def antiderivative(u):
        return (1 - u) * np.log1p(-u) + u

    return 2 * (antiderivative(0.75) - antiderivative(0.25))


def test_the_probability_of_improvement_is_mann_whitneys():
    x = RNG.integers(0, 6, (5, 3)).astype(float)  # with ties
    y = RNG.integers(0, 6, (8, 3)).astype(float)
    u = [mannwhitneyu(x[:, i], y[:, i]).statistic / 40 for i in range(3)]
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(u))
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1)
    assert probability_of_improvement(x, x) == pytest.approx(0.5)
    assert probability_of_improvement(x + 10, y) == 1


def test_a_profile_is_one_minus_the_distribution_function():
    scores = np.array([[0.0, 2.0], [1.0, 3.0]])
    thresholds = np.array([-1, 0, 0.5, 2, 3])
    np.testing.assert_allclose(performance_profile(scores, thresholds), [1, 0.75, 0.75, 0.25, 0])
    # The area under it is the mean of scores that are not negative.
    grid = np.linspace(0, 4, 40_001)
    area = np.sum(performance_profile(scores, grid)) * (grid[1] - grid[0])
    assert area == pytest.approx(scores.mean(), abs=1e-3)


def test_intervals_draw_within_each_task_and_cover_the_mean():
    level = np.array([0.0, 100.0])
    covered, widths = 0, []
    for _ in range(60):
        scores = level + RNG.normal(size=(12, 2))
        low, high = stratified_interval(np.mean, scores)
        covered += low <= 50 <= high
        widths.append(high - low)
    assert covered >= 48  # of 60; a fair 95 % of them would be 57
    # The spread between tasks does not count: 2 · 1.96 · 1 / √24, and the bootstrap's 11/12.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(11 / 12 / 24), rel=0.1)


def make_run(path, env, returns):
    path.mkdir(parents=True)
    spec = RunSpec(env, {}, trpo_jax.TRPOConfig(), trpo_jax.HParams(), 0, len(returns), (), False)
    write_run(path, spec, 1000)
    if returns:
        (path / "evaluation.json").write_text(json.dumps({"mean_per_run": returns}))
    return str(path)


@pytest.fixture
def runs(tmp_path):
    """Two algorithms; B is better in every pair of runs, and has its seeds in two directories."""
    return [
        f"A={make_run(tmp_path / 'a1', 'CartPole-v1', [10.0, 20.0, 30.0])}",
        f"A={make_run(tmp_path / 'a2', 'Acrobot-v1', [-500.0, -400.0, -300.0])}",
        f"B={make_run(tmp_path / 'b1', 'CartPole-v1', [400.0, 500.0])}",
        f"B={make_run(tmp_path / 'b2', 'Acrobot-v1', [-100.0])}",
        f"B={make_run(tmp_path / 'b3', 'Acrobot-v1', [-200.0])}",
    ]


RANGES = ("--normalize", "CartPole-v1=0,500", "Acrobot-v1=-500,-100")


def test_scores_writes_what_rliable_reads(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["scores", *runs, *RANGES, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "P(B > A) = 1.000 [1.000, 1.000]" in printed.out
    assert printed.err == ""
    scores = dict(np.load(out / "scores.npz"))
    np.testing.assert_allclose(scores["A"], [[0.02, 0], [0.04, 0.25], [0.06, 0.5]])
    np.testing.assert_allclose(scores["B"], [[0.8, 1], [1, 0.75]])
    content = json.loads((out / "scores.json").read_text())
    assert content["environments"] == ["CartPole-v1", "Acrobot-v1"]
    assert content["interquartile_mean"]["A"][0] == pytest.approx(np.mean([0.02, 0.04, 0.06, 0.25]))
    assert content["probability_of_improvement"]["A,B"] == [0, 0, 0]
    assert {file.name for file in out.iterdir()} == {
        "scores.npz", "scores.json", "profile.png", "profile.svg"
    }  # fmt: skip
    assert main(["scores", *runs, "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["scores"]["A"][0] == [10.0, -500.0]
    assert "--normalize" in printed.err


def test_mistakes_are_one_line(runs, tmp_path, capsys):
    unfinished = make_run(tmp_path / "unfinished", "CartPole-v1", [])
    out = tmp_path / "out"
    for arguments, words in (
        ([], "RUN is missing"),
        ([unfinished], "no evaluation at its end"),
        (runs[:3], "B has no run of Acrobot-v1"),
        (runs[:4], "different numbers of seeds"),
        ([*runs, "--normalize", "CartPole-v1=500,0"], "LOW < HIGH"),
        ([*runs, "--normalize", "CartPole-v1"], "ENV=LOW,HIGH"),
        ([*runs, "--normalize", "Pendulum-v1=0,1"], "normalize=Pendulum-v1 is none of"),
        ([f"file={tmp_path / 'a1'}"], "reserved"),
        ([f"a,b={tmp_path / 'a1'}"], "without commas"),
        ([str(tmp_path / "nowhere")], "nowhere"),
    ):
        assert main(["scores", *arguments, "--out", str(out)]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert words in line
    assert not out.exists()
