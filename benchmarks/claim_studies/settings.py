"""What is compared on what: environments, methods, and the same small tuning budget for each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import baselines
import jax

import trpo_jax
from trpo_jax import HParams, TRPOConfig
from trpo_jax.learner import PolicyStep, TrainState
from trpo_jax.solver import trust_region_step

NUM_SEEDS = 10
"""Of the runs that are reported."""
TUNING_SEEDS = 2
"""Of each setting in the tuning, which has half the updates; other seeds than the reported ones."""


class Task(NamedTuple):
    """One environment with what is the same for every method on it."""

    env_id: str
    config: TRPOConfig
    gamma: float
    num_updates: int
    """Of the reported runs; even, since tuning has half of them."""
    num_episodes: int
    """Episodes that measure the policy after every update, beside the training; 0: too dear."""
    keywords: dict

    def make_env(self):
        """The environment; the same object every time."""
        return trpo_jax.make_env(self.env_id, **self.keywords)

    def hparams(self) -> HParams:
        """What no method tunes."""
        return HParams(gamma=self.gamma)


class Method(NamedTuple):
    """A policy step with the one number that is tuned."""

    label: str
    tuned: str
    values: tuple[float, ...]
    """All that tuning tries: as many for every method, over the same range of a factor of 100."""
    make_step: Callable[[Task], Any]
    """task -> policy step."""
    changes: dict = {}  # noqa: RUF012 - never written to
    """Static settings that differ from the task's."""

    def make_agent(self, task: Task, step: Any) -> trpo_jax.Agent:
        """The agent of this method."""
        return trpo_jax.make_trpo(task.make_env(), task.config.replace(**self.changes), step)

    def set_up(self, step: Any, state: TrainState, hparams: HParams, value: jax.Array):
        """(state of a TRPO run, hparams) as this method begins, with the tuned number in them."""
        if self.tuned == "max_kl":
            return state, hparams.replace(max_kl=value)
        state = state.replace(policy_step_state=step.init(state.policy_params))
        return baselines.with_learning_rate(state, value), hparams


_IMAGES = TRPOConfig(num_envs=64, num_steps=64, network="mlp", activation="relu", value_epochs=4)
_MUJOCO = TRPOConfig(num_envs=32, num_steps=64, normalize_observations=True, normalize_rewards=True)
_SPRING = {"backend": "spring"}
_CHEETAH_STEPS = 256
"""Of an episode of halfcheetah, which never falls: one episode of each copy in every update."""

TASKS = {
    task.env_id: task
    for task in (
        Task(
            "CartPole-v1",
            TRPOConfig(num_envs=8, num_steps=256, hidden_sizes=(32, 32)),
            0.99,
            40,
            32,
            {},
        ),
        Task(
            "Acrobot-v1",
            TRPOConfig(num_envs=16, num_steps=128, hidden_sizes=(32, 32)),
            0.99,
            40,
            32,
            {},
        ),
        Task(
            "Pendulum-v1",
            TRPOConfig(num_envs=4, num_steps=256, hidden_sizes=(32, 32)),
            0.9,
            80,
            32,
            {},
        ),
        Task(
            "inverted_pendulum",
            TRPOConfig(num_envs=32, num_steps=64, hidden_sizes=(32, 32)),
            0.99,
            40,
            0,
            _SPRING,
        ),
        Task("Breakout-MinAtar", _IMAGES, 0.99, 20, 0, {}),
        Task("SpaceInvaders-MinAtar", _IMAGES, 0.99, 20, 0, {}),
        Task("hopper", _MUJOCO, 0.99, 40, 0, _SPRING),
        Task(
            "halfcheetah",
            _MUJOCO.replace(num_envs=8, num_steps=_CHEETAH_STEPS),
            0.99,
            40,
            0,
            _SPRING | {"episode_length": _CHEETAH_STEPS},
        ),
    )
}


def get_task(env_id: str, quick: bool) -> Task:
    """The task of the comparison; for a miniature with tiny networks, batches and runs."""
    task = TASKS[env_id]
    if quick:
        config = task.config.replace(num_envs=4, num_steps=16, hidden_sizes=(8,))
        task = task._replace(config=config, num_updates=4, num_episodes=min(task.num_episodes, 2))
    return task


def _ppo(task: Task) -> PolicyStep:
    """PPO whose epochs and minibatches are those of the critic's fit."""
    settings = baselines.PPOSettings(
        num_epochs=task.config.value_epochs, minibatch_size=task.config.minibatch_size
    )
    return baselines.ppo(settings)


_MAX_KLS = (0.003, 0.01, 0.03, 0.1, 0.3)

METHODS = {
    "trpo": Method("TRPO", "max_kl", _MAX_KLS, lambda task: trust_region_step),
    "npg": Method(
        "NPG", "max_kl", _MAX_KLS, lambda task: trust_region_step, {"line_search": False}
    ),
    "vpg": Method(
        "VPG",
        "learning rate",
        (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        lambda task: baselines.vanilla_policy_gradient(),
    ),
    "ppo": Method("PPO", "learning rate", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), _ppo),
}
COLORS = {"trpo": "#0072B2", "npg": "#009E73", "vpg": "#D55E00", "ppo": "#CC79A7"}
"""Okabe and Ito's palette, as in the library's own pictures."""
