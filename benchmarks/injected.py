"""Trainings with a known fault, or none: what `doctor.py` puts before the doctor."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from problems import changed_step

import trpo_jax
from trpo_jax import HParams, TRPOConfig, UpdateMetrics
from trpo_jax.envs.base import Environment

SILENT = "nothing severe"
"""What is expected of a training without a fault."""


class Training(NamedTuple):
    """A training, faulty or not."""

    expected: str
    """The main finding that it must get."""
    env: Environment
    config: TRPOConfig
    hparams: HParams
    policy_step: Callable[..., Any] = trpo_jax.trust_region_step
    spoil_state: Callable[[Any], Any] = lambda state: state
    """First state -> the one that training begins with."""
    spoil_data: Callable[[Any, Any, jax.Array], Any] = lambda new, old, update: new
    """(trajectory, the one before, number of the update) -> what is learned from."""


def train(training: Training, seeds: int, updates: int) -> UpdateMetrics:
    """Train seeds side by side; fields [seeds, updates, ...]."""
    agent = trpo_jax.make_trpo(training.env, training.config, policy_step=training.policy_step)
    hparams = training.hparams

    def update(carried, number):
        state, previous = carried
        state, trajectory = agent.rollout(state)
        data = training.spoil_data(trajectory, previous, number)
        state, metrics = agent.learn(state, data, hparams)
        return (state, trajectory), metrics

    def run(key):
        state = training.spoil_state(agent.init(key))
        if training.expected == SILENT:  # as users do
            return agent.train(state, hparams, num_updates=updates)[1]
        return jax.lax.scan(update, agent.rollout(state), jnp.arange(updates))[1]

    history = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(7), seeds))
    return jax.device_get(history)


def settings(env_id: str, **changes) -> tuple[Environment, TRPOConfig, HParams]:
    """Environment and preset with batches of 1024, and some settings changed."""
    preset = trpo_jax.get_preset(env_id)
    config, hparams = preset.config.replace(num_envs=8, num_steps=128), preset.hparams
    static = {name: value for name, value in changes.items() if hasattr(config, name)}
    traced = {name: value for name, value in changes.items() if hasattr(hparams, name)}
    return trpo_jax.make_env(env_id), config.replace(**static), hparams.replace(**traced)


def faulty(expected: str, env_id: str, settings_changes=None, **spoiling) -> Training:
    """A training that must get this main finding."""
    return Training(expected, *settings(env_id, **settings_changes or {}), **spoiling)


def stale_batches(env_id: str) -> Training:
    """Every update learns from the batch of the update before."""
    return faulty("off_policy", env_id, spoil_data=lambda new, old, update: old)


def wrong_sign(env_id: str) -> Training:
    """The advantages have the wrong sign."""
    step = changed_step(batch=lambda batch: batch.replace(advantage=-batch.advantage))
    return faulty("biased_advantages", env_id, policy_step=step)


def favoured_action(env_id: str) -> Training:
    """The advantages of one action (or of large ones) are three deviations too high."""

    def favour(batch):
        action = batch.action.reshape(batch.action.shape[0], -1)[:, 0]
        favoured = action == 0 if jnp.issubdtype(action.dtype, jnp.integer) else action > 0
        return batch.replace(advantage=batch.advantage + 3.0 * favoured)

    return faulty("biased_advantages", env_id, policy_step=changed_step(batch=favour))


def frozen_critic(env_id: str) -> Training:
    """The learning rate of the critic is a million times too small."""
    return faulty("untrained_critic", env_id, {"value_learning_rate": 1e-9})


def no_value_epochs(env_id: str) -> Training:
    """The critic is not fitted at all."""
    return faulty("untrained_critic", env_id, {"value_epochs": 0})


def one_cg_iteration(env_id: str) -> Training:
    """One iteration of conjugate gradients: the direction is the gradient itself."""
    return faulty("cg_unconverged", env_id, {"cg_iterations": 1})


def two_cg_iterations(env_id: str) -> Training:
    """Two iterations of conjugate gradients, and little damping."""
    return faulty("cg_unconverged", env_id, {"cg_iterations": 2, "cg_damping": 0.01})


def fisher_of_few_states(env_id: str) -> Training:
    """The Fisher matrix of 8 of the 1024 states, without damping: of far too low a rank."""

    def few(objective):
        def product(outputs, tangent):
            full = objective.fisher_product(outputs, tangent)
            return jax.tree.map(lambda leaf: leaf.at[8:].set(0), full)

        return objective._replace(fisher_product=product)

    step = changed_step(objective=few)
    return faulty("singular_curvature", env_id, {"cg_damping": 0.0}, policy_step=step)


class Repeated(Environment):
    """Every observation a hundred times over."""

    def __init__(self, env: Environment):
        self._env, self.name, self.action_space = env, env.name, env.action_space
        self.obs_shape = (100 * env.obs_shape[0],)
        self.max_episode_steps = env.max_episode_steps

    def reset(self, key):
        state, obs = self._env.reset(key)
        return state, jnp.tile(obs, 100)

    def step(self, key, state, action):
        state, step = self._env.step(key, state, action)
        return state, step._replace(obs=jnp.tile(step.obs, 100))


def repeated_observations(env_id: str) -> Training:
    """No damping, and a hundred parameters for what one could do."""
    training = faulty("singular_curvature", env_id, {"cg_damping": 0.0, "cg_iterations": 20})
    return training._replace(env=Repeated(training.env))


def dying_units(env_id: str) -> Training:
    """ReLU units that begin with so negative a bias that no input reaches most of them."""

    def lowered(path, leaf):
        hidden = "bias" in jax.tree_util.keystr(path) and leaf.shape[-1] > 8
        return leaf - 20.0 * (jnp.arange(leaf.shape[-1]) % 4 > 0) if hidden else leaf

    def spoil(state):
        params = jax.tree_util.tree_map_with_path(lowered, state.policy_params)
        return state.replace(policy_params=params)

    return faulty("dead_units", env_id, {"activation": "relu"}, spoil_state=spoil)


def exploding_rewards(env_id: str) -> Training:
    """Rewards double with every update."""

    def explode(new, old, update):
        names = ("reward", "episode_return")
        return new.replace(**{name: getattr(new, name) * 2.0**update for name in names})

    return faulty("exploding_rewards", env_id, spoil_data=explode)


def entropy_collapse(env_id: str) -> Training:
    """The surrogate punishes entropy."""

    def punish(objective):
        def gain(outputs, batch):
            return objective.gain(outputs, batch) - 2.0 * (outputs.entropy() - batch.entropy)

        return objective._replace(gain=gain)

    return faulty("entropy_collapse", env_id, policy_step=changed_step(objective=punish))


class CostlyMoves(Environment):
    """An environment in which the last action costs 1, and all of them `noise` · N(0, 1)."""

    def __init__(self, env: Environment, noise: float = 0.0):
        self._env, self.name, self.action_space = env, f"{env.name} with costs", env.action_space
        self.obs_shape, self.max_episode_steps = env.obs_shape, env.max_episode_steps
        self.noise = noise

    def reset(self, key):
        return self._env.reset(key)

    def step(self, key, state, action):
        state, step = self._env.step(key, state, action)
        costly = jnp.float32(action == self.action_space.num_actions - 1)
        noise = self.noise * jax.random.normal(jax.random.fold_in(key, 1))
        return state, step._replace(cost=costly + noise)


def limited(expected: str, env_id: str, algorithm: str, noise: float = 0.0, **changes) -> Training:
    """A training with a limit of the costs that must get this main finding."""
    training = faulty(expected, env_id, {"algorithm": algorithm, "cost_limit": 0.8, **changes})
    return training._replace(env=CostlyMoves(training.env, noise))


def with_costs(training: Training, step: Any, change: Callable[[Any], Any]) -> Training:
    """The same with a changed view of the costs, in a step that takes them."""

    def apply(key, objective, params, state, batch, hparams, config):
        changed = batch.replace(costs=change(batch.costs))
        return step.apply(key, objective, params, state, changed, hparams, config)

    return training._replace(policy_step=step._replace(apply=apply))


def noisy_costs(env_id: str) -> Training:
    """Costs that are noise, a hundred times as large as what the policy can change."""
    return limited("useless_cost_critic", env_id, "cpo", noise=100.0)


def costs_of_wrong_sign(env_id: str) -> Training:
    """The advantages of the costs have the wrong sign, and the limit is out of reach at first."""
    training = limited("futile_recovery", env_id, "cpo", cost_limit=-3.0)
    step = trpo_jax.cpo_step()
    return with_costs(training, step, lambda costs: costs.replace(advantage=-costs.advantage))


def impossible_limit(env_id: str) -> Training:
    """No policy has a cost below zero."""
    return limited("infeasible", env_id, "cpo", cost_limit=-3.0)


def impossible_limit_and_multiplier(env_id: str) -> Training:
    """The same, with a multiplier that sums up the excess."""
    return limited(
        "runaway_multiplier", env_id, "lagrangian", cost_limit=-3.0, multiplier_integral=1.0
    )


def limit_of_a_step(env_id: str) -> Training:
    """The limit per episode is taken for one per step, so that it is never violated."""
    training = limited("limit_violated", env_id, "cpo", cost_limit=0.2)

    def mistake(costs):
        return costs.replace(excess=costs.excess + 0.2 / costs.mean_length - 0.2)

    return with_costs(training, trpo_jax.cpo_step(), mistake)


def keeps_its_limit(algorithm: str) -> Callable[[str], Training]:
    """A training with a limit that can be kept."""

    def healthy_at_a_limit(env_id: str) -> Training:
        return limited(SILENT, env_id, algorithm, multiplier_proportional=1.0)

    return healthy_at_a_limit


def healthy(env_id: str) -> Training:
    """A preset as it is."""
    preset = trpo_jax.get_preset(env_id)
    return Training(SILENT, trpo_jax.make_env(env_id), preset.config, preset.hparams)


_BOTH = ("CartPole-v1", "Pendulum-v1")
FAULTS: dict[Callable[[str], Training], tuple[str, ...]] = {
    **dict.fromkeys((stale_batches, favoured_action, frozen_critic, one_cg_iteration), _BOTH),
    **dict.fromkeys((fisher_of_few_states, repeated_observations, dying_units), _BOTH),
    exploding_rewards: _BOTH,
    **dict.fromkeys((wrong_sign, entropy_collapse), (*_BOTH, "Catch-bsuite")),
    no_value_epochs: ("CartPole-v1", "Catch-bsuite"),
    two_cg_iterations: ("Acrobot-v1", "CartPole-v1"),
    **dict.fromkeys((noisy_costs, costs_of_wrong_sign, impossible_limit), ("Catch-bsuite",)),
    **dict.fromkeys((impossible_limit_and_multiplier, limit_of_a_step), ("Catch-bsuite",)),
}
"""Faults, and the environments in whose training each is injected."""
