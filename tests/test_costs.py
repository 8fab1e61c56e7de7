"""Costs: recorded, summed per episode, turned into advantages, and limited."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from constrained_mdp import HORIZON, TwoStates, optimum

import trpo_jax
from trpo_jax import (
    ConstraintCase,
    Discrete,
    Environment,
    EnvStep,
    HParams,
    PolicyStep,
    TRPOConfig,
    cpo_step,
    lagrangian_step,
    make_trpo,
)
from trpo_jax.learner.batch import prepare_batch
from trpo_jax.learner.constrained import MultiplierState, first_multiplier, next_multiplier


class TwoCosts(Environment):
    """Seven steps an episode, or fewer; two named costs, of the action and of the time."""

    name = "two-costs"
    obs_shape = (2,)
    action_space = Discrete(2)
    max_episode_steps = 7

    def __init__(self, cost="named"):
        self.cost = cost

    def reset(self, key):
        state = jnp.int32(0), jax.random.uniform(key)
        return state, self._obs(state)

    def step(self, key, state, action):
        time, bit = state[0] + 1, state[1]
        state = time, bit
        parts = {"action": 1.0 * action, "time": 0.1 * time}
        cost = {"named": parts, "scalar": sum(parts.values()), "none": None}[self.cost]
        ends = jax.random.bernoulli(key, 0.1)
        return state, EnvStep(
            self._obs(state), jnp.float32(action == (bit > 0.5)), ends,
            time >= self.max_episode_steps, cost=cost,
        )  # fmt: skip

    def _obs(self, state):
        return jnp.stack([state[0] / 7.0, state[1]])


SMALL = TRPOConfig(num_envs=4, num_steps=32, hidden_sizes=(8,), value_epochs=2)


def env(cost, made={}):  # noqa: B006 - one object each, so that nothing compiles twice
    if cost not in made:
        made[cost] = TwoCosts(cost)
    return made[cost]


@pytest.fixture(scope="module")
def cpo():
    return make_trpo(env("named"), SMALL.replace(algorithm="cpo"))


@pytest.fixture(scope="module")
def rolled(cpo):
    """A state, the state after two rollouts, and both trajectories."""
    state = cpo.init(jax.random.key(0))
    middle, first = cpo.rollout(state)
    return state, *cpo.rollout(middle), first


def test_costs_are_summed_by_episode_and_name(rolled):
    """Against a loop in NumPy over two rollouts, with episodes that go on from one to the other."""
    _, _, second, first = rolled
    both = jax.tree.map(lambda *leaves: np.concatenate(leaves), first, second)
    assert set(both.costs) == {"action", "time"}
    np.testing.assert_allclose(both.costs["action"], both.action)
    for name, steps in both.costs.items():
        for n in range(SMALL.num_envs):
            total = 0.0
            for t in range(2 * SMALL.num_steps):
                total += steps[t, n]
                assert both.episode_costs[name][t, n] == pytest.approx(total, rel=1e-5)
                if both.terminated[t, n] or both.truncated[t, n]:
                    total = 0.0


def test_metrics_of_the_costs(cpo):
    """Episode costs, the estimate Ĵ_C = cost per step · L̄, and L̄, against NumPy."""
    state = cpo.init(jax.random.key(1))
    assert state.actor.episodes.costs.mean_length == 7
    mean_length, any_ended = 7.0, False
    for _ in range(3):
        _, trajectory = cpo.rollout(state)
        state, metrics = cpo.update(state)
        done = np.asarray(trajectory.terminated | trajectory.truncated)
        lengths = np.asarray(trajectory.episode_length)[done]
        weight = done.sum() / (done.sum() + 8) if any_ended else 1.0
        mean_length += weight * (lengths.mean() - mean_length)
        any_ended = True
        per_step = sum(np.asarray(each).mean() for each in trajectory.costs.values())
        by_name = {name: np.asarray(x)[done].mean() for name, x in trajectory.episode_costs.items()}
        np.testing.assert_allclose(metrics.mean_length, mean_length, rtol=1e-5)
        np.testing.assert_allclose(metrics.cost_estimate, per_step * mean_length, rtol=1e-5)
        np.testing.assert_allclose(metrics.episode_cost, sum(by_name.values()), rtol=1e-5)
        assert metrics.episode_costs.keys() == by_name.keys()
        for name, value in by_name.items():
            np.testing.assert_allclose(metrics.episode_costs[name], value, rtol=1e-5)
        violation = per_step - 25.0 / mean_length
        np.testing.assert_allclose(metrics.constraint.violation, violation, rtol=1e-4)


def test_without_an_end_of_an_episode_the_estimate_is_that_of_the_steps():
    """A batch in which no episode ends must not count as cost 0."""
    agent = make_trpo(env("scalar"), SMALL.replace(algorithm="cpo", num_envs=32, num_steps=1))
    state, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    kept = trajectory.replace(terminated=jnp.zeros((1, 32), bool))
    _, metrics = agent.learn(state, kept, HParams(cost_limit=0.5))
    assert metrics.num_episodes == 0
    np.testing.assert_allclose(
        metrics.cost_estimate, 7 * np.mean(trajectory.costs["cost"]), rtol=1e-5
    )
    assert metrics.constraint.violation > 0
    assert metrics.episode_cost == -np.inf


def test_advantages_of_the_costs_are_centred_and_never_scaled(cpo, rolled):
    _, state, trajectory, _ = rolled
    hparams = HParams(cost_gamma=0.9, cost_gae_lambda=0.8, cost_limit=2.0, gamma=0.5)
    prepared = prepare_batch(cpo.parts, state, trajectory, trajectory.reward, hparams)
    costs = prepared.batch.costs
    critic = functools.partial(cpo.critic.apply, state.cost_critic.params)
    values = [np.asarray(jax.vmap(critic)(seen)) for seen in (trajectory.obs, trajectory.next_obs)]
    cost = sum(np.asarray(each, float) for each in trajectory.costs.values())
    advantage = np.zeros_like(cost)
    for n in range(SMALL.num_envs):
        later = 0.0
        for t in reversed(range(SMALL.num_steps)):
            terminated, truncated = trajectory.terminated[t, n], trajectory.truncated[t, n]
            delta = cost[t, n] + 0.9 * (1 - terminated) * values[1][t, n] - values[0][t, n]
            later = delta + 0.9 * 0.8 * (1 - terminated) * (1 - truncated) * later
            advantage[t, n] = later
    flat = advantage.T.ravel()
    np.testing.assert_allclose(costs.advantage, flat - flat.mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(costs.value_target, (advantage + values[0]).T.ravel(), rtol=1e-4)
    excess = cost.T.ravel() - 2.0 / np.asarray(costs.mean_length)
    np.testing.assert_allclose(costs.excess, excess, rtol=1e-5)


def test_recording_costs_changes_nothing_else():
    """TRPO among costs: the same numbers, bit for bit, and no critic of the costs."""
    results = []
    for kind in ("none", "named"):
        agent = make_trpo(env(kind), SMALL)
        state, history = agent.train(agent.init(jax.random.key(0)), num_updates=2)
        results.append((state, history))
    (plain, _), (costly, history) = results
    assert costly.cost_critic is None
    assert history.cost_value_loss is None
    assert history.constraint is None
    assert np.isfinite(history.episode_cost).all()
    for name in ("policy_params", "value_params", "key"):
        ours, theirs = (jax.tree.leaves(getattr(state, name)) for state in (costly, plain))
        for left, right in zip(ours, theirs, strict=True):
            assert (left == right).all()


def test_a_state_without_costs_has_no_trace_of_them():
    """So that checkpoints of earlier versions can be read."""
    state = make_trpo(env("none"), SMALL).init(jax.random.key(0))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert not any("cost" in path for path in paths)
    assert "cost" not in str(jax.tree.structure(state))


def test_evaluation_sums_the_costs(cpo):
    stats = cpo.evaluate(cpo.init(jax.random.key(0)), jax.random.key(1), num_episodes=6)
    time = np.array([0.1 * n * (n + 1) / 2 for n in np.asarray(stats.lengths)])
    np.testing.assert_allclose(stats.costs_by_name["time"], time, rtol=1e-5)
    np.testing.assert_allclose(stats.costs, sum(stats.costs_by_name.values()), rtol=1e-6)


class SpoiltCost(TwoCosts):
    """A cost that is NaN at every third step."""

    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        return state, step._replace(cost=jnp.where(state[0] == 3, jnp.nan, 1.0))


def test_a_cost_that_is_not_finite_makes_its_step_invalid():
    agent = make_trpo(SpoiltCost("scalar"), SMALL.replace(algorithm="cpo"))
    state, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    spoilt = np.asarray(trajectory.episode_length) == 3
    np.testing.assert_array_equal(trajectory.valid, ~spoilt)
    ended = np.asarray(trajectory.truncated | trajectory.terminated)
    assert ended[spoilt].all()
    _, metrics = agent.learn(state, trajectory)
    assert np.isfinite(metrics.cost_estimate)
    assert metrics.alarms.invalid_data


@pytest.mark.parametrize("algorithm", ["cpo", "lagrangian"])
def test_an_algorithm_with_a_limit_needs_costs(algorithm):
    with pytest.raises(ValueError, match=f"algorithm='{algorithm}' limits costs, and two-costs"):
        make_trpo(env("none"), SMALL.replace(algorithm=algorithm))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="policy_step uses costs"):
        make_trpo(env("none"), SMALL, policy_step=lagrangian_step())
    with pytest.raises(ValueError, match="line_search=False"):
        make_trpo(env("named"), SMALL.replace(algorithm="cpo", line_search=False))
    step = PolicyStep(init=lambda params: (), apply=cpo_step().apply)
    agent = make_trpo(env("named"), SMALL, policy_step=step)
    state = agent.init(jax.random.key(0))
    with pytest.raises(ValueError, match="uses_costs=True"):
        agent.update(state)
    # A policy step of one's own takes the place of the algorithm's.
    own = make_trpo(env("none"), SMALL.replace(algorithm="cpo"), policy_step=lambda *_: None)
    assert own.parts.own == ("policy_step",)


class Announced(TwoCosts):
    costs = ("other",)


class Nested(TwoCosts):
    def step(self, key, state, action):
        state, step = super().step(key, state, action)
        return state, step._replace(cost={"a": jnp.zeros(2)})


@pytest.mark.parametrize(
    ("made", "message"), [(Announced, r"costs=\('other',\)"), (Nested, r"cost\['a'\] of shape")]
)
def test_costs_are_checked_before_anything_is_traced(made, message):
    with pytest.raises(ValueError, match=message):
        make_trpo(made(), SMALL)


def test_the_multiplier_is_under_pid_control():
    """Against the same in Python; the integral is clamped, and only a rising cost brakes."""
    hparams = HParams(
        cost_limit=10.0, multiplier_proportional=0.3, multiplier_integral=0.05,
        multiplier_derivative=0.2, max_multiplier=4.0,
    )  # fmt: skip
    state, integral, last = first_multiplier(), 0.0, np.inf
    for cost in (30.0, 35.0, 12.0, 2.0, 0.0, 0.0, 0.0, 14.0, 200.0, 200.0, 9.0):
        state, multiplier = next_multiplier(state, jnp.float32(cost), hparams)
        integral = min(max(integral + 0.05 * (cost - 10), 0), 4)
        wanted = 0.3 * (cost - 10) + integral + 0.2 * max(cost - last, 0)
        last = cost
        assert multiplier == pytest.approx(min(max(wanted, 0), 4), abs=1e-5)
        assert 0 <= state.integral <= 4
    plain = hparams.replace(multiplier_proportional=0.0, multiplier_derivative=0.0)
    state = MultiplierState(jnp.float32(1.0), jnp.float32(0.0))
    _, multiplier = next_multiplier(state, jnp.float32(12.0), plain)
    assert multiplier == pytest.approx(1.0 + 0.05 * 2)


def test_the_multiplier_moves_when_the_step_is_rejected():
    agent = make_trpo(env("named"), SMALL.replace(algorithm="lagrangian", max_backtracks=0))
    state, trajectory = agent.rollout(agent.init(jax.random.key(0)))
    after, metrics = agent.learn(
        state, trajectory, HParams(cost_limit=0.0, max_kl=0.3, accept_ratio=1.0)
    )
    assert not metrics.accepted
    assert metrics.constraint.multiplier > 0
    assert after.policy_step_state.integral > state.policy_step_state.integral
    # Data of another version moves nothing.
    stale = trajectory.replace(policy_version=trajectory.policy_version + 1)
    after, _ = agent.learn(state, stale, HParams(cost_limit=0.0))
    assert after.policy_step_state.integral == state.policy_step_state.integral


LIMITS = (1.0, 2.5, 5.0)
UPDATES, LATE = 120, 50


@functools.cache
def trained(algorithm):
    """The constrained process at three limits in one program: settings and history."""
    config = TRPOConfig(
        num_envs=256, num_steps=16, hidden_sizes=(), algorithm=algorithm, value_epochs=3
    )
    agent = make_trpo(TwoStates(), config)
    setting = HParams(
        gamma=1.0, gae_lambda=0.97, cost_gamma=1.0, cost_gae_lambda=0.97, cg_damping=1e-3,
        max_kl=0.01, value_learning_rate=3e-2, multiplier_proportional=5.0, multiplier_integral=0.6,
    )  # fmt: skip
    hparams = HParams.stack([setting.replace(cost_limit=limit) for limit in LIMITS])
    states = jax.vmap(agent.init)(jax.random.split(jax.random.key(0), len(LIMITS)))
    train = jax.jit(jax.vmap(lambda s, h: agent.train(s, h, num_updates=UPDATES)))
    return hparams, jax.device_get(train(states, hparams)[1])


@pytest.mark.usefixtures("optimizing_compiler")
@pytest.mark.parametrize("algorithm", ["cpo", "lagrangian"])
def test_a_constrained_process_is_solved(algorithm):
    """The return of the linear program's optimum within 2 %, at no more cost than the limit.

    Means over the last policies, each of which played some thousand episodes of the same horizon,
    without discount; the interval is that of these means.
    """
    _, history = trained(algorithm)
    for i, limit in enumerate(LIMITS):
        best, _ = optimum(limit)
        returns, costs = history.episode_return[i, -LATE:], history.episode_cost[i, -LATE:]
        assert returns.mean() == pytest.approx(best, rel=0.02), limit
        assert costs.mean() <= limit + 1.96 * costs.std() / np.sqrt(LATE / 4), limit


@pytest.mark.usefixtures("optimizing_compiler")
def test_accepted_steps_of_cpo_satisfy_its_conditions():
    hparams, history = trained("cpo")
    constraint, accepted = history.constraint, history.accepted
    kl_bound = np.asarray(hparams.max_kl)[:, None]
    assert accepted.mean() > 0.9
    assert (history.kl <= kl_bound).all()
    violated = constraint.violation > 0
    bound = np.maximum(-constraint.violation, 0)
    assert (constraint.change <= bound)[accepted].all()
    assert (constraint.change < 0)[accepted & violated].all()
    assert (history.improvement > 0)[accepted & ~violated].all()
    assert set(np.unique(constraint.case)) >= {ConstraintCase.ACTIVE, ConstraintCase.PARALLEL}
    # Its linear model keeps the constraint wherever something does.
    feasible = constraint.case != ConstraintCase.RECOVERY
    whole = history.step_fraction == 1
    excess = constraint.violation + constraint.predicted_change
    assert (excess <= 1e-5)[feasible & whole].all()


def test_the_horizon_is_that_of_the_linear_program():
    assert TwoStates().max_episode_steps == HORIZON
    rising = [optimum(limit)[0] for limit in LIMITS]
    assert rising == sorted(rising)
    assert trpo_jax.check_environment(TwoStates(), max_seconds=2.0).ok
