"""Networks of the user's: what fits runs as ours do, what does not is refused before it is run."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import probe_envs
import pytest
import scipy.stats
from flax import nnx, struct

import trpo_jax
from trpo_jax import (
    Box,
    Categorical,
    Critic,
    DiagonalGaussian,
    Discrete,
    MultiCategorical,
    MultiDiscrete,
    TRPOConfig,
    critic_from_flax,
    policy_from_flax,
)

TINY = TRPOConfig(num_envs=4, num_steps=8, hidden_sizes=(8,), value_epochs=1, cg_iterations=3)
OBS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
ENV = probe_envs.MatchTheBit()
BOX_ENV = probe_envs.TargetAction()
orthogonal = nn.initializers.orthogonal


class Mlp(nn.Module):
    """Two orthogonal layers with LayerNorm; one output, or several in a tuple."""

    sizes: tuple[int, ...]
    hidden: tuple[int, ...] = (16, 8)

    @nn.compact
    def __call__(self, obs):
        for size in self.hidden:
            obs = nn.tanh(nn.LayerNorm()(nn.Dense(size, kernel_init=orthogonal())(obs)))
        outputs = [nn.Dense(size, kernel_init=orthogonal(0.1))(obs) for size in self.sizes]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def last_two(self, obs):
        return self(obs)[..., -2:]


class NnxMlp(nnx.Module):
    def __init__(self, num_inputs, sizes, *, rngs):
        self.first = nnx.Linear(num_inputs, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.heads = nnx.List([nnx.Linear(8, size, rngs=rngs) for size in sizes])

    def __call__(self, obs):
        features = nnx.tanh(self.norm(self.first(obs)))
        outputs = [head(features) for head in self.heads]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _module(kind, num_inputs, *sizes):
    if kind == "linen":
        return Mlp(sizes)
    return lambda rngs: NnxMlp(num_inputs, sizes, rngs=rngs)


def _applied(policy, obs=OBS):
    params = policy.init(jax.random.key(0), obs[0])
    return params, policy.apply(params, obs)


# What fits.


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_a_box_takes_the_mean_alone_a_pair_or_both_side_by_side(kind):
    space = Box(-1.0, 1.0, (2,))
    params, alone = _applied(policy_from_flax(_module(kind, 3, 2), space))
    np.testing.assert_array_equal(params["log_std"], np.zeros(2))
    np.testing.assert_array_equal(alone.log_std, np.zeros((5, 2)))
    params["log_std"] = jnp.array([0.5, -1.0])
    moved = policy_from_flax(_module(kind, 3, 2), space).apply(params, OBS)
    np.testing.assert_allclose(moved.log_std, np.tile([0.5, -1.0], (5, 1)))

    params, pair = _applied(policy_from_flax(_module(kind, 3, 2, 2), space))
    assert "log_std" not in params
    assert np.ptp(np.asarray(pair.log_std), axis=0).min() > 0  # it depends on the state

    side_by_side = _module(kind, 3, 4)
    _, both = _applied(policy_from_flax(side_by_side, space))
    _, raw = _applied(policy_from_flax(side_by_side, Discrete(4)))
    np.testing.assert_allclose(both.mean, raw.logits[:, :2])
    np.testing.assert_allclose(both.log_std, raw.logits[:, 2:])
    for distribution in (alone, pair, both):
        assert isinstance(distribution, DiagonalGaussian)
        assert distribution.mean.shape == distribution.log_std.shape == (5, 2)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_discrete_spaces_take_logits(kind):
    _, one = _applied(policy_from_flax(_module(kind, 3, 5), Discrete(5)))
    assert isinstance(one, Categorical)
    _, several = _applied(policy_from_flax(_module(kind, 3, 5), MultiDiscrete((2, 3))))
    assert isinstance(several, MultiCategorical)
    assert several.num_categories == (2, 3)
    np.testing.assert_array_equal(one.logits, several.logits)


def test_the_network_is_the_users_and_so_is_its_method():
    module = Mlp((4,))
    policy = policy_from_flax(module, Discrete(2), method="last_two")
    params, distribution = _applied(policy)
    np.testing.assert_allclose(distribution.logits, module.apply(params, OBS)[:, -2:], rtol=1e-6)
    kernel = np.asarray(params["params"]["Dense_1"]["kernel"], np.float64)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(8), atol=1e-5)  # its own initialiser

    critic = critic_from_flax(Mlp((1,)))
    values = critic.apply(critic.init(jax.random.key(0), OBS[0]), OBS)
    assert values.shape == (5, 1)


class Laplace(struct.PyTreeNode):
    """A user's distribution, with nothing but what the protocol asks for."""

    mean: jax.Array
    num_dimensions = property(lambda self: self.mean.shape[-1])

    def log_prob(self, action):
        return jnp.sum(-jnp.abs(action - self.mean) - jnp.log(2.0), -1)

    def entropy(self):
        return jnp.sum(0 * self.mean + 1 + jnp.log(2.0), -1)

    def kl(self, other):
        gap = jnp.sqrt((self.mean - other.mean) ** 2 + 1e-12) - 1e-6
        return jnp.sum(gap + jnp.expm1(-gap), -1)

    def sample(self, key):
        return self.mean + jax.random.laplace(key, self.mean.shape)

    def mode(self):
        return self.mean


def _box_policy(distribution=None, *sizes):
    return policy_from_flax(Mlp(sizes or (1,)), BOX_ENV.action_space, distribution)


def test_an_own_distribution_without_to_box_maps_minus_one_and_one_to_the_bounds():
    params, distribution = _applied(_box_policy(Laplace))
    assert isinstance(distribution, trpo_jax.Distribution)
    assert "log_std" not in params
    agent = trpo_jax.make_trpo(BOX_ENV, TINY.replace(curvature="hvp"), policy=_box_policy(Laplace))
    _, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    action = np.asarray(trajectory.action)[..., 0]
    clipped = -((np.clip(action, -1, 1) - 0.5) ** 2)
    np.testing.assert_allclose(trajectory.reward, clipped, rtol=1e-5, atol=1e-6)
    assert np.abs(action).max() > 1


class Narrow(nn.Module):
    """Everything but the parameters in a type of two bytes."""

    size: int
    dtype: str

    @nn.compact
    def __call__(self, obs):
        return nn.Dense(self.size, dtype=self.dtype)(obs)


@pytest.mark.parametrize(
    ("env", "dtype", "by_hand"),
    [(ENV, "bfloat16", True), (BOX_ENV, "float16", False)],
)
def test_outputs_of_two_bytes_become_float32(env, dtype, by_hand):
    module, critic = Narrow(2, dtype), critic_from_flax(Narrow(1, dtype))
    policy = policy_from_flax(module, env.action_space)
    if by_hand:
        policy = trpo_jax.Policy(module.init, lambda *inputs: Categorical(module.apply(*inputs)))
        critic = Critic(Narrow(1, dtype).init, Narrow(1, dtype).apply)
    agent = trpo_jax.make_trpo(env, TINY, policy=policy, critic=critic)
    _, metrics = agent.update(agent.init(jax.random.key(0)))
    assert metrics.accepted
    assert metrics.on_policy_gap < 1e-5


# What does not.


class TwoArguments(nn.Module):
    @nn.compact
    def __call__(self, obs, train):
        return nn.Dense(2)(obs)


class NothingToLearn(nn.Module):
    def __call__(self, obs):
        return obs


class WithBatchNorm(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=True)(obs))


class WithDropout(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=False)(obs))


class NnxBatchNorm(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.last = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, obs):
        return self.last(self.norm(obs))


class NnxDropout(nnx.Module):
    def __init__(self, rngs):
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, obs):
        return self.last(self.drop(obs))


class Nothing(struct.PyTreeNode):
    """No methods."""

    logits: jax.Array


class NoPytree:
    """The methods, but no tree of arrays."""

    def __init__(self, logits):
        self.inner = Categorical(logits)

    num_dimensions = 1
    log_prob = entropy = kl = sample = mode = lambda self, *_: None


class Whole(Categorical):
    """A leaf of whole numbers."""

    count: jax.Array = 0

    @classmethod
    def of(cls, logits):
        return cls(logits, jnp.arange(logits.shape[0]))


class Summed(Laplace):
    """A log-probability for each dimension."""

    def log_prob(self, action):
        return -jnp.abs(action - self.mean)

    def fisher_product(self, tangent):
        return tangent


def _discrete(module, distribution=None):
    return policy_from_flax(module, ENV.action_space, distribution)


REFUSED = {
    "nnx instance": (
        lambda: _discrete(NnxMlp(2, (2,), rngs=nnx.Rngs(0))),
        "parameters already.*lambda rngs: NnxMlp",
    ),
    "linen class": (lambda: _discrete(Mlp), "instance"),
    "nnx class": (lambda: _discrete(NnxMlp), "instance"),
    "not a module": (lambda: _discrete(3), "module=3"),
    "a function of something else": (lambda: _discrete(lambda rngs: 3), "nnx module"),
    "linen BatchNorm": (lambda: _discrete(WithBatchNorm()), "batch_stats.*LayerNorm"),
    "nnx BatchNorm": (lambda: _discrete(lambda rngs: NnxBatchNorm(rngs)), "BatchStat"),
    "linen Dropout": (lambda: _discrete(WithDropout()), "Dropout"),
    "nnx Dropout": (lambda: _discrete(lambda rngs: NnxDropout(rngs)), "Rng.*Dropout"),
    "too many logits": (lambda: _discrete(Mlp((3,))), r"logits \[B, 2\]"),
    "a pair of logits": (lambda: _discrete(Mlp((2, 2))), r"logits \[B, 2\]"),
    "no methods": (lambda: _discrete(Mlp((2,)), Nothing), "no log_prob, entropy, kl"),
    "no distribution": (lambda: _discrete(Mlp((2,)), lambda logits: logits), "no log_prob"),
    "no pytree": (lambda: _discrete(Mlp((2,)), NoPytree), "NoPytree.*PyTreeNode"),
    "linen arguments": (
        lambda: _discrete(TwoArguments()),
        r"policy.init raises TypeError .*\(2,\): .*argument: 'train'; it must",
    ),
    "nnx inputs": (
        lambda: _discrete(_module("nnx", 7, 2)),
        r"policy.init raises TypeError .*\(2,\) and \(7,\).*; it must",
    ),
    "method": (
        lambda: policy_from_flax(Mlp((2,)), ENV.action_space, method="absent"),
        "policy.init raises AttributeError .*absent.*; it must",
    ),
    "nothing to learn": (
        lambda: _discrete(NothingToLearn()),
        "policy.init returns .*no param",
    ),
    "whole numbers": (lambda: _discrete(Mlp((2,)), Whole.of), "int32"),
}
REFUSED_ON_A_BOX = {
    "three of one": (lambda: _box_policy(None, 3), "log_std"),
    "three outputs": (lambda: _box_policy(None, 1, 1, 1), "log_std"),
    "mean of another size": (lambda: _box_policy(None, 3, 3), r"\[B, 1\]"),
    "no fisher_product": (lambda: _box_policy(Laplace), "fisher_product.*Laplace.*hvp"),
    "not summed": (lambda: _box_policy(Summed), "log_prob of Summed.*sum over"),
}


@pytest.mark.parametrize("case", [*REFUSED, *REFUSED_ON_A_BOX])
def test_a_policy_that_does_not_fit_is_refused(case, monkeypatch):
    env, (make, words) = (
        (ENV, REFUSED[case]) if case in REFUSED else (BOX_ENV, REFUSED_ON_A_BOX[case])
    )
    monkeypatch.setattr(jax, "jit", _no_compilation)
    with pytest.raises(ValueError, match=words) as caught:
        trpo_jax.make_trpo(env, TINY, policy=make())
    assert "\n" not in str(caught.value)


def _no_compilation(*_, **__):
    raise AssertionError("something is about to be compiled")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: critic_from_flax(Mlp((2,))), "critic returns"),
        (lambda: critic_from_flax(Mlp((1, 1))), "critic returns"),
        (lambda: critic_from_flax(lambda rngs: NnxBatchNorm(rngs)), "BatchStat"),
        (lambda: critic_from_flax(_module("nnx", 7, 1)), r"critic.apply raises TypeError .*; it"),
        (lambda: critic_from_flax(NnxMlp(2, (1,), rngs=nnx.Rngs(0))), "already"),
        (lambda: Critic(lambda key, obs: jnp.zeros(1), lambda p, obs: p), "critic returns"),
        (lambda: Critic(lambda key, obs: jnp.arange(2), lambda p, obs: p), "int32"),
    ],
)
def test_a_critic_that_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        trpo_jax.make_trpo(ENV, TINY, critic=make())


def test_parts_in_the_wrong_place_are_refused():
    policy, critic = _discrete(Mlp((2,))), critic_from_flax(Mlp((1,)))
    fit = trpo_jax.ValueFit(lambda params: (), lambda *args: args)
    for name, part, kind in (
        ("critic", policy, "Critic"),
        ("policy", critic, "Policy"),
        ("policy", Mlp((2,)), "Policy"),
        ("value_fit", critic, "ValueFit"),
        ("critic", fit, "Critic"),
    ):
        with pytest.raises(ValueError, match=f"(?s){name}=.*trpo_jax.{kind}"):
            trpo_jax.make_trpo(ENV, TINY, **{name: part})
    with pytest.raises(ValueError, match="policy_step="):
        trpo_jax.make_trpo(ENV, TINY, policy_step=3)


# Initialisation.


@functools.cache
def _agent(kind):
    policy = policy_from_flax(_module(kind, 2, 2), ENV.action_space)
    return trpo_jax.make_trpo(
        ENV, TINY, policy=policy, critic=critic_from_flax(_module(kind, 2, 1))
    )


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_lanes_differ_by_seed_and_equal_single_inits(kind):
    agent, keys = _agent(kind), jax.random.split(jax.random.key(7), 3)
    lanes = jax.jit(jax.vmap(agent.init))(keys)
    nested = lanes
    if kind == "linen":
        deeper = jax.jit(jax.vmap(jax.vmap(agent.init)))(keys.reshape(3, 1))
        nested = jax.tree.map(lambda leaf: leaf[:, 0], deeper)
    alone = agent.init(keys[1])
    for part in ("policy_params", "value_params"):
        several = jax.tree.leaves(getattr(lanes, part))
        one, deep = (jax.tree.leaves(getattr(state, part)) for state in (alone, nested))
        assert any(np.asarray(leaf).std() > 0 for leaf in one)
        for many, single, deepest in zip(several, one, deep, strict=True):
            np.testing.assert_allclose(many[1], single, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(deepest[1], single, rtol=1e-5, atol=1e-6)
            if single.ndim > 1:
                assert not np.allclose(many[0], many[2])


def test_foreign_modules_are_on_policy_and_learn_like_ours():
    """A policy of nnx and a critic of linen; docs/extending.md trains both with both."""
    policy = policy_from_flax(_module("nnx", 2, 2), ENV.action_space)
    critic = critic_from_flax(_module("linen", 2, 1))
    agent = trpo_jax.make_trpo(ENV, TINY, policy=policy, critic=critic)
    before = agent.init(jax.random.key(0))
    state, history = agent.train(before, num_updates=3)
    assert (history.on_policy_gap < 1e-5).all()
    assert history.accepted.all()
    assert (history.kl <= 0.01).all()
    for part in ("policy_params", "value_params"):
        moved = jax.tree.map(
            lambda x, y: float(jnp.abs(x - y).max()), getattr(state, part), getattr(before, part)
        )
        assert max(jax.tree.leaves(moved)) > 1e-4


# Given parameters and sizes.


def test_parameters_that_are_given():
    agent = _agent("linen")
    other = agent.init(jax.random.key(5))
    for given in ({"policy_params"}, {"value_params"}, {"policy_params", "value_params"}):
        state = agent.init(jax.random.key(6), **{name: getattr(other, name) for name in given})
        plain = agent.init(jax.random.key(6))
        for name in ("policy_params", "value_params"):
            source = other if name in given else plain
            jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(source, name))
        jax.tree.map(np.testing.assert_array_equal, state.actor.obs, plain.actor.obs)
    keys = jax.random.split(jax.random.key(0), 3)
    lanes = jax.vmap(lambda key: agent.init(key, policy_params=other.policy_params))(keys)
    kernel = lanes.policy_params["params"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(kernel[0], kernel[2])
    np.testing.assert_array_equal(kernel[0], other.policy_params["params"]["Dense_0"]["kernel"])
    params = other.policy_params
    halves = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), params)
    state = agent.init(jax.random.key(0), policy_params=halves)  # the agent's types
    assert {leaf.dtype for leaf in jax.tree.leaves(state.policy_params)} == {np.dtype("float32")}
    with pytest.raises(ValueError, match=r"policy_params.*structure"):
        agent.init(jax.random.key(0), policy_params=params["params"])
    with pytest.raises(ValueError, match="policy_params is a tuple"):
        agent.init(jax.random.key(0), policy_params=(params,))
    with pytest.raises(ValueError, match="value_params has shapes"):
        agent.init(jax.random.key(0), value_params=params)
    doubled = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), params)
    with pytest.raises(ValueError, match="policy_params has shapes"):
        agent.init(jax.random.key(0), policy_params=doubled)


def test_the_critic_may_have_sizes_of_its_own():
    def widths(params):
        body = params["params"]["body"]
        return [body[name]["kernel"].shape[1] for name in sorted(body)]

    for sizes, wanted in ((None, [8]), ((5, 7), [5, 7]), ((), [])):
        agent = trpo_jax.make_trpo(ENV, TINY.replace(critic_hidden_sizes=sizes))
        state = agent.init(jax.random.key(0))
        assert widths(state.policy_params) == [8]
        got = widths(state.value_params) if wanted else []
        assert got == wanted
    with pytest.raises(ValueError, match="critic_hidden_sizes"):
        TINY.replace(critic_hidden_sizes=(0,))


# A standard deviation that depends on the state.


class TwoTargets(probe_envs.TargetAction):
    """Two real actions."""

    action_space = Box(-1.0, 1.0, (2,))


@functools.cache
def _state_dependent():
    config = TINY.replace(state_dependent_std=True, initial_log_std=-0.4)
    return trpo_jax.make_trpo(TwoTargets(), config)


def _spread_out(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(0.7 * rng.normal(size=x.shape), x.dtype), params)


def test_a_state_dependent_deviation_begins_alike_and_then_depends_on_the_state():
    agent, obs = _state_dependent(), jnp.linspace(-2, 2, 7)[:, None]
    params = agent.init(jax.random.key(0)).policy_params
    first = agent.policy.apply(params, obs)
    np.testing.assert_allclose(first.log_std, -0.4, atol=0.05)
    later = agent.policy.apply(_spread_out(params), obs)
    assert np.ptp(np.asarray(later.log_std), axis=0).min() > 0.1
    action = np.random.default_rng(1).normal(size=(7, 2))
    oracle = scipy.stats.norm(later.mean, np.exp(later.log_std)).logpdf(action).sum(-1)
    np.testing.assert_allclose(later.log_prob(jnp.asarray(action)), oracle, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_the_kl_of_a_state_dependent_deviation():
    """Finite differences of a formula in NumPy, float64."""
    agent, obs = _state_dependent(), jnp.linspace(-2, 2, 7)[:, None]
    params = agent.init(jax.random.key(0)).policy_params
    old, here = (agent.policy.apply(_spread_out(params, seed), obs) for seed in (1, 2))
    flat, unravel = jax.flatten_util.ravel_pytree(_spread_out(params, 2))

    def kl(mean, log_std):
        p, q = np.exp(np.asarray(old.log_std, np.float64)), np.exp(log_std)
        gap = (np.asarray(old.mean, np.float64) - mean) ** 2
        return np.sum(np.log(q / p) + (p**2 + gap) / (2 * q**2) - 0.5)

    mean, log_std = (np.asarray(x, np.float64) for x in (here.mean, here.log_std))
    np.testing.assert_allclose(jnp.sum(old.kl(here)), kl(mean, log_std), rtol=1e-5)
    direction = jnp.asarray(np.random.default_rng(3).normal(size=flat.shape), flat.dtype)
    outputs = lambda x: agent.policy.apply(unravel(x), obs)  # noqa: E731
    _, tangent = jax.jvp(outputs, (flat,), (direction,))
    step = 1e-6
    moves = (step * np.asarray(tangent.mean), step * np.asarray(tangent.log_std))
    difference = kl(mean + moves[0], log_std + moves[1]) - kl(mean - moves[0], log_std - moves[1])
    slope = jnp.vdot(jax.grad(lambda x: jnp.sum(old.kl(outputs(x))))(flat), direction)
    np.testing.assert_allclose(slope, difference / (2 * step), rtol=1e-3)


def test_gauss_newton_is_hvp_where_the_deviation_depends_on_the_state():
    """And both are what differences of the gradient of the KL say."""
    agent, obs = _state_dependent(), jnp.linspace(-2, 2, 7)[:, None]
    params = _spread_out(agent.init(jax.random.key(0)).policy_params)
    old = agent.policy.apply(params, obs)
    objective = trpo_jax.Objective(
        predict=agent.policy.apply,
        gain=lambda new, batch: new.entropy(),
        divergence=lambda new, batch: old.kl(new),
        fisher_product=lambda new, tangent: new.fisher_product(tangent),
    )
    direction = _spread_out(jax.tree.map(jnp.zeros_like, params), 4)

    @functools.partial(jax.jit, static_argnames="curvature")
    def product(curvature):
        model = trpo_jax.local_model(objective, params, obs, curvature=curvature)
        return jax.flatten_util.ravel_pytree(model.product()(direction))[0]

    @jax.jit
    def gradient(step):
        moved = jax.tree.map(lambda x, d: x + step * d, params, direction)
        kl = lambda candidate: jnp.mean(old.kl(agent.policy.apply(candidate, obs)))  # noqa: E731
        return jax.flatten_util.ravel_pytree(jax.grad(kl)(moved))[0]

    fast, slow = product("gauss_newton"), product("hvp")
    difference = (gradient(1e-3) - gradient(-1e-3)) / 2e-3
    for other in (slow, difference):
        assert np.linalg.norm(fast - other) < 2e-3 * np.linalg.norm(fast)
