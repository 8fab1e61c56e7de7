"""One program: nothing compiles twice, and everything composes."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_problems import SMALL

import trpo_jax
from trpo_jax.common import compilation

COMPILATIONS: list[str] = []


def _listen(event: str, duration: float, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILATIONS.append(event)


jax.monitoring.register_event_duration_secs_listener(_listen)


@pytest.fixture(scope="module")
def agent():
    return trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), SMALL)


def grid():
    return [
        trpo_jax.HParams(max_kl=max_kl, gamma=gamma, value_learning_rate=rate)
        for max_kl in (0.005, 0.02)
        for gamma in (0.9, 0.99)
        for rate in (1e-3, 1e-2)
    ]


def assert_close(left, right, rtol=1e-3, atol=1e-5):
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def types_of(tree):
    return jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape, is_weak(leaf)), tree)


def is_weak(leaf):
    return getattr(leaf, "weak_type", False)  # typed keys have no such thing


def test_the_counter_counts():
    """Also a program that is on disk already, which only a second session would not compile."""
    ones = jnp.ones(7)
    assert os.path.isdir(jax.config.jax_compilation_cache_dir)
    for _ in range(2):
        before = len(COMPILATIONS)
        jax.jit(lambda x: jnp.sin(x) * 3)(ones).block_until_ready()
        assert len(COMPILATIONS) == before + 1


@pytest.mark.usefixtures("optimizing_compiler")
def test_options_that_xla_has_not_are_left_out():
    """Newer versions of XLA drop options, and refuse programs that name them."""
    known = compilation.options()
    assert known == compilation.LASTING
    wanted = {**compilation.LASTING, "xla_an_option_of_the_future": True}
    assert compilation.options(wanted) == known
    program = compilation.program(lambda x: x + 1, wanted=wanted)
    assert program(jnp.float32(1)) == 2


def test_a_second_call_compiles_nothing(agent):
    hparams = trpo_jax.HParams()
    settings = [
        trpo_jax.HParams(max_kl=0.02, gamma=1, cg_damping=np.float32(0.5)),
        trpo_jax.HParams(max_kl=jnp.float32(0.03), gamma=jnp.asarray(0.95), accept_ratio=1),
        trpo_jax.HParams(max_kl=np.float64(0.03)),
    ]
    other_key, obs = jax.random.key(17), jnp.zeros((4,))
    first = agent.init(jax.random.key(0))
    after, _ = agent.update(first, hparams)
    trained, _ = agent.train(after, hparams, num_updates=2)
    agent.act(trained, other_key, obs)
    agent.evaluate(trained, other_key, num_episodes=4, max_steps=5)

    for setting in settings:
        setting.as_arrays()  # turning numbers into arrays may compile a conversion

    before = len(COMPILATIONS)
    state, _ = agent.update(after, hparams)  # the state that came out goes in again
    for setting in settings:
        state, _ = agent.update(state, setting)
        state, _ = agent.train(state, setting, num_updates=2)
    state, _ = agent.update(agent.init(other_key), hparams)
    agent.act(state, other_key, obs)
    agent.evaluate(state, other_key, num_episodes=4, max_steps=5)
    assert len(COMPILATIONS) == before


def test_the_state_keeps_its_types(agent):
    state = agent.init(jax.random.key(0))
    after, _ = agent.update(state)
    assert types_of(state) == types_of(after)
    assert not any(is_weak(leaf) for leaf in jax.tree.leaves(state))


def test_make_trpo_twice_returns_the_same_agent(agent):
    again = trpo_jax.make_trpo(
        trpo_jax.make_env("CartPole-v1"),
        trpo_jax.TRPOConfig(num_envs=4, num_steps=32, hidden_sizes=[16], value_epochs=2),
    )
    assert again is agent


def test_transformations_of_update_compose(agent):
    state, hparams = agent.init(jax.random.key(0)), trpo_jax.HParams()
    plain = state
    for _ in range(2):
        plain, _ = agent.update(plain, hparams)
    scan = lambda s, h: jax.lax.scan(lambda s, _: agent.update(s, h), s, length=2)  # noqa: E731
    scanned, _ = jax.jit(scan)(state, hparams)
    trained, history = agent.train(state, hparams, num_updates=2)
    for other in (scanned, trained):
        assert_close(plain.policy_params, other.policy_params)
        assert_close(plain.value_params, other.value_params)
    assert history.kl.shape == (2,)


def test_a_vmapped_init_equals_single_ones(agent):
    keys = jax.random.split(jax.random.key(3), 3)
    states = jax.jit(jax.vmap(agent.init))(keys)
    for lane in range(3):
        single = agent.init(keys[lane])
        assert_close(single, jax.tree.map(lambda x, i=lane: x[i], states), rtol=1e-6)


def test_a_sweep_equals_single_runs_and_its_lanes_go_on(agent):
    """Few updates, because rounding differs and training is chaotic."""
    settings = grid()
    keys = jax.random.split(jax.random.key(0), len(settings))
    states = jax.jit(jax.vmap(agent.init))(keys)
    sweep = jax.jit(jax.vmap(lambda s, h: agent.train(s, h, num_updates=2)))
    ends, history = sweep(states, trpo_jax.HParams.stack(settings))
    assert history.kl.shape == (8, 2)
    for lane, setting in enumerate(settings):
        single, _ = agent.train(agent.init(keys[lane]), setting, num_updates=2)
        lane_state = jax.tree.map(lambda x, i=lane: x[i], ends)
        assert_close(single.policy_params, lane_state.policy_params)
        assert_close(single.value_params, lane_state.value_params)
    assert len(np.unique(np.asarray(history.kl))) == 16

    picked = jax.tree.map(lambda x: x[5], ends)
    single, _ = agent.train(agent.init(keys[5]), settings[5], num_updates=2)
    assert types_of(picked) == types_of(single)
    before = len(COMPILATIONS)
    onward, metrics = agent.update(picked, settings[5])
    assert len(COMPILATIONS) == before, "a lane of a sweep is another type of state"
    assert int(onward.num_updates) == 3
    assert_close(onward.policy_params, agent.update(single, settings[5])[0].policy_params, 1e-2)
    assert float(metrics.kl) <= settings[5].max_kl


@pytest.mark.parametrize(("curvature", "chunk_size"), [("gauss_newton", None), ("hvp", 64)])
def test_a_float64_solve_under_jit_of_vmap_of_train(curvature, chunk_size):
    env = trpo_jax.make_env("CartPole-v1")
    config = SMALL.replace(curvature=curvature, chunk_size=chunk_size)
    agent = trpo_jax.make_trpo(env, config.replace(solver_dtype="float64"))
    states = jax.jit(jax.vmap(agent.init))(jax.random.split(jax.random.key(0), 2))
    hparams = trpo_jax.HParams.stack([trpo_jax.HParams(max_kl=kl) for kl in (0.005, 0.02)])
    run = jax.jit(jax.vmap(lambda s, h: agent.train(s, h, num_updates=2)))
    ends, history = run(states, hparams)
    assert types_of(ends) == types_of(states)
    assert np.asarray(history.accepted).all()
    assert np.all(np.asarray(history.kl) <= np.asarray(hparams.max_kl)[:, None])
    in_float32 = trpo_jax.make_trpo(env, SMALL)
    first_lane = jax.tree.map(lambda x: x[0], states)
    single, _ = in_float32.train(first_lane, trpo_jax.HParams(max_kl=0.005), num_updates=2)
    ours = jax.tree.map(lambda x: x[0], ends)
    assert_close(single.policy_params, ours.policy_params, 1e-2, 1e-3)
