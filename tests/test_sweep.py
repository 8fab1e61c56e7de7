"""Sweeps: every lane is the single run, whatever runs beside it, stopped and gone on or not."""

import logging
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import trpo_jax
from trpo_jax.experiments.checkpoints import to_host
from trpo_jax.experiments.sweep import grid, random_settings, sweep, training
from trpo_jax.experiments.sweep.pictures import plot_sweep
from trpo_jax.experiments.sweep.slices import Slices

CONFIG = trpo_jax.TRPOConfig(num_envs=4, num_steps=32, hidden_sizes=(8,), value_epochs=2)
GRID = {"max_kl": [0.003, 0.01], "gae_lambda": [0.9, 0.95]}
NUM_UPDATES = 6


def run(settings=GRID, **keywords):
    env = trpo_jax.make_env("CartPole-v1")
    common = {"num_updates": NUM_UPDATES, "seeds": (3, 4), "num_episodes": 4}
    return sweep(env, CONFIG, settings, **{**common, **keywords})


class Programs(logging.Handler):
    """The names of all programs that are compiled meanwhile."""

    def __enter__(self):
        self.names = []
        self.logger = logging.getLogger("jax._src.dispatch")
        self.before = self.logger.propagate, self.logger.level
        self.logger.addHandler(self)
        self.logger.propagate = False
        self.logger.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_):
        self.logger.removeHandler(self)
        self.logger.propagate, self.logger.level = self.before

    def emit(self, record):
        found = re.match(r"Finished XLA compilation of jit\((\w+)\)", record.getMessage())
        if found:
            self.names.append(found[1])


@pytest.fixture(scope="module")
def sweep_and_programs():
    with Programs() as programs:
        return run(), programs.names


@pytest.fixture(scope="module")
def result(sweep_and_programs):
    return sweep_and_programs[0]


@pytest.fixture(scope="module")
def two_programs():
    """The same grid with two networks, one program after the other."""
    return run(static={"hidden_sizes": [(8,), (4, 4)]})


def assert_equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


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


def test_the_whole_grid_is_one_program(sweep_and_programs):
    _, names = sweep_and_programs
    assert names.count("advance") == 1
    assert names.count("play") == 1


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


def test_static_settings_are_programs_of_their_own(result, two_programs):
    """A part is the sweep over the other settings, bit for bit."""
    fixed = [setting["hidden_sizes"] for setting in two_programs.settings]
    assert fixed == [(8,)] * 4 + [(4, 4)] * 4
    assert_equal(to_host(two_programs.parts[0].states), to_host(result.states))
    assert_equal(two_programs.parts[0].history, result.history)
    np.testing.assert_array_equal(two_programs.returns[:8], result.returns)
    rows = two_programs.table()
    assert sorted(row.number for row in rows) == list(range(8))
    assert [row.mean for row in rows] == sorted((row.mean for row in rows), reverse=True)
    with pytest.raises(ValueError, match=r"parts\[i\].history"):
        _ = two_programs.history


def test_a_setting_of_another_program_trains_on(two_programs):
    part = two_programs.part_of(6)
    assert part.config.hidden_sizes == (4, 4)
    assert two_programs.settings[6] == {"hidden_sizes": (4, 4), "max_kl": 0.01, "gae_lambda": 0.9}
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), part.config)
    hparams = trpo_jax.HParams(max_kl=0.01, gae_lambda=0.9)
    start, seed = agent.init(jax.random.key(4)), 4
    state, history = agent.train(start, hparams, num_updates=NUM_UPDATES)
    assert_close(two_programs.select(6, seed).policy_params, state.policy_params)
    assert_close(two_programs.history_of(6).kl[1], history.kl)
    state, _ = agent.train(two_programs.select(6), hparams, num_updates=NUM_UPDATES)
    assert int(state.num_updates) == 2 * NUM_UPDATES


def test_a_sweep_that_was_stopped_goes_on_to_the_same_end():
    """Bit for bit: the slices that are done again are the same program on the same numbers."""
    saved, told, number_of_saves = {}, [], []
    small = {"settings": {"max_kl": [0.003, 0.01]}, "static": {"cg_iterations": [10, 5]}}
    small |= {"max_parallel": 3, "num_updates": 2}

    class Stopped(Exception):
        pass

    def save(part, number, progress):
        saved[part] = number, jax.tree.map(np.array, progress)
        number_of_saves.append(part)
        if len(number_of_saves) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(**small, save=save)
    assert number_of_saves == [0, 0, 1]
    resumed = run(
        **small,
        load=lambda part, like: saved.get(part),
        report=lambda done, total: told.append((done, total)),
    )
    whole = run(**small)
    for ours, theirs in zip(resumed.parts, whole.parts, strict=True):
        assert_equal(to_host(ours.states), to_host(theirs.states))
        assert_equal(ours.history, theirs.history)
    np.testing.assert_array_equal(resumed.returns, whole.returns)
    assert told == [(8, 16), (14, 16), (16, 16)]


def test_halving_drops_the_worse_settings(tmp_path):
    told = []
    halved = run(
        {"max_kl": [1e-6, 0.003, 0.01, 0.03]},
        halving=(0.5,),
        report=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (36, 36)
    updates = [row.updates for row in halved.table()]
    assert updates == [NUM_UPDATES, NUM_UPDATES, 3, 3]
    returns = np.asarray(halved.history.episode_return)[:, 2].reshape(4, 2).mean(axis=1)
    kept = {row.number for row in halved.table()[:2]}
    assert kept == set(np.argsort(-returns)[:2])
    plot_sweep(halved, "CartPole-v1", tmp_path)


def test_halving_keeps_what_it_knows_nothing_of():
    """A setting none of whose runs has ended an episode, and one seed of which has not."""
    returns = np.array([[20, 20], [np.nan, 150], [9, 9], [np.nan, np.nan], [8, 8]])
    history = SimpleNamespace(episode_return=returns.reshape(10, 1))
    kept = training._better_half(SimpleNamespace(history=history), 1, np.arange(10), 2)
    np.testing.assert_array_equal(kept, [0, 1, 2, 3, 6, 7])
    history.episode_return = np.full((10, 1), np.nan)
    kept = training._better_half(SimpleNamespace(history=history), 1, np.arange(10), 2)
    np.testing.assert_array_equal(kept, np.arange(10))


def test_halving_happens_once_after_an_update_and_before_the_last():
    plan = training._Plan(trpo_jax.HParams(), [0], 1, (0.1, 0.2, 0.9))
    assert plan.boundaries(3) == [1, 3]
    assert plan.boundaries(10) == [1, 2, 9, 10]


def test_a_return_that_is_not_a_number_never_wins(result):
    returns = np.array([np.nan, 2, 9, np.nan, 5, 6, 1, 1])
    spoiled = result._replace(returns=returns)
    assert [row.number for row in spoiled.table()[:2]] == [2, 3]
    assert spoiled.best_seed(0) == 4
    assert spoiled.best_seed(1) == 3


def test_lanes_start_in_slices_as_wide_as_they_train():
    """The states of all lanes together need not fit the device."""
    slices = Slices(
        trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), CONFIG),
        trpo_jax.HParams.stack([trpo_jax.HParams()] * 5), 2, 2, lambda done: None
    )  # fmt: skip
    progress = slices.begin([3, 4, 5, 6, 7])
    alone = to_host(slices._agent.init(jax.random.key(7)))
    assert_close(jax.tree.map(lambda leaf: leaf[4], progress.states), alone)
    assert slices.width(np.arange(5)) == 2


@pytest.mark.parametrize(
    ("settings", "keywords", "words"),
    [
        ({}, {"seeds": ()}, "empty"),
        ({"max_kl": []}, {}, "max_kl"),
        (
            {"hidden_sizes": [32, 64]},
            {},
            r"static=\{'hidden_sizes': \[…\]\}.*--static hidden_sizes",
        ),
        (GRID, {"static": {"max_kl": [0.1]}}, "--max-kl VALUE"),
        (GRID, {"static": {"num_env": [4]}}, "num_env"),
        (GRID, {"static": {"num_envs": []}}, "num_envs"),
        (GRID, {"static": {"num_envs": [4, 0]}}, "num_envs=0"),
        (GRID, {"static": {"hidden_sizes": [[4], (4,)]}}, "twice"),
        (GRID, {"total_steps": 100}, "one of the two"),
        (GRID, {"num_updates": None}, "one of the two"),
        ([], {}, "empty"),
        ({"max_kk": [0.1]}, {}, "max_kk"),
        ({"max_kl": [-1.0]}, {}, "max_kl=-1"),
        (GRID, {"max_parallel": 0}, "max_parallel=0"),
        (GRID, {"halving": (0.5, 0.2)}, "halving"),
        (GRID, {"seeds": (1, 1)}, "seeds"),
        (GRID, {"seeds": (1, 2**31)}, "seed=2147483648"),
        (GRID, {"num_updates": 0}, "num_updates=0"),
        (GRID, {"num_episodes": 0}, "num_episodes=0"),
        ([{"max_kl": 0.1}, {"gamma": 0.9}], {}, "same fields"),
    ],
)
def test_bad_input(settings, keywords, words):
    with pytest.raises(ValueError, match=words):
        run(settings, **keywords)


def test_static_axes_are_drawn(two_programs, tmp_path):
    """Three axes have no map; words and tuples have places beside each other."""
    files = {file.name for file in plot_sweep(two_programs, "CartPole-v1", tmp_path)}
    assert "sensitivity_hidden_sizes.png" in files
    assert "heat_map.png" not in files
