"""`compare`: paired, right about policies whose returns are known, and clear about mistakes."""

import contextlib
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from constrained_mdp import COST, HORIZON, TO_STATE_1, TwoStates
from counting import Counting
from probe_envs import MatchTheBit, SignReward
from scipy import stats

import trpo_jax
from trpo_jax.cli import main
from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.experiments.comparison import compare_returns
from trpo_jax.experiments.run_directory import write_run
from trpo_jax.experiments.specification import RunSpec
from trpo_jax.experiments.states import initial_state, make_agent

CONFIG = trpo_jax.TRPOConfig(num_envs=4, num_steps=16, hidden_sizes=(8,), value_epochs=1)
KEY = jax.random.key(5)
ENV = MatchTheBit()
POLICY = trpo_jax.policy_from_flax(nn.Dense(2, use_bias=False), ENV.action_space)


@pytest.fixture(scope="module")
def agent():
    return trpo_jax.make_trpo(ENV, CONFIG, policy=POLICY)


@pytest.fixture(scope="module")
def state(agent):
    return agent.init(jax.random.key(0))


def with_weights(state, weights):
    """A linear policy whose logits are bit @ weights."""
    filled = jax.tree.map(lambda leaf: jnp.asarray(weights, leaf.dtype), state.policy_params)
    return state.replace(policy_params=filled)


def test_the_sign_of_the_difference_is_that_of_b(agent, state):
    right = with_weights(state, 9 * np.eye(2))
    wrong = with_weights(state, -9 * np.eye(2))
    better = trpo_jax.compare(agent, wrong, right, KEY, num_episodes=64)
    assert (better.difference, better.interval) == (1.0, (1.0, 1.0))
    assert (better.verdict, better.mean_a, better.mean_b) == ("better", 0.0, 1.0)
    assert trpo_jax.compare(agent, right, wrong, KEY, num_episodes=64).verdict == "worse"
    same = trpo_jax.compare(agent, right, right, KEY, num_episodes=64)
    assert (same.difference, same.interval, same.verdict) == (0, (0, 0), "no difference seen")
    assert "64 pairs" in str(better)
    assert better.cost is None


def test_costs_are_compared_too():
    """The careful policy always takes action 0, the other one action 1; both are Markov chains."""
    env = TwoStates()
    policy = trpo_jax.policy_from_flax(nn.Dense(2), env.action_space)
    agent = trpo_jax.make_trpo(env, CONFIG, policy=policy)
    state = agent.init(jax.random.key(0))
    zero = jax.tree.map(jnp.zeros_like, state.policy_params)

    def always(action):
        logits = 50.0 * jax.nn.one_hot(action, 2)
        biased = jax.tree.map(lambda leaf: logits if leaf.ndim == 1 else leaf, zero)
        return state.replace(policy_params=biased)

    result = trpo_jax.compare(agent, always(0), always(1), KEY, num_episodes=512)
    expected = []
    for action in range(2):
        chance, total = 0.0, 0.0
        for _ in range(HORIZON):
            total += (1 - chance) * COST[0, action] + chance * COST[1, action]
            chance = (1 - chance) * TO_STATE_1[0, action] + chance * TO_STATE_1[1, action]
        expected.append(total)
    cost, gap = result.cost, expected[1] - expected[0]
    low, high = cost.interval
    assert low < cost.difference < high
    assert abs(cost.difference - gap) < 2 * (high - low)
    np.testing.assert_allclose([cost.mean_a, cost.mean_b], expected, rtol=0.02, atol=0.03)
    assert result.verdict == "better", "of the returns alone"


def test_a_policy_that_knows_nothing_is_worse_by_a_half(agent, state):
    """It always takes action 0, which is right for half of the bits."""
    constant = with_weights(state, [[1.0, 0.0], [1.0, 0.0]])
    result = trpo_jax.compare(agent, with_weights(state, 9 * np.eye(2)), constant, KEY)
    low, high = result.interval
    assert result.num_episodes == 512
    assert low < -0.5 < high < 0
    exact = stats.binom.ppf([0.025, 0.975], 512, -result.difference) / -512
    assert (low, high) == pytest.approx(tuple(exact[::-1]), abs=0.005)


def test_luck_that_both_policies_share_cancels():
    """The return is ±4 by the initial state: unpaired, 40 episodes would leave ±1.7."""
    agent = trpo_jax.make_trpo(SignReward(), CONFIG)
    one, other = agent.init(jax.random.key(0)), agent.init(jax.random.key(1))
    result = trpo_jax.compare(agent, one, other, KEY, num_episodes=40)
    assert (result.difference, result.interval) == (0.0, (0.0, 0.0))
    assert abs(result.mean_a) < 4


def test_environments_on_the_host_are_compared_alike():
    agent = trpo_jax.make_trpo(trpo_jax.make_env(Counting), CONFIG)
    one, other = agent.init(jax.random.key(0)), agent.init(jax.random.key(1))
    result = trpo_jax.compare(agent, one, other, KEY, num_episodes=20)
    assert (result.difference, result.verdict) == (0.0, "no difference seen")
    assert result.mean_a > 5


def test_another_agent_may_have_other_networks(agent, state):
    wide = trpo_jax.make_trpo(ENV, CONFIG.replace(hidden_sizes=(16,)))
    right = with_weights(state, 9 * np.eye(2))
    result = trpo_jax.compare(agent, right, wide.init(KEY), KEY, wide, num_episodes=64)
    assert result.mean_a == 1
    assert result.verdict == "worse"
    elsewhere = trpo_jax.make_trpo(SignReward(), CONFIG)
    with pytest.raises(ValueError, match="agent_b acts in sign-reward and agent in match-the-bit"):
        trpo_jax.compare(agent, state, elsewhere.init(KEY), KEY, elsewhere)


def test_the_interval_covers_at_the_stated_confidence():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        common = 10 * rng.exponential(size=100)
        result = compare_returns(common, common + rng.normal(0.3, 1, size=100), confidence=0.9)
        covered += result.interval[0] <= 0.3 <= result.interval[1]
    assert stats.binomtest(covered, 200, 0.9).pvalue > 0.01


def test_returns_that_are_not_finite_lose():
    good, bad = np.zeros(4), np.array([0, np.nan, 9, 9])
    assert compare_returns(good, bad).verdict == "worse"
    assert compare_returns(bad, good).verdict == "better"
    assert compare_returns(bad, bad).verdict == "no difference seen"
    assert np.isnan(compare_returns(good, bad).difference)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_episodes": 1}, "num_episodes=1 must be a whole number >= 2"),
        ({"confidence": 1.0}, r"confidence=1.0 must be in \[0.5, 1\)"),
        ({"confidence": "high"}, "confidence='high' must be a number"),
        ({"key": 3}, "key=3 must be a random key"),
        ({"state_b": "best"}, "state='best' must be a TrainState"),
        ({"agent_b": "other"}, "agent_b='other' must be an Agent"),
    ],
)
def test_mistakes_are_named(agent, state, changes, words):
    arguments = {"state_a": state, "state_b": state, "key": KEY, **changes}
    with pytest.raises(ValueError, match=words):
        trpo_jax.compare(agent, **arguments)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of CartPole, one of two seeds and one of another environment, all untrained."""
    directory = tmp_path_factory.mktemp("runs")
    short = {"env_params": {"max_steps_in_episode": 20}}
    cart_pole = RunSpec("CartPole-v1", short, CONFIG, trpo_jax.HParams(), seed=0, num_seeds=1)
    for name, spec in (
        ("one", cart_pole),
        ("two", cart_pole._replace(seed=5, num_seeds=2)),
        ("three", cart_pole._replace(env_id="Catch-bsuite", env_kwargs={})),
    ):
        (directory / name).mkdir()
        write_run(directory / name, spec, 16)
        with contextlib.closing(Checkpoints(directory / name / "checkpoints")) as checkpoints:
            checkpoints.save(1, initial_state(make_agent(spec), spec))
    return directory


def test_runs_are_compared_on_the_command_line(runs, capsys):
    paths = [str(runs / "one"), str(runs / "two")]
    assert main(["compare", *paths, "--episodes", "8", "--seed-b", "6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_episodes"] == 8
    assert found["difference"] == pytest.approx(found["mean_b"] - found["mean_a"])
    assert main(["compare", paths[0], paths[0], "--episodes", "8"]) == 0
    printed = capsys.readouterr().out
    assert "difference  +0.00 [+0.00, +0.00] (mean, 95 % interval, 8 pairs" in printed
    assert "verdict     no difference seen" in printed


@pytest.mark.parametrize(
    ("words", "needles"),
    [
        (["one"], ["RUN_B"]),
        (["one", "nowhere"], ["nowhere", "does not exist"]),
        (["one", "three"], ["Catch-bsuite", "CartPole-v1"]),
        (["one", "two", "--episodes", "1"], ["episodes=1", ">= 2"]),
        (["one", "two", "--confidence", "2"], ["confidence=2.0"]),
        (["one", "two", "--seed-b", "1"], ["seed=1", "5, 6"]),
        (["one", "two", "--checkpoint-a", "best"], ["best", "no checkpoint"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(runs, words, needles, capsys):
    known = ("one", "two", "three", "nowhere")
    assert main(["compare", *(str(runs / w) if w in known else w for w in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for needle in needles:
        assert needle in captured.err
