"""Action masks: the policy over what is allowed, exactly, from the distribution to the agent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import trpo_jax
from trpo_jax import (
    Box,
    Categorical,
    Discrete,
    Environment,
    EnvStep,
    HParams,
    MultiCategorical,
    MultiDiscrete,
    Observation,
    TRPOConfig,
)
from trpo_jax.policies.distributions import masked

SIZES = (4, 2, 3)
_RNG = np.random.default_rng(0)
LOGITS, OTHER = _RNG.normal(size=(2, 5, 9)) * 3
MASK = np.array(
    [
        [1, 0, 1, 1, 1, 1, 0, 1, 1],
        [0, 0, 1, 0, 0, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 1, 1, 0, 1, 0, 0, 1, 1],
        [1, 1, 0, 0, 1, 1, 1, 0, 1],
    ],
    bool,
)
ENDS = np.cumsum(SIZES)[:-1]
KINDS = ("categorical", "multi_categorical")
DTYPES = ("float32", "float64")


def _distribution(kind, logits, mask=MASK):
    """Of the first dimension alone, or of all three."""
    if kind == "categorical":
        return Categorical(masked(logits[..., :4], mask[..., :4]))
    return MultiCategorical(masked(logits, mask), num_categories=SIZES)


def _oracle(kind, logits):
    """Per row and dimension: what is allowed, and log-probabilities over that alone; NumPy."""
    parts = np.split(np.arange(9), ENDS)[: 1 if kind == "categorical" else 3]
    for row in range(5):
        for dimension, columns in enumerate(parts):
            allowed = columns[MASK[row, columns]]
            yield row, dimension, columns, allowed, log_softmax(logits[row, allowed])


@pytest.fixture(params=DTYPES)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def _tolerance(dtype):
    return {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-13}


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_and_kl_are_those_over_the_allowed_actions(kind, dtype):
    p, q = (_distribution(kind, jnp.asarray(logits, dtype)) for logits in (LOGITS, OTHER))
    entropy, kl = np.zeros(5), np.zeros(5)
    ours, theirs = _oracle(kind, LOGITS), _oracle(kind, OTHER)
    for (row, _, _, _, log_p), (*_, log_q) in zip(ours, theirs, strict=True):
        entropy[row] -= np.exp(log_p) @ log_p
        kl[row] += np.exp(log_p) @ (log_p - log_q)
    np.testing.assert_allclose(p.entropy(), entropy, **_tolerance(dtype))
    np.testing.assert_allclose(p.kl(q), kl, **_tolerance(dtype))
    np.testing.assert_array_equal(p.kl(p), 0)
    assert (kl > 0.01).sum() >= 4  # the oracle has something to say


@pytest.mark.parametrize("kind", KINDS)
def test_the_kl_between_policies_of_different_masks(kind, dtype):
    """Finite where the second allows all that the first does, infinite where it does not."""
    narrow = _distribution(kind, jnp.asarray(LOGITS, dtype))
    wide = _distribution(kind, jnp.asarray(OTHER, dtype), np.ones_like(MASK))
    wanted = np.zeros(5)
    for row, _, columns, allowed, log_p in _oracle(kind, LOGITS):
        log_q = log_softmax(OTHER[row, columns])[np.isin(columns, allowed)]
        wanted[row] += np.exp(log_p) @ (log_p - log_q)
    np.testing.assert_allclose(narrow.kl(wide), wanted, **_tolerance(dtype))
    columns = slice(0, 4 if kind == "categorical" else 9)
    np.testing.assert_array_equal(np.isinf(wide.kl(narrow)), ~MASK[:, columns].all(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_over_the_allowed_actions(kind, dtype):
    p = _distribution(kind, jnp.asarray(LOGITS, dtype))
    rng = np.random.default_rng(1)
    action, wanted = np.zeros((5, 3), np.int32), np.zeros(5)
    for row, dimension, columns, allowed, log_p in _oracle(kind, LOGITS):
        pick = rng.integers(len(allowed))
        action[row, dimension] = allowed[pick] - columns[0]
        wanted[row] += log_p[pick]
    action = action[:, 0] if kind == "categorical" else action
    np.testing.assert_allclose(p.log_prob(jnp.asarray(action)), wanted, **_tolerance(dtype))
    forbidden = np.argmin(MASK[:, :4], axis=-1)[:, None] * np.array([1, 0, 0])
    forbidden = forbidden[:, 0] if kind == "categorical" else forbidden
    assert p.log_prob(jnp.asarray(forbidden))[0] == -np.inf


@pytest.mark.parametrize("kind", KINDS)
def test_the_fisher_product_is_the_one_over_the_allowed_actions(kind, dtype):
    p = _distribution(kind, jnp.asarray(LOGITS, dtype))
    tangent = jnp.asarray(OTHER[:, : p.logits.shape[-1]], dtype)
    product = np.asarray(p.fisher_product(p.replace(logits=tangent)).logits)
    wanted = np.zeros_like(product)
    for row, _, _, allowed, log_p in _oracle(kind, LOGITS):
        probability = np.exp(log_p)
        fisher = np.diag(probability) - np.outer(probability, probability)
        wanted[row, allowed] = fisher @ OTHER[row, allowed]
    np.testing.assert_allclose(product, wanted, **_tolerance(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_finite_and_right(kind, dtype):
    """Gradients by differences of the NumPy oracle; the Hessian of the KL is the Fisher matrix,
    by every road that the solver takes."""
    width = 4 if kind == "categorical" else 9
    logits, direction = jnp.asarray(LOGITS[:, :width], dtype), jnp.asarray(OTHER[:, :width], dtype)
    mask = MASK[:, :width]
    old = _distribution(kind, jnp.asarray(LOGITS[::-1].copy(), dtype), MASK)
    action = _distribution(kind, logits, MASK).mode()

    def functions(z):
        new = _distribution(kind, z, mask)
        return jnp.sum(new.log_prob(action)), jnp.sum(new.entropy()), jnp.sum(old.kl(new))

    _, slopes = jax.jit(lambda z: jax.jvp(functions, (z,), (direction,)))(logits)
    gradients = jax.jit(jax.jacrev(functions))(logits)
    for slope, gradient in zip(slopes, gradients, strict=True):
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(np.asarray(gradient)[~mask], 0)
        np.testing.assert_allclose(jnp.sum(gradient * direction), slope, rtol=1e-4, atol=1e-5)

    def total(z):  # Σ log p(mode) over the allowed actions
        rows = np.where(mask, z, -np.inf)
        parts = np.split(rows, ENDS, axis=-1) if kind != "categorical" else [rows]
        return sum(np.sum(log_softmax(part, axis=-1).max(-1)) for part in parts)

    step = 1e-6
    z, u = np.asarray(LOGITS[:, :width]), np.asarray(OTHER[:, :width])
    difference = (total(z + step * u) - total(z - step * u)) / (2 * step)
    np.testing.assert_allclose(slopes[0], difference, rtol=1e-4, atol=1e-4)

    here = _distribution(kind, logits, mask)
    fisher = here.fisher_product(here.replace(logits=jnp.where(mask, direction, 0))).logits
    divergence = lambda z: jnp.sum(here.kl(_distribution(kind, z, mask)))  # noqa: E731
    _, linear = jax.linearize(lambda z: _distribution(kind, z, mask), logits)
    (pulled,) = jax.linear_transpose(linear, logits)(here.fisher_product(linear(direction)))
    for name, product in (
        ("jvp of grad", jax.jvp(jax.grad(divergence), (logits,), (direction,))[1]),
        ("linearised", jax.linearize(jax.grad(divergence), logits)[1](direction)),
        ("Gauss-Newton", pulled),
    ):
        assert np.isfinite(product).all(), name
        np.testing.assert_allclose(product, fisher, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_action_is_never_drawn(kind):
    """10⁵ draws; the worst case: the masked logits are the largest by far."""
    logits = jnp.asarray(np.where(MASK, LOGITS, 50.0), jnp.float32)
    p = _distribution(kind, logits)
    drawn = jax.jit(jax.vmap(p.sample))(jax.random.split(jax.random.key(0), 20_000))
    drawn = np.asarray(drawn).reshape(20_000, 5, -1)
    mode = np.asarray(p.mode()).reshape(5, -1)
    for row, dimension, columns, allowed, log_p in _oracle(kind, LOGITS):
        values, counts = np.unique(drawn[:, row, dimension], return_counts=True)
        assert set(values) <= set(allowed - columns[0])
        assert mode[row, dimension] == (allowed - columns[0])[np.argmax(log_p)]
        share = dict(zip(values, counts / 20_000, strict=True))
        for value, probability in zip(allowed - columns[0], np.exp(log_p), strict=True):
            assert abs(share.get(value, 0) - probability) < 0.02


# Environments.


class Menu(Environment):
    """1,000 actions of which 3 are allowed, others in every state; the middle one of them pays.

    The state is the first allowed action; the three stand 7 apart. A forbidden action costs 100.
    """

    name = "menu"
    obs_shape = (1,)
    action_space = Discrete(1000)
    max_episode_steps = 4

    def _observe(self, state):
        offset = jnp.arange(1000) - state["first"]
        allowed = (offset == 0) | (offset == 7) | (offset == 14)
        return Observation(jnp.ones(1), action_mask=allowed)

    def reset(self, key):
        state = {"first": 10 * jax.random.randint(key, (), 0, 3), "time": jnp.int32(0)}
        return state, self._observe(state)

    def step(self, key, state, action):
        chosen = action - state["first"]
        allowed = (chosen == 0) | (chosen == 7) | (chosen == 14)
        first, time = 10 * jax.random.randint(key, (), 0, 3), state["time"] + 1
        state = {"first": first, "time": time}
        return state, EnvStep(
            self._observe(state),
            reward=jnp.where(allowed, jnp.float32(chosen == 7), -100.0),
            terminated=False,
            truncated=time >= self.max_episode_steps,
        )


TINY = TRPOConfig(num_envs=4, num_steps=16, hidden_sizes=(8,), value_epochs=1, cg_iterations=4)


@functools.cache
def _menu_agent():
    config = TINY.replace(num_envs=16, num_steps=32, normalize_observations=True)
    return trpo_jax.make_trpo(Menu(), config)


@functools.cache
def _trained_menus():
    """Two seeds side by side."""
    agent = _menu_agent()
    states = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), 2))
    train = lambda state: agent.train(state, HParams(max_kl=0.05), num_updates=30)  # noqa: E731
    return jax.jit(jax.vmap(train))(states)


def test_three_actions_of_a_thousand_are_learned_under_vmap():
    states, history = _trained_menus()
    assert (history.episode_return >= 0).all()  # none was ever forbidden
    assert (history.episode_return[:, 0] < 2).all()
    assert (history.episode_return[:, -1] > 3.5).all()
    np.testing.assert_allclose(history.entropy[:, 0], np.log(3), rtol=0.05)
    assert (history.on_policy_gap < 1e-5).all()
    assert (history.valid_fraction == 1).all()
    assert not history.alarms.invalid_data.any()
    for metric in jax.tree.leaves(history):
        assert np.isfinite(metric).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states.policy_params))


def test_act_and_evaluate_respect_the_mask():
    agent, states = _menu_agent(), _trained_menus()[0]
    state = jax.tree.map(lambda leaf: leaf[1], states)
    stats = agent.evaluate(state, jax.random.key(1), num_episodes=32, deterministic=True)
    np.testing.assert_array_equal(stats.returns, 4)
    assert (agent.evaluate(state, jax.random.key(2), 32, deterministic=False).returns >= 0).all()
    rng = np.random.default_rng(0)
    mask = np.zeros((50, 1000), bool)
    for row in mask:
        row[rng.choice(1000, 3, replace=False)] = True
    obs = Observation(jnp.ones((50, 1)), action_mask=jnp.asarray(mask))
    for deterministic in (True, False):
        action = agent.act(state, jax.random.key(3), obs, deterministic=deterministic)
        assert mask[np.arange(50), action].all()
    one = Observation(jnp.ones(1), action_mask=jnp.asarray(mask[0]))
    assert mask[0, agent.act(state, jax.random.key(4), one)]
    listed = Observation([1.0], action_mask=mask[0].tolist())
    assert mask[0, agent.act(state, jax.random.key(4), listed)]
    with pytest.raises(ValueError, match=r"state.key has shape .*number i, jax.tree.map\("):
        agent.act(states, jax.random.key(4), one)
    with pytest.raises(ValueError, match="obs has shape"):
        agent.act(state, jax.random.key(4), jnp.ones(1))


class Cliff(Environment):
    """Five cells; the mask of the cell `blocked` allows nothing.

    The walk goes right whatever the action and ends after cell 4: by then nothing is allowed
    either if `blocked` is 5, which is the final observation of every episode.
    """

    name = "cliff"
    obs_shape = (6,)
    max_episode_steps = 5

    def __init__(self, blocked, space=Discrete(3)):  # noqa: B008 - frozen
        self.blocked, self.action_space = blocked, space

    def _observe(self, cell):
        size = 3 if isinstance(self.action_space, Discrete) else sum(SIZES)
        mask = jnp.arange(size) != 1
        return Observation(jax.nn.one_hot(cell, 6), action_mask=mask & (cell != self.blocked))

    def reset(self, key):
        return jnp.int32(0), self._observe(jnp.int32(0))

    def step(self, key, state, action):
        cell = state + 1
        lost = jnp.any(action == 1) if isinstance(self.action_space, Discrete) else action[0] == 1
        reward = jnp.where(lost, -1.0, 1.0)
        return cell, EnvStep(self._observe(cell), reward, cell >= 5, jnp.bool_(False))


def _rollout(env):
    agent = trpo_jax.make_trpo(env, TINY)
    return agent, *agent.rollout(agent.init(jax.random.key(0)))


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete(SIZES)])
def test_a_step_in_which_nothing_is_allowed_does_not_count_and_is_reported(space):
    agent, state, trajectory = _rollout(Cliff(2, space))
    blocked = np.asarray(trajectory.obs.policy[..., 2] == 1)
    assert blocked.any()
    np.testing.assert_array_equal(trajectory.valid, ~blocked)
    # There it was given a full mask: log-probabilities are finite, and all actions were open.
    assert np.isfinite(trajectory.log_prob).all()
    logits = np.asarray(trajectory.distribution.logits)
    assert np.isfinite(logits[blocked]).all()
    assert np.isinf(logits[~blocked]).any()
    if isinstance(space, MultiDiscrete):  # one program is enough
        return
    state, metrics = agent.learn(state, trajectory)
    assert metrics.alarms.invalid_data
    np.testing.assert_allclose(metrics.valid_fraction, 1 - blocked.mean())
    assert metrics.accepted
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.policy_params))


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete(SIZES)])
def test_the_final_observation_needs_no_allowed_action(space):
    agent, state, trajectory = _rollout(Cliff(5, space))
    assert np.asarray(trajectory.next_obs.policy[..., 5]).any()
    assert trajectory.valid.all()
    if isinstance(space, Discrete):
        return
    _, metrics = agent.learn(state, trajectory)
    assert not metrics.alarms.invalid_data
    assert metrics.valid_fraction == 1
    assert metrics.accepted


def test_masks_of_a_multi_discrete_environment():
    """A mask on the second choice of the first dimension: −1 is never paid."""
    agent, state, trajectory = _rollout(Cliff(9, MultiDiscrete(SIZES)))
    assert (np.asarray(trajectory.action)[..., 0] != 1).all()
    assert (np.asarray(trajectory.reward) == 1).all()
    entropy = trajectory.distribution.entropy()
    np.testing.assert_allclose(entropy, np.log([3, 2, 3]).sum(), rtol=0.02)
    mask = np.zeros(9, bool)
    mask[[3, 4, 8]] = True
    obs = Observation(jnp.zeros(6), action_mask=jnp.asarray(mask))
    np.testing.assert_array_equal(agent.act(state, jax.random.key(0), obs), [3, 0, 2])


def test_one_dimension_in_which_nothing_is_allowed_spoils_the_step():
    class Half(Cliff):
        def _observe(self, cell):
            mask = jnp.arange(9) < 6  # the third dimension has nothing
            return Observation(jax.nn.one_hot(cell, 6), action_mask=mask | (cell != 3))

    _, _, trajectory = _rollout(Half(9, MultiDiscrete(SIZES)))
    np.testing.assert_array_equal(trajectory.valid, trajectory.obs.policy[..., 3] == 0)


def test_wrong_masks_are_refused():
    class OnABox(Cliff):
        action_space = Box(-1, 1, (3,))

        def __init__(self):
            self.blocked = 9

        def _observe(self, cell):
            return Observation(jax.nn.one_hot(cell, 6), action_mask=jnp.ones(3, bool))

        def step(self, key, state, action):
            cell = state + 1
            return cell, EnvStep(self._observe(cell), 0.0, cell >= 5, jnp.bool_(False))

    class Numbers(Cliff):
        def _observe(self, cell):
            return super()._observe(cell)._replace(action_mask=jnp.ones(3))

    class Longer(Cliff):
        def _observe(self, cell):
            return super()._observe(cell)._replace(action_mask=jnp.ones(4, bool))

    for env, words in ((OnABox(), "Box"), (Numbers(9), "bool"), (Longer(9), r"\(4,\).*\(3,\)")):
        with pytest.raises(ValueError, match=words):
            trpo_jax.make_trpo(env, TINY)


def test_a_foreign_module_is_masked_too_and_an_own_distribution_says_that_it_is_not():
    import flax.linen as nn

    env = Cliff(9)
    policy = trpo_jax.policy_from_flax(nn.Dense(3), env.action_space)
    agent = trpo_jax.make_trpo(env, TINY, policy=policy)
    _, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    assert (np.asarray(trajectory.action) != 1).all()
    own = trpo_jax.policy_from_flax(nn.Dense(3), env.action_space, Categorical)
    with pytest.raises(ValueError, match="mask"):
        trpo_jax.make_trpo(env, TINY, policy=own)
