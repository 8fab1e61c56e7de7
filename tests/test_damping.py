"""The damping that adapts itself, against the rule written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax
from trpo_jax.solver import StepStatus
from trpo_jax.solver.damping import adapted_scale

SMALL = trpo_jax.TRPOConfig(
    algorithm="trpo_adaptive_damping", num_envs=4, num_steps=16, hidden_sizes=(8,), value_epochs=1
)

JUDGED = ("status", "step_fraction", "improvement", "predicted_improvement")


def rule(scale, status, step_fraction, improvement, predicted_improvement):
    """Marquardt's rule; all arguments are Python numbers."""
    if status == StepStatus.ZERO_GRADIENT:
        return scale
    if status != StepStatus.ACCEPTED:
        return min(scale * 3 / 2, 1000)
    achieved = improvement / (predicted_improvement / step_fraction)
    if achieved > 3 / 4:
        return max(scale * 2 / 3, 1 / 1000)
    return min(scale * 3 / 2, 1000) if achieved < 1 / 4 else scale


def info_of(status, fraction, ratio):
    """A report of a step that achieved `ratio` of what was predicted for its length."""
    accepted = status == StepStatus.ACCEPTED
    blank = trpo_jax.TrustRegionInfo(
        *[jnp.float32(jnp.nan)] * len(trpo_jax.TrustRegionInfo._fields)
    )
    return blank._replace(
        status=jnp.int32(status),
        accepted=jnp.bool_(accepted),
        step_fraction=jnp.float32(fraction if accepted else 0),
        improvement=jnp.float32(0.02 * ratio if accepted else 0),
        predicted_improvement=jnp.float32(0.02 if accepted else jnp.nan),
    )


def test_the_rule_over_a_sequence_of_ratios():
    rng = np.random.default_rng(0)
    scale, expected, seen = jnp.float32(1.0), 1.0, set()
    adapt = jax.jit(adapted_scale)
    for step in range(120):
        high = 1.2 if step < 60 else 0.4  # first shrinking into its bound, then growing
        ratio, fraction = rng.uniform(0, high), 0.8 ** rng.integers(0, 4)
        status = rng.choice([*[0] * 8, 1, 2, 3, 4])
        before, info = expected, info_of(status, fraction, ratio)
        expected = rule(expected, status, fraction, 0.02 * ratio, 0.02)
        seen.add(np.sign(expected - before))
        scale = adapt(scale, info)
        np.testing.assert_allclose(scale, expected, rtol=1e-4)
    assert seen == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize(("status", "bound"), [(StepStatus.LINE_SEARCH_FAILED, 1e3), (0, 1e-3)])
def test_the_scale_stays_within_bounds(status, bound):
    scale = jnp.float32(1.0)
    for _ in range(25):
        scale = adapted_scale(scale, info_of(status, 1.0, 1.0))
    np.testing.assert_allclose(scale, bound, rtol=1e-6)


def test_an_agent_carries_it_from_update_to_update():
    """Two lanes: every step accepted and as predicted; nearly every step refused."""
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), SMALL)
    hparams = trpo_jax.HParams.stack(
        [
            trpo_jax.HParams(cg_damping=0.2, max_kl=1e-4),
            trpo_jax.HParams(cg_damping=0.2, accept_ratio=1.0, max_kl=0.5),
        ]
    )
    states = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), 2))
    run = jax.jit(jax.vmap(lambda s, h: agent.train(s, h, num_updates=8)))
    states, history = run(states, hparams)
    for lane in range(2):
        scale = 1.0
        for update in range(8):
            record = {name: getattr(history, name)[lane, update].item() for name in JUDGED}
            np.testing.assert_allclose(history.damping[lane, update], 0.2 * scale, rtol=1e-5)
            scale = rule(scale, **record)
        np.testing.assert_allclose(states.policy_step_state[lane], scale, rtol=1e-5)
    assert history.damping[0, -1] < 0.1
    assert np.asarray(history.status)[1].max() == StepStatus.LINE_SEARCH_FAILED
    assert history.damping[1].max() > 0.2


def test_stale_data_leaves_it_alone():
    agent = trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), SMALL)
    moved, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    later = moved.replace(num_updates=moved.num_updates + 1)
    after, metrics = agent.learn(later, trajectory)
    assert int(metrics.status) == StepStatus.OFF_POLICY
    assert float(after.policy_step_state) == 1.0
