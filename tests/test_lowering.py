"""Programs for platforms that are not here: they lower, and no loop waits for the host."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_problems import SMALL, make_problem

import trpo_jax
from trpo_jax.solver.objective import evaluation

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@functools.cache
def parts_of_an_update():
    import lowered

    return lowered.parts(trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), SMALL))


def counted(name, platform):
    import lowered

    function, *arguments = parts_of_an_update()[name]
    return lowered.counts(lowered.text(function, *arguments, platform=platform))


# Two layers. Forward: 2 products. Backward: 2 for the weights and 1 for the hidden layer.
STEP, PRODUCT, MINIBATCH = 2, (2 + 1) + 3, 2 + 3


def test_the_counter_tells_loops_apart():
    import lowered

    def both(x):
        x = jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x + x @ x, x)
        return jax.lax.fori_loop(0, 9, lambda _, x: x @ x, x)

    found = lowered.counts(lowered.text(both, jnp.ones((2, 2))))
    assert (found.products, found.counted, found.open_ended) == (2, 1, 1)


def test_products_of_the_parts_are_those_of_their_layers():
    assert counted("rollout", "cuda").products == STEP
    one, two = (
        counted(name, "cuda").products
        for name in ("curvature, linearised, and one product", "the same, and two products")
    )
    assert two - one == PRODUCT
    assert counted("value fit", "cuda").products == MINIBATCH + 2 * 2


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_an_update_has_no_loop_that_waits_for_the_host(platform):
    """Loops: the rollout, the advantages, conjugate gradients, epochs, minibatches."""
    there, here = counted("update", platform), counted("update", "cpu")
    assert (there.counted, there.open_ended) == (5, 0)
    assert here.open_ended == 2, "on CPUs, conjugate gradients and line search stop early"
    assert there.products == here.products


# Both forms of the loops give the same result; the accelerators' form is run here on the CPU.


def everywhere(monkeypatch):
    """Take the form of accelerators on this machine too."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *operands, cpu, default: default(*operands)
    )


@pytest.mark.parametrize("tol", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("broken", [False, True])
def test_a_masked_solve_equals_the_one_that_stops(monkeypatch, tol, broken):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 6))
    matrix = jnp.asarray(matrix @ matrix.T + (-9 if broken else 1) * np.eye(6), jnp.float32)
    b = jnp.asarray(rng.normal(size=6), jnp.float32)

    def solve(b):
        return trpo_jax.cg_solve(lambda v: matrix @ v, b, max_iters=9, tol=tol)

    stops = jax.jit(solve)(b)
    everywhere(monkeypatch)
    masked = jax.jit(lambda b: solve(b))(b)
    assert bool(stops.breakdown) == broken or tol == 1.0
    jax.tree.map(np.testing.assert_array_equal, stops, masked)


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, np.nan])
def test_candidates_tried_at_once_give_what_trying_in_turn_gives(monkeypatch, scale):
    problem = make_problem("gaussian")
    evaluate = evaluation(problem.objective, problem.batch)
    gradient = jax.grad(lambda params: evaluate(params)[0])(problem.params)
    step = jax.tree.map(lambda leaf: scale * leaf, gradient)

    def search(params, step):
        return trpo_jax.line_search(
            evaluate, params, step, max_kl=0.01, backtrack_factor=0.7, max_backtracks=7
        )

    in_turn = jax.jit(search)(problem.params, step)
    everywhere(monkeypatch)
    at_once = jax.jit(lambda params, step: search(params, step))(problem.params, step)
    assert int(in_turn.num_backtracks) == int(at_once.num_backtracks)
    assert bool(in_turn.accepted) == bool(at_once.accepted)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-6),
        in_turn,
        at_once,
    )
    if not in_turn.accepted:
        jax.tree.map(np.testing.assert_array_equal, at_once.params, problem.params)


# The bare program, for platforms that nobody here has.

BARE = {
    "float64": ("CartPole-v1", {}, {"solver_dtype": "float64"}),
    "L-BFGS": ("Pendulum-v1", {}, {"value_optimizer": "lbfgs", "normalize_observations": True}),
    "CNN": ("Breakout-MinAtar", {}, {}),
    "chunks": ("CartPole-v1", {}, {"chunk_size": 48, "curvature": "hvp"}),
    "brax": ("brax/inverted_pendulum", {"backend": "spring"}, {}),
    "playground": ("playground/CartpoleBalance", {"impl": "jax"}, {}),
}


@pytest.mark.parametrize("kind", BARE)
def test_the_bare_program_lowers(kind):
    import lowered

    env_id, kwargs, settings = BARE[kind]
    if kind == "playground":
        pytest.importorskip("mujoco_playground")
    agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id, **kwargs), SMALL.replace(**settings))
    state = jax.eval_shape(agent.init, jax.random.key(0))
    train = lambda state, hparams: agent.train(state, hparams, num_updates=2)  # noqa: E731
    for platform in ("cuda", "tpu"):
        found = lowered.counts(
            lowered.text(train, state, trpo_jax.HParams().as_arrays(), platform=platform)
        )
        assert found.products
