"""Sweeps: every lane is the single run, whatever runs beside it, stopped and gone on or not."""

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

import trpo_jax
from trpo_jax.cli import main
from trpo_jax.experiments.sweep import grid, random_settings, sweep

CONFIG = trpo_jax.TRPOConfig(num_envs=4, num_steps=32, hidden_sizes=(8,), value_epochs=2)
GRID = {"max_kl": [0.003, 0.01], "gae_lambda": [0.9, 0.95]}
NUM_UPDATES = 6


def run(settings=GRID, **keywords):
    env = trpo_jax.make_env("CartPole-v1")
    common = {"num_updates": NUM_UPDATES, "seeds": (3, 4), "num_episodes": 4}
    return sweep(env, CONFIG, settings, **{**common, **keywords})


@pytest.fixture(scope="module")
def result():
    return run()


def assert_close(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_the_grid_is_the_product():
    assert grid({"max_kl": [1, 2], "gamma": [0.5, 0.9]}) == [
        {"max_kl": 1, "gamma": 0.5},
        {"max_kl": 1, "gamma": 0.9},
        {"max_kl": 2, "gamma": 0.5},
        {"max_kl": 2, "gamma": 0.9},
    ]


def test_random_settings_lie_between_their_bounds_on_their_scale():
    drawn = random_settings({"max_kl": (1e-4, 1e-2), "gamma": (0.9, 0.99)}, 4000, seed=1)
    max_kl = np.array([setting["max_kl"] for setting in drawn])
    gamma = np.array([setting["gamma"] for setting in drawn])
    assert max_kl.min() >= 1e-4
    assert max_kl.max() <= 1e-2
    np.testing.assert_allclose(np.median(max_kl), 1e-3, rtol=0.1)
    np.testing.assert_allclose(np.median(gamma), 0.945, atol=0.003)


@pytest.mark.parametrize("setting", range(4))
def test_a_lane_is_the_single_run(result, setting):
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), CONFIG)
    hparams = trpo_jax.HParams(**result.settings[setting])
    state, history = agent.train(agent.init(jax.random.key(4)), hparams, num_updates=NUM_UPDATES)
    lane = result.lane(setting, 4)
    assert_close(jax.tree.map(lambda leaf: leaf[lane], result.history.kl), history.kl)
    assert_close(result.select(setting, 4).policy_params, state.policy_params)


def test_a_selected_state_trains_on(result):
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), CONFIG)
    state, metrics = agent.update(result.select(0))
    assert int(state.num_updates) == NUM_UPDATES + 1
    assert metrics.accepted


def test_slices_give_the_same_results(result):
    """8 lanes in slices of 3, the last of them filled up."""
    sliced = run(max_parallel=3)
    assert_close(sliced.states.policy_params, result.states.policy_params)
    np.testing.assert_allclose(sliced.history.kl, result.history.kl, rtol=1e-3, atol=1e-6)
    assert (sliced.updates_done == NUM_UPDATES).all()


def test_a_sweep_that_was_stopped_goes_on_to_the_same_end():
    """Bit for bit: the slices that are done again are the same program on the same numbers."""
    saved, told = [], []

    class Stopped(Exception):
        pass

    def save(number, progress):
        saved.append((number, jax.tree.map(np.array, progress)))
        if len(saved) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run(max_parallel=3, save=save)
    resumed = run(
        max_parallel=3, load=lambda like: saved[-1], report=lambda done, total: told.append(done)
    )
    whole = run(max_parallel=3)
    for a, b in zip(
        jax.tree.leaves(resumed.states.policy_params),
        jax.tree.leaves(whole.states.policy_params),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert told[-1] == 2 * NUM_UPDATES


def test_halving_drops_the_worse_settings():
    halved = run({"max_kl": [1e-6, 0.003, 0.01, 0.03]}, halving=(0.5,))
    updates = [row.updates for row in halved.table()]
    assert updates == [NUM_UPDATES, NUM_UPDATES, 3, 3]
    returns = np.asarray(halved.history.episode_return)[:, 2].reshape(4, 2).mean(axis=1)
    kept = {row.number for row in halved.table()[:2]}
    assert kept == set(np.argsort(-returns)[:2])


@pytest.mark.parametrize(
    ("settings", "keywords", "words"),
    [
        ({}, {"seeds": ()}, "empty"),
        ({"max_kl": []}, {}, "max_kl"),
        ({"hidden_sizes": [32, 64]}, {}, "static"),
        ({"max_kk": [0.1]}, {}, "max_kk"),
        ({"max_kl": [-1.0]}, {}, "max_kl=-1"),
        (GRID, {"max_parallel": 0}, "max_parallel=0"),
        (GRID, {"halving": (0.5, 0.2)}, "halving"),
        (GRID, {"seeds": (1, 1)}, "seeds"),
        (GRID, {"num_updates": 0}, "num_updates=0"),
        ([{"max_kl": 0.1}, {"gamma": 0.9}], {}, "same fields"),
    ],
)
def test_bad_input(settings, keywords, words):
    with pytest.raises(ValueError, match=words):
        run(settings, **keywords)


def test_the_command_line_can_sweep_every_hyperparameter(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    printed = capsys.readouterr().out
    for name in vars(trpo_jax.HParams()):
        assert f"--{name.replace('_', '-')} " in printed


def test_a_sweep_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "sweep"
    small = ["--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--eval-episodes", "4"]
    axes = ["--max-kl", "0.003", "0.01", "--gae-lambda", "0.9", "0.95", "--seeds", "2"]
    arguments = ["sweep", "CartPole-v1", *small, *axes, "--total-steps", "640", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"best run: {out / 'best'}" in printed
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    means = [float(row["mean"]) for row in rows]
    assert means == sorted(means, reverse=True)
    for name in ("heat_map", "sensitivity_max_kl", "sensitivity_gae_lambda", "best_curves"):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 300
    assert main(["evaluate", str(out), "--best", "--episodes", "4", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert np.isfinite(evaluated["mean"])
    assert main(["train", "--resume", str(out / "best"), "--total-steps", "768"]) == 0
    assert main(["sweep", "--resume", str(out)]) == 2
    assert "complete" in capsys.readouterr().err
    assert main(["sweep", "CartPole-v1", "--out", str(tmp_path / "other")]) == 2
    assert "nothing to sweep" in capsys.readouterr().err
