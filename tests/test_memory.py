"""Networks with memory: a true trust region over histories, and carries that never mix episodes.

The oracles unroll a GRU by hand, one environment and one step at a time.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from constrained_mdp import TwoStates
from flax import nnx
from jax.flatten_util import ravel_pytree
from runs import with_devices

import trpo_jax
from trpo_jax import TRPOConfig, make_env, make_trpo
from trpo_jax.cli import main
from trpo_jax.common import trees
from trpo_jax.experiments.export.numpy_policy import NumpyPolicy
from trpo_jax.learner.batch import prepare_batch
from trpo_jax.learner.memory import on_examples, values_of_both
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.types import Batch, Carries, Sequences, SequenceStarts
from trpo_jax.policies.cells import CELLS, linear_recurrence
from trpo_jax.policies.networks import Body, CategoricalHead
from trpo_jax.policies.recurrent import make_recurrent_critic, make_recurrent_policy
from trpo_jax.solver.objective import curvature_product, evaluation
from trpo_jax.solver.trust_region import trust_region_step

FORMATS = ("numpy", "stablehlo", "onnx")
T, N, OBS, SIZE, ACTIONS = 5, 3, 2, 3, 2
CONFIG = TRPOConfig(
    num_envs=4,
    num_steps=16,
    hidden_sizes=(4,),
    memory="gru",
    memory_size=4,
    cg_iterations=3,
    value_epochs=1,
)
KEY = jax.random.key(0)
rng = np.random.default_rng(0)


@functools.cache
def hidden_cartpole():
    """CartPole without velocities; one environment, so that agents compile once."""
    return make_env("CartPole-v1", observe=(0, 2))


@pytest.fixture(scope="module")
def agent():
    return make_trpo(hidden_cartpole(), CONFIG)


@pytest.fixture(scope="module")
def rolled(agent):
    """States before and after a second rollout, so that it begins in the middle of episodes."""
    start, _ = agent.update(agent.init(KEY))
    end, trajectory = agent.rollout(start)
    return start, end, trajectory


class Case(NamedTuple):
    policy: trpo_jax.RecurrentPolicy
    objective: trpo_jax.Objective
    params: dict
    batch: Batch


def make_case(memory="gru"):
    """A policy away from its initialisation and a batch of sequences with resets in the middle, in
    float64: call it with x64 enabled."""
    body = Body(((OBS,),), (SIZE,), "tanh")
    policy = make_recurrent_policy(body, CELLS[memory](SIZE), CategoricalHead(ACTIONS))
    draw = np.random.default_rng(1)
    params = policy.init(KEY, jnp.zeros(OBS, jnp.float32))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf) + 0.5 * draw.normal(size=leaf.shape)), params
    )
    carry = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape)), policy.initial_carry(N))
    reset = np.zeros((N, T), bool)
    reset[0, 2] = reset[1, [1, 4]] = reset[2, 0] = True
    examples = Sequences(jnp.asarray(draw.normal(size=(N, T, OBS))), jnp.asarray(reset), carry)
    distribution = on_examples(policy)(params, examples)
    action = jnp.asarray(draw.integers(ACTIONS, size=(N, T)))
    weight = np.ones((N, T))
    weight[1, 3] = 0
    batch = Batch(
        obs=examples.obs,
        action=action,
        distribution=distribution,
        log_prob=distribution.log_prob(action),
        entropy=distribution.entropy(),
        advantage=jnp.asarray(draw.normal(size=(N, T))),
        value=jnp.zeros((N, T)),
        value_target=jnp.zeros((N, T)),
        weight=jnp.asarray(weight),
        starts=SequenceStarts(examples.reset, Carries(policy=carry)),
    )
    return Case(policy, make_objective(policy, 0.0), params, batch)


def by_hand(xp, params, obs, reset, carry):
    """Log-probabilities [N, T, actions] of the GRU policy, unrolled by hand with `xp`, NumPy or
    jax.numpy."""
    tree = params["params"]
    sigmoid = lambda x: 1 / (1 + xp.exp(-x))  # noqa: E731
    w, b = tree["memory"]["inputs"]["kernel"], tree["memory"]["inputs"]["bias"]
    u, c = tree["memory"]["recurrent"], tree["memory"]["candidate_bias"]
    rows = []
    for n in range(obs.shape[0]):
        h, row = carry[n], []
        for t in range(obs.shape[1]):
            if reset[n, t]:
                h = xp.zeros(SIZE)
            layer = tree["body"]["Dense_0"]
            x = xp.tanh(obs[n, t] @ layer["kernel"] + layer["bias"])
            r = sigmoid(x @ w[:, :SIZE] + b[:SIZE] + h @ u[:, :SIZE])
            z = sigmoid(x @ w[:, SIZE : 2 * SIZE] + b[SIZE : 2 * SIZE] + h @ u[:, SIZE : 2 * SIZE])
            candidate = x @ w[:, 2 * SIZE :] + b[2 * SIZE :] + r * (h @ u[:, 2 * SIZE :] + c)
            h = (1 - z) * xp.tanh(candidate) + z * h
            layer = tree["head"]["Dense_0"]
            logits = h @ layer["kernel"] + layer["bias"]
            row.append(logits - xp.log(xp.sum(xp.exp(logits))))
        rows.append(xp.stack(row))
    return xp.stack(rows)


def oracle(xp, case, params):
    """(surrogate, divergence) of candidate parameters, from the unrolling by hand."""
    reset = np.asarray(case.batch.starts.reset)
    carry = case.batch.starts.carry.policy
    unrolled = lambda tree: by_hand(xp, tree, case.batch.obs, reset, carry)  # noqa: E731
    old, new = unrolled(case.params), unrolled(params)
    chosen = np.asarray(case.batch.action)[..., None]
    weight = case.batch.weight / case.batch.weight.sum()
    ratio = xp.exp(xp.take_along_axis(new - old, chosen, -1)[..., 0])
    surrogate = xp.sum(weight * (ratio - 1) * case.batch.advantage)
    return surrogate, xp.sum(weight[..., None] * xp.exp(old) * (old - new))


@functools.cache
def dense_hessian():
    """Of the divergence of `make_case()`, by the unrolling by hand. Compiling it takes six times as
    long as running its operations one by one."""
    case = make_case()
    flat, unravel = ravel_pytree(case.params)
    return np.asarray(jax.hessian(lambda x: oracle(jnp, case, unravel(x))[1])(flat))


@pytest.mark.parametrize("curvature", ["hvp", "gauss_newton"])
def test_curvature_through_time_is_the_dense_hessian(curvature):
    with jax.enable_x64(True):
        case, dense = make_case(), dense_hessian()
        flat, unravel = ravel_pytree(case.params)
        vectors = jnp.asarray(rng.normal(size=(3, flat.size)))
        for chunk_size in (None, 2):
            product = curvature_product(
                case.objective, case.params, case.batch, curvature=curvature, chunk_size=chunk_size
            )
            product = jax.jit(product)
            for vector in vectors:
                found = ravel_pytree(product(unravel(vector)))[0]
                gap = jnp.linalg.norm(found - dense @ vector) / jnp.linalg.norm(dense @ vector)
                assert gap < 1e-8


def test_a_step_is_the_one_computed_by_hand():
    """Natural gradient from the dense Hessian; divergence and gain of the step by NumPy."""
    with jax.enable_x64(True):
        case, damping, max_kl = make_case(), 0.1, 0.01
        flat, unravel = ravel_pytree(case.params)
        params, info = trust_region_step(
            case.objective,
            case.params,
            case.batch,
            max_kl=max_kl,
            damping=damping,
            cg_iterations=flat.size,
            cg_tol=1e-14,
            dtype="float64",
        )
        gradient = jax.grad(lambda x: oracle(jnp, case, unravel(x))[0])(flat)
        damped = dense_hessian() + damping * np.eye(flat.size)
        x = np.linalg.solve(damped, np.asarray(gradient))
        full = np.sqrt(2 * max_kl / (x @ damped @ x)) * x
        assert info.accepted
        taken = np.asarray(ravel_pytree(params)[0] - flat)
        np.testing.assert_allclose(taken, float(info.step_fraction) * full, rtol=1e-6, atol=1e-9)
        surrogate, divergence = oracle(np, case, jax.tree.map(np.asarray, params))
        np.testing.assert_allclose(info.improvement, surrogate, rtol=1e-8)
        np.testing.assert_allclose(info.kl, divergence, rtol=1e-8)
        assert divergence <= max_kl


@pytest.mark.parametrize("memory", list(CELLS))
def test_gauss_newton_is_hvp_and_micro_batches_change_nothing(memory):
    with jax.enable_x64(True):
        case = make_case(memory)
        vector = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), case.params)
        products = [
            curvature_product(
                case.objective, case.params, case.batch, curvature=curvature, chunk_size=chunk_size
            )(vector)
            for curvature in ("hvp", "gauss_newton")
            for chunk_size in (None, 1, 2)
        ]
        moved = trees.add_scaled(case.params, 0.1, vector)
        results = [
            evaluation(case.objective, case.batch, chunk_size=chunk_size)(moved)
            for chunk_size in (None, 1, 2)
        ]
        for others in (products, results):
            for other in others[1:]:
                jax.tree.map(
                    functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12),
                    other,
                    others[0],
                )


@pytest.mark.parametrize("memory", list(CELLS))
def test_resets_in_the_middle_are_the_episodes_apart(memory):
    with jax.enable_x64(True):
        case = make_case(memory)
        examples = case.batch.policy_obs
        together = on_examples(case.policy)(case.params, examples).logits
        fresh = trees.cast(case.policy.initial_carry(1), jnp.float64)
        for n in range(N):
            carry = jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], examples.carry)
            ends = [*np.flatnonzero(examples.reset[n]), T]
            for first, last in zip([0, *ends], ends, strict=False):
                if first < last:
                    one = jnp.zeros((last - first, 1), bool)
                    obs = examples.obs[n, first:last, None]
                    begins = carry if first == 0 and not examples.reset[n, 0] else fresh
                    alone, _ = case.policy.apply(case.params, begins, obs, one)
                    np.testing.assert_allclose(
                        together[n, first:last], alone.logits[:, 0], rtol=1e-12, atol=1e-14
                    )


@pytest.mark.parametrize(("memory", "theirs"), [("gru", nn.GRUCell), ("lstm", nn.LSTMCell)])
def test_cells_are_those_of_flax(memory, theirs):
    cell, foreign = CELLS[memory](SIZE), theirs(SIZE)
    x = jnp.asarray(rng.normal(size=(T, N, OBS)), jnp.float32)
    carry = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), cell.initial_carry(N)
    )
    params = cell.init(KEY, carry, x, jnp.zeros((T, N), bool))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params
    )["params"]
    w, b, u = params["inputs"]["kernel"], params["inputs"]["bias"], params["recurrent"]
    block = lambda tree, i: tree[..., i * SIZE : (i + 1) * SIZE]  # noqa: E731
    names = "rzn" if memory == "gru" else "ifog"
    given = {}
    for i, name in enumerate(names):
        given[f"i{name}"] = {"kernel": block(w, i)}
        given[f"h{name}"] = {"kernel": block(u, i)}
        given["i" + name if memory == "gru" else "h" + name]["bias"] = block(b, i)
    if memory == "gru":
        given["hn"]["bias"] = params["candidate_bias"]
    outputs, last = cell.apply({"params": params}, carry, x, jnp.zeros((T, N), bool))
    for t in range(T):
        carry, output = foreign.apply({"params": given}, carry, x[t])
        np.testing.assert_allclose(outputs[t], output, rtol=1e-4, atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), last, carry)


def test_a_parallel_scan_is_the_recurrence():
    factor, added, h = rng.uniform(size=(9, 2)), rng.normal(size=(9, 2)), rng.normal(size=2)
    found = linear_recurrence(*(jnp.asarray(x, jnp.float32) for x in (factor, added, h)))
    for t in range(9):
        h = factor[t] * h + added[t]
        np.testing.assert_allclose(found[t], h, rtol=1e-5)


def test_the_carry_of_a_rollout_is_that_of_act(agent, rolled):
    """Step by step through the recorded observations; a carry is fresh where an episode ended, and
    the others are not touched."""
    start, end, trajectory = rolled
    fresh, carry = np.asarray(agent.initial_carry(4)), start.actor.carry.policy
    ended = 0
    for t in range(CONFIG.num_steps):
        action, carry = agent.act(start, KEY, trajectory.obs[t], deterministic=True, carry=carry)
        modes = trajectory.distribution.logits[t].argmax(-1)
        np.testing.assert_array_equal(action, modes)
        done = np.asarray(trajectory.terminated[t] | trajectory.truncated[t])
        ended += done.sum()
        carry = jnp.asarray(np.where(done[:, None], fresh, carry))
    assert ended
    np.testing.assert_allclose(carry, end.actor.carry.policy, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(trajectory.carry.policy, start.actor.carry.policy)
    assert np.abs(start.actor.carry.policy).min() > 0  # it began with memories, not with zeros


def test_the_value_after_a_truncation_knows_its_episode():
    """V(final observation) with everything taken in before it, and before the reset."""
    cell = CELLS["gru"](SIZE)
    critic = make_recurrent_critic(Body(((OBS,),), (SIZE,), "tanh"), cell)
    params = critic.init(KEY, jnp.zeros(OBS))
    obs, following = (jnp.asarray(rng.normal(size=(N, T, OBS)), jnp.float32) for _ in range(2))
    reset = jnp.zeros((N, T), bool).at[1, 3].set(True)
    carry = jnp.asarray(rng.normal(size=(N, SIZE)), jnp.float32)
    value, next_value, last = values_of_both(
        critic, params, Sequences(obs, reset, carry), following
    )
    h, no = carry, jnp.zeros((1, N), bool)
    for t in range(T):
        expected, h = critic.apply(params, h, obs[None, :, t], reset[None, :, t])
        np.testing.assert_allclose(value[:, t], expected[0], rtol=1e-5, atol=1e-6)
        expected, _ = critic.apply(params, h, following[None, :, t], no)
        np.testing.assert_allclose(next_value[:, t], expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, h, rtol=1e-5, atol=1e-6)


def test_an_update_is_on_policy_and_keeps_its_bound(agent, rolled):
    start, end, trajectory = rolled
    state, metrics = agent.learn(end, trajectory)
    assert metrics.accepted
    assert 0 < metrics.kl <= 0.01
    assert metrics.on_policy_gap < 1e-5
    assert not np.array_equal(state.actor.carry.critic, start.actor.carry.critic)
    np.testing.assert_array_equal(state.actor.carry.policy, end.actor.carry.policy)


def test_data_with_another_memory_is_refused(agent, rolled):
    """The log-probabilities of the rollout no longer belong to the histories."""
    start, end, trajectory = rolled
    params = jax.tree.map(lambda leaf: 3 * leaf, start.policy_params)
    loud = start.replace(policy_params=params)
    end, trajectory = agent.rollout(loud)
    forged = trajectory.carry.replace(policy=1 - trajectory.carry.policy)
    state, metrics = agent.learn(end, trajectory.replace(carry=forged))
    assert metrics.alarms.off_policy
    trees_equal(state.policy_params, params)
    trees_equal(state.actor.carry, end.actor.carry)


def trees_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_batch_is_sequences_in_the_order_of_environments(agent, rolled):
    _, end, trajectory = rolled
    reward, hparams = trajectory.reward, trpo_jax.HParams().as_arrays()
    batch = jax.jit(functools.partial(prepare_batch, agent.parts))(
        end, trajectory, reward, hparams
    ).batch
    np.testing.assert_array_equal(batch.obs, np.swapaxes(trajectory.obs, 0, 1))
    np.testing.assert_array_equal(batch.action, trajectory.action.T)
    begins = np.asarray(trajectory.episode_length == 1).T
    assert begins[:, 1:].any()
    np.testing.assert_array_equal(batch.starts.reset, begins)


def test_seeds_by_vmap_are_the_seeds_alone(agent):
    keys = jax.random.split(KEY, 2)
    states, one = jax.vmap(agent.init)(keys), agent.init(keys[1])
    update = jax.jit(jax.vmap(agent.update))
    for _ in range(2):
        states, metrics = update(states)
        one, alone = agent.update(one)
        np.testing.assert_allclose(metrics.kl[1], alone.kl, rtol=1e-4)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    for name in ("policy_params", "actor"):
        lane = jax.tree.map(lambda leaf: leaf[1], getattr(states, name))
        jax.tree.map(close, lane, getattr(one, name))


def test_rematerialization_changes_nothing(agent, rolled):
    _, end, trajectory = rolled
    frugal = make_trpo(hidden_cartpole(), CONFIG.replace(rematerialize=True))
    states = [each.learn(end, trajectory)[0] for each in (agent, frugal)]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    for name in ("policy_params", "value_params"):
        jax.tree.map(close, *(getattr(state, name) for state in states))


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": "cpo"}, {"algorithm": "lagrangian"}, {"critic_memory": False}],
    ids=str,
)
def test_limits_and_critics_of_the_present(changes):
    config = CONFIG.replace(num_steps=19, **changes)  # ends in mid-episode
    agent = make_trpo(TwoStates(), config)
    hparams = trpo_jax.HParams(cost_limit=2.0)
    state, first = agent.update(agent.init(KEY), hparams)
    state, second = agent.update(state, hparams)
    for metrics in (first, second):
        assert metrics.on_policy_gap < 1e-5
        assert metrics.kl <= 0.01
    remembering = changes.get("critic_memory", True)
    assert (state.actor.carry.critic is None) != remembering
    if "algorithm" in changes:
        assert np.abs(state.actor.carry.cost_critic).max() > 0
        assert np.isfinite(second.cost_estimate)


def test_environments_on_the_host_begin_with_fresh_memories():
    """The memories of a rollout are those of `act` along what was recorded, and a reset row of the
    simulators takes no step of them."""
    agent = make_trpo(make_env("gymnasium/CartPole-v1", observe=(0, 2)), CONFIG)
    state, _ = agent.update(agent.init(KEY))
    end, trajectory = agent.rollout(state)
    carry, ended = state.actor.carry.policy, 0
    assert trajectory.valid.all()
    for t in range(CONFIG.num_steps):
        _, carry = agent.act(state, KEY, trajectory.obs[t], deterministic=True, carry=carry)
        done = np.asarray(trajectory.terminated[t] | trajectory.truncated[t])
        ended += done.sum()
        carry = jnp.where(done[:, None], 0, carry)
    assert ended
    np.testing.assert_allclose(carry, end.actor.carry.policy, rtol=1e-5, atol=1e-6)
    _, metrics = agent.learn(end, trajectory)
    assert metrics.on_policy_gap < 1e-5
    assert metrics.kl <= 0.01


def test_evaluation_begins_with_fresh_memories(agent, rolled):
    start, end, _ = rolled
    forgetful = end.replace(policy_params=start.policy_params)
    trees_equal(*(agent.evaluate(each, KEY, 4) for each in (start, forgetful)))


def running_sum(after=lambda logits, carry: (trpo_jax.Categorical(logits), carry)):
    """A policy of one's own: the logits are a running sum of what was seen."""

    def apply(params, carry, obs, reset):
        def step(h, row):
            x, anew = row
            h = jnp.where(anew[:, None], 0, h) + x @ params["w"]
            return h, h

        carry, logits = jax.lax.scan(step, carry, (obs, reset))
        return after(logits, carry)

    return trpo_jax.RecurrentPolicy(
        init=lambda key, obs: {"w": 0.1 * jax.random.normal(key, (*obs.shape, 2))},
        initial_carry=lambda n: jnp.zeros((n, 2)),
        apply=apply,
    )


def test_own_recurrent_policies_are_checked():
    env, config = hidden_cartpole(), CONFIG.replace(memory="none")
    faults = {
        r"policy.apply returns a Categorical; .*\(distribution, carry\)": running_sum(
            lambda logits, carry: trpo_jax.Categorical(logits)
        ),
        "returns a carry of": running_sum(
            lambda logits, carry: (trpo_jax.Categorical(logits), carry[0])
        ),
        r"must begin with \[2, 3\]": running_sum(
            lambda logits, carry: (trpo_jax.Categorical(logits[-1]), carry)
        ),
    }
    for message, policy in faults.items():
        with pytest.raises(ValueError, match=message):
            make_trpo(env, config, policy=policy)
    with pytest.raises(ValueError, match=r"value_minibatch_size=8 must be whole sequences.*16"):
        make_trpo(env, config.replace(value_minibatch_size=8), policy=running_sum())


def test_an_own_recurrent_policy_learns_beside_a_critic_without_memory():
    agent = make_trpo(hidden_cartpole(), CONFIG.replace(memory="none"), policy=running_sum())
    state, metrics = agent.update(agent.init(KEY))
    assert state.actor.carry.critic is None
    assert metrics.accepted
    assert metrics.on_policy_gap < 1e-5


class OwnCell(nn.Module):
    @nn.compact
    def __call__(self, carry, obs):
        carry, x = nn.GRUCell(4)(carry, nn.Dense(4)(obs))
        return carry, nn.Dense(2)(x)

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], 4))


def test_an_own_flax_cell_is_unrolled_with_resets():
    env = hidden_cartpole()
    policy = trpo_jax.policy_from_flax(OwnCell(), env.action_space)
    params = jax.vmap(policy.init, in_axes=(0, None))(jax.random.split(KEY, 2), jnp.zeros(2))
    params = jax.tree.map(lambda leaf: leaf[1], params)
    obs = jnp.asarray(rng.normal(size=(T, N, 2)), jnp.float32)
    reset = jnp.zeros((T, N), bool).at[2, 1].set(True)
    distribution, last = policy.apply(params, policy.initial_carry(N), obs, reset)
    carry = jnp.zeros((N, 4))
    for t in range(T):
        carry = carry.at[1].set(0) if t == 2 else carry
        carry, logits = OwnCell().apply(params, carry, obs[t])
        np.testing.assert_allclose(distribution.logits[t], logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(last, carry, rtol=1e-4, atol=1e-6)
    config = CONFIG.replace(memory="none", curvature="hvp")
    assert make_trpo(env, config, policy=policy).initial_carry(2).shape == (2, 4)


class OwnNNX(nnx.Module):
    def __init__(self, outputs, rngs):
        self.cell = nnx.GRUCell(2, 4, rngs=rngs)
        self.head = nnx.Linear(4, outputs, rngs=rngs)

    def __call__(self, carry, obs):
        carry, x = self.cell(carry, obs)
        return carry, self.head(x)

    def initialize_carry(self, input_shape, rngs):
        return self.cell.initialize_carry(input_shape, rngs)


def test_own_nnx_cells_are_policy_and_critic():
    env = hidden_cartpole()
    policy = trpo_jax.policy_from_flax(lambda rngs: OwnNNX(2, rngs), env.action_space)
    critic = trpo_jax.critic_from_flax(lambda rngs: OwnNNX(1, rngs))
    agent = make_trpo(env, CONFIG.replace(memory="none"), policy=policy, critic=critic)
    state = agent.init(KEY)
    module = OwnNNX(2, nnx.Rngs(0))
    obs = jnp.asarray(rng.normal(size=(T, N, 2)), jnp.float32)
    params = nnx.state(module)
    given = {"/".join(map(str, p)): leaf[...] for p, leaf in nnx.to_flat_state(params)}
    reset = jnp.zeros((T, N), bool).at[2, 1].set(True)
    distribution, last = policy.apply({"params": given}, policy.initial_carry(N), obs, reset)
    carry = jnp.zeros((N, 4))
    for t in range(T):
        carry = carry.at[1].set(0) if t == 2 else carry
        carry, logits = module(carry, obs[t])
        np.testing.assert_allclose(distribution.logits[t], logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(last, carry, rtol=1e-4, atol=1e-6)
    state, metrics = agent.update(state)
    assert state.actor.carry.critic.shape == (4, 4)
    assert metrics.on_policy_gap < 1e-5
    assert metrics.accepted


@pytest.mark.parametrize("memory", list(CELLS))
def test_exported_policies_remember(memory, tmp_path):
    """Three steps in every format, against `act`."""
    own = make_trpo(hidden_cartpole(), CONFIG.replace(memory=memory))
    state = own.init(KEY)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), state.policy_params
    )
    state = state.replace(policy_params=params)
    files = {name: trpo_jax.export_policy(own, state, tmp_path / "p", name) for name in FORMATS}
    run = {
        "numpy": NumpyPolicy(files["numpy"]),
        "stablehlo": jax.export.deserialize(files["stablehlo"].read_bytes()).call,
    }
    session = onnxruntime.InferenceSession(str(files["onnx"]))
    run["onnx"] = lambda **given: session.run(None, given)
    carry = own.initial_carry(3)
    names = ["carry"] if memory != "lstm" else ["carry/0", "carry/1"]
    held = {name: [np.zeros((3, 4), np.float32)] * len(names) for name in run}
    for _ in range(3):
        obs = rng.normal(size=(3, 2)).astype(np.float32)
        action, carry = own.act(state, KEY, obs, deterministic=True, carry=carry)
        for name, policy in run.items():
            given = dict(zip(names, map(np.asarray, held[name]), strict=True))
            chosen, *held[name] = policy(obs=obs, **given)
            np.testing.assert_array_equal(chosen, action)
            for one, other in zip(held[name], jax.tree.leaves(carry), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_bad_input(agent, rolled):
    state, obs = rolled[0], jnp.zeros((3, 2))
    with pytest.raises(ValueError, match=r"act has no carry for 3.*agent.initial_carry\(3\)"):
        agent.act(state, KEY, obs)
    with pytest.raises(ValueError, match=r"carry of shape \(2, 4\) for 3 observations"):
        agent.act(state, KEY, obs, carry=agent.initial_carry(2))
    with pytest.raises(ValueError, match="n=0"):
        agent.initial_carry(0)
    with pytest.raises(ValueError, match=r"value_minibatch_size=40 must be whole sequences"):
        CONFIG.replace(value_minibatch_size=40)
    with pytest.raises(
        ValueError, match=r"value_minibatch_size=48 does not divide.*16 or 32 or 64"
    ):
        CONFIG.replace(value_minibatch_size=48)
    with pytest.raises(ValueError, match="memory='rnn' is unknown; use one of none, gru"):
        CONFIG.replace(memory="rnn")
    other = make_trpo(hidden_cartpole(), CONFIG.replace(memory_size=5))
    with pytest.raises(ValueError, match=r"state.actor.carry.policy has shape \(4, 4\)"):
        other.update(state)
    plain = make_trpo(hidden_cartpole(), CONFIG.replace(memory="none"))
    assert plain.initial_carry(3) is None
    assert plain.act(plain.init(KEY), KEY, obs, carry=None).shape == (3,)
    with pytest.raises(ValueError, match="the policy has no memory"):
        plain.act(plain.init(KEY), KEY, obs, carry=jnp.zeros((3, 4)))
    assert CONFIG.minibatch_size % CONFIG.num_steps == 0


TWO_DEVICES = """
import jax, numpy as np, trpo_jax
env = trpo_jax.make_env("CartPole-v1", observe=(0, 2))
config = trpo_jax.TRPOConfig(
    num_envs=4, num_steps=16, hidden_sizes=(4,), memory="gru", memory_size=4, cg_iterations=3,
    value_epochs=1,
)
agent = trpo_jax.make_trpo(env, config)
alone = agent.init(jax.random.key(0))
together = trpo_jax.shard_state(alone, jax.make_mesh((2,), ("devices",)))
for _ in range(3):
    alone, metrics = agent.update(alone)
    together, its_metrics = agent.update(together)
    assert metrics.accepted and its_metrics.accepted
carry = together.actor.carry.policy
assert len(carry.sharding.device_set) == 2 and not carry.is_fully_replicated
leaves = [jax.tree.leaves(state.policy_params) for state in (alone, together)]
for one, other in zip(*leaves, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
np.testing.assert_allclose(alone.actor.carry.policy, carry, rtol=1e-3, atol=1e-4)
"""


def test_two_devices_are_one():
    with_devices(2, TWO_DEVICES)


def test_a_run_with_memory_is_resumed_bit_for_bit(tmp_path):
    """The carries are in the checkpoint."""
    settings = [
        *("CartPole-v1", "--memory", "gru", "--memory-size", "4", "--hidden-sizes", "4"),
        *("--num-envs", "4", "--num-steps", "16", "--cg-iterations", "3", "--value-epochs", "1"),
        *("--eval-every", "0", "--eval-episodes", "2", "--no-tensorboard"),
    ]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main(["train", *settings, "--total-steps", "384", "--out", str(whole)])
    main(["train", *settings, "--total-steps", "192", "--out", str(parts)])
    main(["train", "--resume", str(parts), "--total-steps", "384"])
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()
    states = [trpo_jax.load_run(path)[1] for path in (whole, parts)]
    trees_equal(*(state.actor.carry for state in states))
    trees_equal(*(state.policy_params for state in states))
    main(["render", str(whole)])
    assert list(whole.rglob("*.gif"))


def test_a_float64_solve_with_memory_takes_nearly_the_same_step(agent, rolled):
    _, end, trajectory = rolled
    exact = make_trpo(hidden_cartpole(), CONFIG.replace(solver_dtype="float64"))
    steps = [each.learn(end, trajectory)[0].policy_params for each in (agent, exact)]
    moved = jax.tree.map(lambda new, old: new - old, steps[0], end.policy_params)
    gap = jax.tree.map(lambda one, other: one - other, *steps)
    assert 0 < trees.norm(gap) < 1e-2 * trees.norm(moved)
