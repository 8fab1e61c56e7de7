"""The baselines of the benchmarks against finite differences in float64, and on CartPole."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax
from trpo_jax import HParams, TRPOConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import baselines

CONFIG = TRPOConfig()
RATE = 3e-3


class Oracle:
    """The problem of `make_problem` in float64 NumPy: tanh layer, softmax, probability ratios."""

    def __init__(self, problem):
        batch = problem.batch
        self.obs, self.advantage, self.weight, self.log_old = (
            np.asarray(leaf, np.float64)
            for leaf in (batch.obs, batch.advantage, batch.weight, batch.log_prob)
        )
        self.action = np.asarray(batch.action)
        leaves, self.structure = jax.tree.flatten(problem.params)
        self.shapes = [leaf.shape for leaf in leaves]
        self.start = self.flat(problem.params)
        self.log_p_old = self.log_p(self.start)

    def flat(self, tree):
        return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])

    def log_p(self, theta):
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in self.shapes])[:-1]
        parts = [p.reshape(s) for p, s in zip(np.split(theta, ends), self.shapes, strict=True)]
        layers = jax.tree.unflatten(self.structure, parts)["params"]
        body, head = layers["body"]["Dense_0"], layers["head"]["Dense_0"]
        logits = np.tanh(self.obs @ body["kernel"] + body["bias"]) @ head["kernel"] + head["bias"]
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def ratio(self, theta):
        return np.exp(self.log_p(theta)[np.arange(len(self.action)), self.action] - self.log_old)

    def mean(self, values):
        return (self.weight * values).sum() / self.weight.sum()

    def surrogate(self, theta):
        return self.mean((self.ratio(theta) - 1) * self.advantage)

    def clipped(self, theta, clip, entropy_coef):
        centred = self.advantage - self.mean(self.advantage)
        advantage = centred / np.sqrt(self.mean(centred**2))
        terms = []
        for ratio, a in zip(self.ratio(theta), advantage, strict=True):
            terms.append(min(ratio * a, (1 + clip) * a if a > 0 else (1 - clip) * a))
        log_p = self.log_p(theta)
        return self.mean(np.array(terms) - entropy_coef * (np.exp(log_p) * log_p).sum(axis=1))

    def kl(self, theta):
        return self.mean(
            (np.exp(self.log_p_old) * (self.log_p_old - self.log_p(theta))).sum(axis=1)
        )

    def gradient(self, fn, theta, step=1e-6):
        directions = step * np.eye(theta.size)
        return np.array([(fn(theta + d) - fn(theta - d)) / (2 * step) for d in directions])


@pytest.fixture
def problem(make_problem):
    problem = make_problem("categorical", 48, 3, (4,))
    weight = jnp.where(jnp.arange(48) % 5 == 0, 0.0, 1.0)  # invalid transitions never count
    return problem._replace(batch=problem.batch.replace(weight=weight))


def compiled(step, objective):
    """(params, batch) -> (params, state, info): one step from a fresh state."""
    return jax.jit(
        lambda params, batch: step.apply(
            jax.random.key(0), objective, params, step.init(params), batch, HParams(), CONFIG
        )
    )


def take(step, problem):
    return compiled(step, problem.objective)(problem.params, problem.batch)


def test_vanilla_step_is_adams_first_step_along_the_policy_gradient(problem):
    oracle = Oracle(problem)
    new, _, info = take(baselines.vanilla_policy_gradient(RATE), problem)
    gradient = oracle.gradient(oracle.surrogate, oracle.start)
    expected = RATE * gradient / (np.abs(gradient) + 1e-8)
    np.testing.assert_allclose(oracle.flat(new) - oracle.start, expected, atol=2e-6)
    surrogate = lambda params: baselines.evaluate(problem.objective, params, problem.batch)[0]  # noqa: E731
    computed = oracle.flat(jax.grad(surrogate)(problem.params))
    np.testing.assert_allclose(computed, gradient, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(info.kl, oracle.kl(oracle.flat(new)), rtol=1e-3)
    np.testing.assert_allclose(info.improvement, oracle.surrogate(oracle.flat(new)), rtol=1e-3)
    assert info.improvement > 0


@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_clipped_surrogate_and_its_gradient(problem, entropy_coef):
    oracle = Oracle(problem)
    noise = np.random.default_rng(0).normal(size=oracle.start.size)
    flat, unravel = jax.flatten_util.ravel_pytree(problem.params)
    moved = np.float32(flat + 0.6 * noise)
    theta = oracle.flat(unravel(moved))
    ratio, clip = oracle.ratio(theta), 0.2
    assert ((ratio > 1 + clip) & (oracle.advantage > 0)).sum() >= 3
    assert ((ratio < 1 - clip) & (oracle.advantage < 0)).sum() >= 3
    assert (np.abs(ratio - 1) < clip).sum() >= 3

    def loss(params):
        hparams = HParams(entropy_coef=entropy_coef)
        return baselines.clipped_surrogate(
            problem.objective, unravel(params), problem.batch, clip, hparams
        )

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(moved))
    by_hand = lambda theta: oracle.clipped(theta, clip, entropy_coef)  # noqa: E731
    np.testing.assert_allclose(value, by_hand(theta), rtol=1e-4)
    np.testing.assert_allclose(gradient, oracle.gradient(by_hand, theta), rtol=1e-3, atol=2e-5)


def test_one_ppo_step_at_ratio_one_follows_the_policy_gradient(problem):
    """Nothing is clipped at π_old: the gradient is that of VPG with standardised advantages."""
    oracle = Oracle(problem)
    settings = baselines.PPOSettings(learning_rate=RATE, num_epochs=1, minibatch_size=48)
    new, _, _ = take(baselines.ppo(settings), problem)
    oracle.advantage = oracle.advantage - oracle.mean(oracle.advantage)
    oracle.advantage /= np.sqrt(oracle.mean(oracle.advantage**2))
    gradient = oracle.gradient(oracle.surrogate, oracle.start)
    surrogate = lambda params: baselines.clipped_surrogate(  # noqa: E731
        problem.objective, params, problem.batch, settings.clip, HParams()
    )
    computed = oracle.flat(jax.grad(surrogate)(problem.params))
    np.testing.assert_allclose(computed, gradient, rtol=1e-3, atol=1e-5)
    gradient *= min(1, 0.5 / np.linalg.norm(gradient))
    expected = RATE * gradient / (np.abs(gradient) + 1e-5)
    np.testing.assert_allclose(oracle.flat(new) - oracle.start, expected, atol=2e-6)


def test_ppo_uses_every_example_once_per_epoch_in_another_order_each_time(problem):
    settings = baselines.PPOSettings(num_epochs=3, minibatch_size=12)
    minibatches = []

    def predict(params, batch):
        if batch.weight.shape[0] == 12:  # not the whole batch, of which info is made
            jax.debug.callback(lambda obs: minibatches.append(obs), batch.obs, ordered=True)
        return problem.objective.predict(params, batch)

    watched = problem._replace(objective=problem.objective._replace(predict=predict))
    _, state, _ = jax.block_until_ready(take(baselines.ppo(settings), watched))
    jax.effects_barrier()
    epochs = np.array(minibatches).reshape(3, 48, -1)
    examples = np.unique(problem.batch.obs, axis=0)
    assert examples.shape[0] == 48
    for epoch in epochs:
        np.testing.assert_array_equal(np.unique(epoch, axis=0), examples)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    assert int(state.count) == 3 * 48 // 12


def test_ppo_reports_the_kl_after_all_its_steps(problem):
    settings = baselines.PPOSettings(num_epochs=3, minibatch_size=12)
    new, _, info = take(baselines.ppo(settings), problem)
    oracle = Oracle(problem)
    np.testing.assert_allclose(info.kl, oracle.kl(oracle.flat(new)), rtol=1e-2)


def test_ppo_on_whole_batches_does_not_depend_on_the_order_of_examples(problem):
    settings = baselines.PPOSettings(num_epochs=3, minibatch_size=48)
    step = compiled(baselines.ppo(settings), problem.objective)
    rows = np.random.default_rng(1).permutation(48)
    shuffled = jax.tree.map(lambda leaf: leaf[rows], problem.batch)
    new, other = step(problem.params, problem.batch)[0], step(problem.params, shuffled)[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), new, other)


def test_minibatches_that_do_not_divide_the_batch_are_refused(problem):
    with pytest.raises(ValueError, match="minibatch_size=7 does not divide the batch of 48"):
        take(baselines.ppo(baselines.PPOSettings(minibatch_size=7)), problem)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (baselines.vanilla_policy_gradient(), 3e-2),
        (baselines.ppo(baselines.PPOSettings(num_epochs=4)), 3e-3),
    ],
    ids=["vpg", "ppo"],
)
def test_learns_cartpole_and_stands_still_at_rate_zero(step, rate):
    config = TRPOConfig(num_envs=8, num_steps=64, hidden_sizes=(32,), value_minibatch_size=128)
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), config, policy_step=step)

    def train(learning_rate):
        state = baselines.with_learning_rate(agent.init(jax.random.key(1)), learning_rate)
        return agent.train(state, HParams(), num_updates=40)[1]

    still, learned = jax.tree.map(
        list, jax.jit(jax.vmap(train))(jnp.array([0.0, rate])).episode_return
    )
    assert np.mean(still[-10:]) < 40
    assert np.mean(learned[-10:]) > 120
