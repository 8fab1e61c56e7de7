"""Does `doctor` name the fault, and is it silent on healthy runs?

python benchmarks/doctor.py

Every fault is injected into real training, over several seeds; what the doctor's main finding is
goes into a confusion table. Healthy runs are the presets themselves.
"""

import argparse
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import report

import trpo_jax
from trpo_jax import HParams, TRPOConfig, UpdateMetrics
from trpo_jax.envs.base import Environment

HEALTHY_STEPS = 100_000
HEALTHY = (
    "CartPole-v1",
    "Acrobot-v1",
    "Pendulum-v1",
    "MountainCarContinuous-v0",
    "Catch-bsuite",
)


class Case(NamedTuple):
    """Runs of several seeds, faulty or not."""

    history: UpdateMetrics
    """[seeds, updates, ...]."""
    config: TRPOConfig
    hparams: HParams


def as_collected(trajectory: Any, previous: Any, update: jax.Array) -> Any:
    """The trajectory as it is."""
    del previous, update
    return trajectory


def train(
    env: Environment,
    config: TRPOConfig,
    hparams: HParams,
    seeds: int,
    updates: int,
    *,
    policy_step: Callable[..., Any] = trpo_jax.trust_region_step,
    spoil_state: Callable[[Any], Any] = lambda state: state,
    spoil_data: Callable[[Any, Any, jax.Array], Any] = as_collected,
) -> Case:
    """Train seeds side by side; the hooks replace the step, the start or the data.

    `spoil_data(trajectory, previous trajectory, update)` gives the trajectory that is learned from.
    """
    agent = trpo_jax.make_trpo(env, config, policy_step)

    def update(carried, number):
        state, previous = carried
        state, trajectory = agent.rollout(state)
        state, metrics = agent.learn(state, spoil_data(trajectory, previous, number), hparams)
        return (state, trajectory), metrics

    def run(key):
        first = agent.rollout(spoil_state(agent.init(key)))
        return jax.lax.scan(update, first, jnp.arange(updates))[1]

    history = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(7), seeds))
    return Case(jax.device_get(history), config, hparams)


def settings(env_id: str, **changes) -> tuple[Environment, TRPOConfig, HParams]:
    """Environment and preset with batches of 1024, and some settings changed."""
    preset = trpo_jax.get_preset(env_id)
    config, hparams = preset.config.replace(num_envs=8, num_steps=128), preset.hparams
    static = {name: value for name, value in changes.items() if hasattr(config, name)}
    traced = {name: value for name, value in changes.items() if hasattr(hparams, name)}
    return trpo_jax.make_env(env_id), config.replace(**static), hparams.replace(**traced)


def with_batch(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """A policy step on a changed batch."""

    def step(objective, params, batch, hparams, config):
        return trpo_jax.trust_region_step(objective, params, change(batch), hparams, config)

    return step


def with_objective(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """A policy step on a changed objective."""

    def step(objective, params, batch, hparams, config):
        return trpo_jax.trust_region_step(change(objective), params, batch, hparams, config)

    return step


def stale_batches(env_id: str, seeds: int, updates: int) -> Case:
    """Every update learns from the batch of the update before."""
    return train(*settings(env_id), seeds, updates, spoil_data=lambda new, old, update: old)


def wrong_sign(env_id: str, seeds: int, updates: int) -> Case:
    """The advantages have the wrong sign."""
    step = with_batch(lambda batch: batch.replace(advantage=-batch.advantage))
    return train(*settings(env_id), seeds, updates, policy_step=step)


def favoured_action(env_id: str, seeds: int, updates: int) -> Case:
    """The advantages of one action (or of large ones) are three deviations too high."""

    def favour(batch):
        action = batch.action.reshape(batch.action.shape[0], -1)[:, 0]
        favoured = action == 0 if jnp.issubdtype(action.dtype, jnp.integer) else action > 0
        return batch.replace(advantage=batch.advantage + 3.0 * favoured)

    return train(*settings(env_id), seeds, updates, policy_step=with_batch(favour))


def frozen_critic(env_id: str, seeds: int, updates: int) -> Case:
    """The learning rate of the critic is a million times too small."""
    return train(*settings(env_id, value_learning_rate=1e-9), seeds, updates)


def no_value_epochs(env_id: str, seeds: int, updates: int) -> Case:
    """The critic is not fitted at all."""
    return train(*settings(env_id, value_epochs=0), seeds, updates)


def one_cg_iteration(env_id: str, seeds: int, updates: int) -> Case:
    """One iteration of conjugate gradients: the direction is the gradient itself."""
    return train(*settings(env_id, cg_iterations=1), seeds, updates)


def two_cg_iterations(env_id: str, seeds: int, updates: int) -> Case:
    """Two iterations of conjugate gradients, and little damping."""
    return train(*settings(env_id, cg_iterations=2, cg_damping=0.01), seeds, updates)


def fisher_of_few_states(env_id: str, seeds: int, updates: int) -> Case:
    """The Fisher matrix of 8 of the 1024 states, without damping: of far too low a rank."""

    def few(objective):
        def product(outputs, tangent):
            full = objective.fisher_product(outputs, tangent)
            return jax.tree.map(lambda leaf: leaf.at[8:].set(0), full)

        return objective._replace(fisher_product=product)

    return train(*settings(env_id, cg_damping=0.0), seeds, updates, policy_step=with_objective(few))


class Repeated(Environment):
    """Every observation a hundred times over."""

    def __init__(self, env: Environment):
        self._env = env
        self.name = env.name
        self.action_space = env.action_space
        self.obs_shape = (100 * env.obs_shape[0],)
        self.max_episode_steps = env.max_episode_steps

    def reset(self, key):
        state, obs = self._env.reset(key)
        return state, jnp.tile(obs, 100)

    def step(self, key, state, action):
        state, step = self._env.step(key, state, action)
        return state, step._replace(obs=jnp.tile(step.obs, 100))


def repeated_observations(env_id: str, seeds: int, updates: int) -> Case:
    """No damping, and a hundred parameters for what one could do."""
    env, config, hparams = settings(env_id, cg_damping=0.0, cg_iterations=20)
    return train(Repeated(env), config, hparams, seeds, updates)


def dying_units(env_id: str, seeds: int, updates: int) -> Case:
    """ReLU units that begin with so negative a bias that no input reaches most of them."""

    def lowered(path, leaf):
        hidden = "bias" in jax.tree_util.keystr(path) and leaf.shape[-1] > 8
        return leaf - 20.0 * (jnp.arange(leaf.shape[-1]) % 4 > 0) if hidden else leaf

    def spoil(state):
        params = jax.tree_util.tree_map_with_path(lowered, state.policy_params)
        return state.replace(policy_params=params)

    return train(*settings(env_id, activation="relu"), seeds, updates, spoil_state=spoil)


def exploding_rewards(env_id: str, seeds: int, updates: int) -> Case:
    """Rewards double with every update."""

    def explode(trajectory, previous, update):
        factor = 2.0**update
        return trajectory.replace(
            reward=trajectory.reward * factor, episode_return=trajectory.episode_return * factor
        )

    return train(*settings(env_id), seeds, updates, spoil_data=explode)


def entropy_collapse(env_id: str, seeds: int, updates: int) -> Case:
    """The surrogate punishes entropy."""

    def punish(objective):
        def gain(outputs, batch):
            return objective.gain(outputs, batch) - 2.0 * (outputs.entropy() - batch.entropy)

        return objective._replace(gain=gain)

    return train(*settings(env_id), seeds, updates, policy_step=with_objective(punish))


def healthy(env_id: str, seeds: int, steps: int) -> Case:
    """A preset as it is."""
    preset = trpo_jax.get_preset(env_id)
    env = trpo_jax.make_env(env_id)
    return train(env, preset.config, preset.hparams, seeds, steps // preset.config.batch_size)


class Fault(NamedTuple):
    """A way to break a run."""

    inject: Callable[[str, int, int], Case]
    """(environment, seeds, updates) -> runs."""
    expected: str
    """Name of the finding that must come first."""
    env_ids: tuple[str, ...]


FAULTS = (
    Fault(stale_batches, "stale_data", ("CartPole-v1", "Pendulum-v1")),
    Fault(wrong_sign, "biased_advantages", ("CartPole-v1", "Catch-bsuite", "Pendulum-v1")),
    Fault(favoured_action, "biased_advantages", ("CartPole-v1", "Pendulum-v1")),
    Fault(frozen_critic, "untrained_critic", ("CartPole-v1", "Pendulum-v1")),
    Fault(no_value_epochs, "untrained_critic", ("CartPole-v1", "Catch-bsuite")),
    Fault(one_cg_iteration, "cg_unconverged", ("CartPole-v1", "Pendulum-v1")),
    Fault(two_cg_iterations, "cg_unconverged", ("CartPole-v1", "Acrobot-v1")),
    Fault(fisher_of_few_states, "singular_fisher", ("CartPole-v1", "Pendulum-v1")),
    Fault(repeated_observations, "singular_fisher", ("CartPole-v1", "Pendulum-v1")),
    Fault(dying_units, "inactive_units", ("CartPole-v1", "Pendulum-v1")),
    Fault(exploding_rewards, "exploding_rewards", ("CartPole-v1", "Pendulum-v1")),
    Fault(entropy_collapse, "entropy_collapse", ("CartPole-v1", "Pendulum-v1", "Catch-bsuite")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds per fault and environment")
    parser.add_argument("--updates", type=int, default=40, help="updates of a faulty run")
    parser.add_argument("--healthy-seeds", type=int, default=4)
    parser.add_argument("--healthy-steps", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "doctor.md")
    arguments = parser.parse_args()

    rows, false_alarms, healthy_runs = [], 0, 0
    for env_id in HEALTHY:
        case = healthy(env_id, arguments.healthy_seeds, arguments.healthy_steps)
        named = main_findings(case)
        rows.append(row("nothing", case, named))
        false_alarms += sum(name != "nothing severe" for name in named)
        healthy_runs += len(named)
        forget_programs()
    found = faulty_runs = 0
    for fault, env_ids in FAULTS.items():
        for env_id in env_ids:
            case = fault(env_id, arguments.seeds, arguments.updates)
            named = main_findings(case)
            rows.append(row(fault.__name__.replace("_", " "), case, named))
            found += sum(name == case.fault for name in named)
            faulty_runs += len(named)
            forget_programs()
    report.write(
        arguments.out,
        "Does the doctor name the fault?",
        f"{found} of {faulty_runs} faulty runs: the fault is the main finding. "
        f"{false_alarms} of {healthy_runs} healthy runs have a severe finding. Every run is "
        f"diagnosed by itself. Faulty runs have {arguments.updates} updates, healthy ones "
        f"{arguments.healthy_steps:,} steps with their presets.",
        report.table(HEADER, rows),
    )
    print(f"written: {arguments.out}")


def main_findings(case: Case) -> list[str]:
    """The main finding of each seed, if it is severe."""
    continuous = isinstance(trpo_jax.make_env(case.env_id).action_space, trpo_jax.Box)
    names = []
    for seed in range(case.history.kl.shape[0]):
        history = jax.tree.map(lambda leaf, i=seed: leaf[i], case.history)
        diagnosis = trpo_jax.diagnose(history, case.config, case.hparams, continuous=continuous)
        names.append(diagnosis.findings[0].name if diagnosis.severe else "nothing severe")
    return names


def row(label: str, case: Case, named: list[str]) -> list[str]:
    expected = case.fault or "nothing severe"
    others = [name for name in named if name != expected]
    count = f"{len(named) - len(others)} of {len(named)}"
    print(label, case.env_id, count, others, flush=True)
    return [label, case.env_id, str(len(named)), f"{expected}: {count}", ", ".join(others) or "–"]


def forget_programs() -> None:
    """XLA's CPU client dies when a process has compiled some hundred programs."""
    trpo_jax.make_trpo.cache_clear()
    jax.clear_caches()


if __name__ == "__main__":
    main()
