"""Observations that are trees, and what only the critic sees: leaf by leaf through the program."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax
from trpo_jax import Discrete, Environment, EnvStep, Observation, TRPOConfig, fit_value
from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.learner.acting import network_input

TINY = TRPOConfig(num_envs=4, num_steps=16, hidden_sizes=(8,), value_epochs=1, cg_iterations=4)
FALSE = np.bool_(False)


class Walk(Environment):
    """A noisy walk in the plane; its parts as one array, or as a tree with the same order."""

    name = "walk"
    action_space = Discrete(3)
    max_episode_steps = 6
    shapes = {  # noqa: RUF012 - never changed
        "array": (4,),
        "nested": {"a": {"place": (2,)}, "b": ((1,), ())},
    }

    def __init__(self, kind):
        self.kind, self.obs_shape = kind, self.shapes[kind]

    def observe(self, state):
        place, speed, time = state["place"], state["speed"], state["time"] / 6
        return {
            "array": lambda: jnp.concatenate([place, speed, time[None]]),
            "nested": lambda: {"a": {"place": place}, "b": (speed, time)},
        }[self.kind]()

    def reset(self, key):
        place = 5 + 3 * jax.random.normal(key, (2,))
        state = {"place": place, "speed": jnp.zeros(1), "time": jnp.int32(0)}
        return state, self.observe(state)

    def step(self, key, state, action):
        speed = 0.5 * state["speed"] + action - 1.0
        place = state["place"] + speed + 0.1 * jax.random.normal(key, (2,))
        time = state["time"] + 1
        state = {"place": place, "speed": speed, "time": time}
        reward = -jnp.abs(place).sum()
        return state, EnvStep(self.observe(state), reward, FALSE, time >= 6)


NORMALIZED = TINY.replace(normalize_observations=True)


@functools.cache
def _trained(kind):
    agent = trpo_jax.make_trpo(Walk(kind), NORMALIZED)
    state, records = agent.init(jax.random.key(0)), []
    for _ in range(3):
        state, metrics = agent.learn(*agent.rollout(state))
        records.append(metrics)
    return agent, state, jax.tree.map(lambda *leaves: np.stack(leaves), *records)


def test_an_array_and_its_parts_learn_the_same_numbers():
    _, _, one = _trained("array")
    agent, state, other = _trained("nested")
    assert one.accepted.all()
    for name in ("kl", "improvement", "entropy", "value_loss", "episode_return", "gradient_norm"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-7, err_msg=name
        )
    obs = jax.tree.map(lambda leaf: leaf[:2], state.actor.obs)
    assert agent.act(state, jax.random.key(0), obs).shape == (2,)
    first = jax.tree.map(lambda leaf: leaf[0], obs)
    assert agent.act(state, jax.random.key(0), first).shape == ()


def test_statistics_are_kept_leaf_by_leaf():
    agent, _, _ = _trained("nested")
    state, trajectory = agent.rollout(agent.init(jax.random.key(3)))
    after, _ = agent.learn(state, trajectory)
    assert after.obs_statistics.count == 64
    means, variances = after.obs_statistics.mean, after.obs_statistics.variance
    leaves = zip(*map(jax.tree.leaves, (trajectory.obs, means, variances)), strict=True)
    for leaf, mean, variance in leaves:
        values = np.asarray(leaf, np.float64)
        np.testing.assert_allclose(mean, values.mean((0, 1)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, values.var((0, 1)), rtol=1e-4, atol=1e-5)
    seen = network_input(agent.parts, after.obs_statistics, trajectory.obs)
    for leaf in jax.tree.leaves(seen):
        np.testing.assert_allclose(np.mean(leaf, (0, 1)), 0, atol=1e-4)
        np.testing.assert_allclose(np.std(leaf, (0, 1)), 1, rtol=1e-3)


def test_another_tree_than_the_environments_is_refused():
    agent, state, _ = _trained("nested")
    place, speed, time = jnp.zeros(2), jnp.zeros(1), jnp.zeros(())
    for obs in (
        {"a": {"place": place}, "b": (speed,)},
        {"a": {"place": place}, "b": (jnp.zeros(2), time)},
        {"place": place, "speed": speed, "time": time},
        jnp.zeros(4),
    ):
        with pytest.raises(ValueError, match="obs has shape"):
            agent.act(state, jax.random.key(0), obs)


class Camera(Walk):
    """An image of bytes, a vector, a whole number and a flag."""

    obs_shape = {"image": (3, 3, 2), "speed": (1,), "steps": (), "wet": (2,)}  # noqa: RUF012

    def __init__(self):
        pass

    def observe(self, state):
        level = jnp.clip(20 * jnp.abs(state["place"]), 0, 255).astype(jnp.uint8)
        return {
            "image": jnp.broadcast_to(level, (3, 3, 2)),
            "speed": state["speed"] + 7,
            "steps": state["time"],
            "wet": state["place"] > 5,
        }


@functools.cache
def _camera():
    agent = trpo_jax.make_trpo(Camera(), NORMALIZED)
    state, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    return agent, trajectory, *agent.learn(state, trajectory)


TYPES = {"image": np.uint8, "speed": np.float32, "steps": np.int32, "wet": np.bool_}


def test_bytes_whole_numbers_and_flags_keep_their_type_and_are_not_normalised():
    agent, trajectory, state, metrics = _camera()
    assert metrics.accepted
    for obs in (trajectory.obs, trajectory.next_obs, state.actor.obs):
        assert {name: leaf.dtype for name, leaf in obs.items()} == TYPES
    for tree in (state.obs_statistics.mean, state.obs_statistics.variance):
        assert [name for name, leaf in tree.items() if leaf is not None] == ["speed"]
    seen = network_input(agent.parts, state.obs_statistics, trajectory.obs)
    for name in ("image", "steps", "wet"):
        np.testing.assert_array_equal(seen[name], trajectory.obs[name])
    assert abs(np.mean(seen["speed"])) < 1e-3
    assert np.mean(trajectory.obs["speed"]) > 5


def test_our_networks_scale_bytes_and_take_the_rest_as_one_vector():
    """Forward pass in NumPy."""
    agent, trajectory, state, _ = _camera()
    obs = jax.tree.map(lambda leaf: leaf[0], trajectory.obs)
    parts = [np.asarray(obs[name], np.float64).reshape(4, -1) for name in sorted(obs)]
    flat = np.concatenate([parts[0] / 255, *parts[1:]], axis=-1)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), state.policy_params)["params"]
    body, head = params["body"]["Dense_0"], params["head"]["Dense_0"]
    logits = np.tanh(flat @ body["kernel"] + body["bias"]) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(
        agent.policy.apply(state.policy_params, obs).logits, logits, rtol=1e-4, atol=1e-5
    )
    assert agent.act(state, jax.random.key(0), obs).shape == (4,)
    assert np.isfinite(agent.evaluate(state, jax.random.key(0), 4).returns).all()


class KeptApart(nn.Module):
    """A user's network gets the tree as it is."""

    num_outputs: int

    @nn.compact
    def __call__(self, obs):
        assert obs["image"].shape[1:] == (3, 3, 2)
        assert obs["image"].dtype == jnp.uint8
        assert obs["wet"].dtype == jnp.bool_
        image = nn.Conv(2, (2, 2))(obs["image"] / 255.0).mean((1, 2))
        return nn.Dense(self.num_outputs)(jnp.concatenate([image, obs["speed"]], axis=-1))


def test_a_users_network_gets_the_parts_apart():
    env = Camera()
    agent = trpo_jax.make_trpo(
        env,
        NORMALIZED,
        policy=trpo_jax.policy_from_flax(KeptApart(3), env.action_space),
        critic=trpo_jax.critic_from_flax(KeptApart(1)),
    )
    _, metrics = agent.update(agent.init(jax.random.key(0)))
    assert metrics.accepted
    assert metrics.on_policy_gap < 1e-5
    assert metrics.value_loss < metrics.value_loss_before


# What only the critic sees.


class Secret(Environment):
    """Every step pays +1 or −1, the same for an episode; the policy cannot know which."""

    name = "secret"
    obs_shape = {"time": (1,)}  # noqa: RUF012
    action_space = Discrete(2)
    max_episode_steps = 8

    def __init__(self, privileged, broken=None):
        self.privileged, self.broken = privileged, broken

    def observe(self, state):
        sign, time = state
        poison = {name: jnp.where((time == 3) & (self.broken == name), jnp.nan, 0.0)
                  for name in ("policy", "critic")}  # fmt: skip
        seen = {"time": time[None] / 8 + poison["policy"]}
        if not self.privileged:
            return seen
        hidden = (sign[None] + poison["critic"], time / 8)
        return Observation(seen, critic=hidden)

    def reset(self, key):
        state = jnp.where(jax.random.bernoulli(key), 1.0, -1.0), jnp.int32(0)
        return state, self.observe(state)

    def step(self, key, state, action):
        sign, time = state[0], state[1] + 1
        return (sign, time), EnvStep(self.observe((sign, time)), sign, FALSE, time >= 8)


@functools.cache
def _critic(privileged):
    config = NORMALIZED.replace(num_envs=16, num_steps=32, value_epochs=10, hidden_sizes=(16,))
    agent = trpo_jax.make_trpo(Secret(privileged), config)
    hparams = trpo_jax.HParams(value_learning_rate=1e-2)
    return agent, *agent.train(agent.init(jax.random.key(0)), hparams, num_updates=8)


def test_a_critic_that_sees_more_explains_more():
    explained = {kind: _critic(kind)[2].explained_variance[-3:] for kind in (True, False)}
    assert (explained[True] > 0.9).all(), explained
    assert (explained[False] < 0.3).all(), explained


def test_acting_does_without_what_only_the_critic_sees():
    agent, state, _ = _critic(True)
    part = {"time": jnp.array([[0.1], [0.5], [0.9]])}
    key, critic = jax.random.key(0), (jnp.ones((3, 1)), jnp.zeros(3))
    for deterministic in (True, False):
        actions = [
            agent.act(state, key, obs, deterministic=deterministic)
            for obs in (part, Observation(part), Observation(part, critic=critic))
        ]
        np.testing.assert_array_equal(actions[0], actions[1])
        np.testing.assert_array_equal(actions[0], actions[2])
    stats = agent.evaluate(state, key, num_episodes=16)
    assert set(np.asarray(stats.returns)) == {-8.0, 8.0}
    # The policy has no weights for what it does not see.
    assert state.policy_params["params"]["body"]["Dense_0"]["kernel"].shape[0] == 1
    assert state.value_params["params"]["body"]["Dense_0"]["kernel"].shape[0] == 2


def test_acting_on_an_array_does_without_it_too():
    class Plain(Secret):
        obs_shape = (1,)

        def observe(self, state):
            return Observation(state[1][None] / 8, critic=state[0][None])

    agent = trpo_jax.make_trpo(Plain(True), NORMALIZED)
    state, key = agent.init(jax.random.key(0)), jax.random.key(1)
    array = jnp.linspace(0, 1, 5)[:, None]
    actions = [
        agent.act(state, key, obs)
        for obs in (array, Observation(array), Observation(array, jnp.zeros((5, 1))))
    ]
    np.testing.assert_array_equal(actions[0], actions[1])
    np.testing.assert_array_equal(actions[0], actions[2])
    assert agent.act(state, key, [0.5]).shape == ()


@pytest.mark.parametrize("part", ["policy", "critic"])
def test_not_a_number_in_any_leaf_marks_the_transition_invalid(part):
    agent = trpo_jax.make_trpo(Secret(True, broken=part), NORMALIZED)
    state, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    # The third step of each episode shows it; then the environment begins again.
    third = np.tile(np.arange(16)[:, None] % 3 == 2, (1, 4))
    np.testing.assert_array_equal(trajectory.valid, ~third)
    np.testing.assert_array_equal(trajectory.truncated, third)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((trajectory.obs, trajectory.next_obs)))
    if part == "policy":  # one program is enough
        return
    state, metrics = agent.learn(state, trajectory)
    assert metrics.alarms.invalid_data
    assert metrics.accepted
    trained = (state.policy_params, state.value_params, state.obs_statistics)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))


# The rest of the program.


def test_the_fits_shuffle_keeps_the_leaves_of_a_row_together():
    """A critic that is 10⁴ off wherever two leaves are not of one row, and 2n/64 to be learned."""
    rows = np.arange(64)
    obs = {
        "float": jnp.asarray(np.stack([rows, -rows], -1), jnp.float32),
        "bytes": jnp.asarray(rows[:, None, None].repeat(2, 1), jnp.uint8),
        "whole": (jnp.asarray(rows, jnp.int32), jnp.asarray(rows, jnp.float32)),
        "flag": jnp.asarray(rows % 2 == 0),
    }

    def apply(params, x):
        n = x["whole"][0].astype(jnp.float32)
        together = (
            (x["float"][:, 0] == n)
            & (x["float"][:, 1] == -n)
            & (x["bytes"][:, 1, 0] == n)
            & (x["whole"][1] == n)
            & (x["flag"] == (n % 2 == 0))
        )
        return params * n / 64 + jnp.where(together, 0, 1e4)

    fit = functools.partial(
        fit_value, apply=apply, learning_rate=0.05, num_epochs=30, minibatch_size=16
    )
    target = jnp.asarray(2 * rows / 64, jnp.float32)
    start = jnp.float32(0)
    optimizer = trpo_jax.learner.value.init_value_optimizer(start)
    weight = jnp.asarray(rows != 5, jnp.float32)
    target = target.at[5].set(1e6)  # does not count
    fitted, _, info = jax.jit(
        lambda key: fit(key, start, optimizer, obs=obs, target=target, weight=weight)
    )(jax.random.key(0))
    assert info.accepted
    np.testing.assert_allclose(fitted, 2, rtol=0.02)
    assert info.loss_after < 1e-3 < info.loss_before < 10


def test_a_checkpoint_keeps_a_tree_of_observations(tmp_path):
    agent, _, state, _ = _camera()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state)
    checkpoints.wait()
    restored = checkpoints.restore(1, agent.init(jax.random.key(9)))
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    after, again = (agent.learn(*agent.rollout(each))[0] for each in (state, restored))
    for tree in ((restored, state), (again, after)):
        for left, right in zip(*map(jax.tree.leaves, tree), strict=True):
            if jnp.issubdtype(left.dtype, jax.dtypes.prng_key):
                left, right = jax.random.key_data(left), jax.random.key_data(right)
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
