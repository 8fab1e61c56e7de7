"""What is compared on what: environments, methods, and the same small tuning budget for each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import baselines
import jax

import trpo_jax
from trpo_jax import HParams, TRPOConfig
from trpo_jax.learner import TrainState

NUM_SEEDS = 10
"""Of the runs that are reported."""
TUNING_SEEDS = 2
"""Of each setting in the tuning, which has half the updates; other seeds than the reported ones."""


class Task(NamedTuple):
    """One environment with what is the same for every method on it."""

    env_id: str
    config: TRPOConfig
    num_updates: int = 40
    """Of the reported runs; even, since tuning has half of them."""
    num_episodes: int = 0
    """Episodes that measure the policy after every update, beside the training; 0: too dear."""
    gamma: float = 0.99
    keywords: dict = {}  # noqa: RUF012 - never written to

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
        return trpo_jax.make_trpo(
            task.make_env(), task.config.replace(**self.changes), policy_step=step
        )

    def set_up(self, step: Any, state: TrainState, hparams: HParams, value: jax.Array):
        """(state of a TRPO run, hparams) as this method begins, with the tuned number in them."""
        if self.tuned == "max_kl":
            return state, hparams.replace(max_kl=value)
        state = state.replace(policy_step_state=step.init(state.policy_params))
        return baselines.with_learning_rate(state, value), hparams


def _small(num_envs: int, num_steps: int) -> TRPOConfig:
    return TRPOConfig(num_envs=num_envs, num_steps=num_steps, hidden_sizes=(32, 32))


_IMAGES = TRPOConfig(num_envs=64, num_steps=64, network="mlp", activation="relu", value_epochs=4)
_MUJOCO = TRPOConfig(num_envs=32, num_steps=64, normalize_observations=True, normalize_rewards=True)
_SPRING = {"backend": "spring"}
# An episode of halfcheetah never ends early: one episode of each copy in every update.
_CHEETAH = _MUJOCO.replace(num_envs=8, num_steps=256)
_TASKS = (
    Task("CartPole-v1", _small(8, 256), num_episodes=32),
    Task("Acrobot-v1", _small(16, 128), num_episodes=32),
    Task("Pendulum-v1", _small(4, 256), num_updates=80, num_episodes=32, gamma=0.9),
    Task("inverted_pendulum", _small(32, 64), keywords=_SPRING),
    Task("Breakout-MinAtar", _IMAGES, num_updates=20),
    Task("SpaceInvaders-MinAtar", _IMAGES, num_updates=20),
    Task("hopper", _MUJOCO, keywords=_SPRING),
    Task("halfcheetah", _CHEETAH, keywords=_SPRING | {"episode_length": _CHEETAH.num_steps}),
)
TASKS = {task.env_id: task for task in _TASKS}


def get_task(env_id: str, quick: bool) -> Task:
    """The task of the comparison; for a miniature with tiny networks, batches and runs."""
    task = TASKS[env_id]
    if quick:
        config = task.config.replace(num_envs=4, num_steps=16, hidden_sizes=(8,))
        task = task._replace(config=config, num_updates=4, num_episodes=min(task.num_episodes, 2))
    return task


def _ppo(task: Task):
    """PPO whose epochs and minibatches are those of the critic's fit."""
    sizes = {"num_epochs": task.config.value_epochs, "minibatch_size": task.config.minibatch_size}
    return baselines.ppo(baselines.PPOSettings(**sizes))


_MAX_KLS = (0.003, 0.01, 0.03, 0.1, 0.3)
_VPG_RATES, _PPO_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_TRPO = Method("TRPO", "max_kl", _MAX_KLS, lambda task: trpo_jax.trust_region_step)
METHODS = {
    "trpo": _TRPO,
    "npg": _TRPO._replace(label="NPG", changes={"line_search": False}),
    "vpg": Method(
        "VPG", "learning rate", _VPG_RATES, lambda task: baselines.vanilla_policy_gradient()
    ),
    "ppo": Method("PPO", "learning rate", _PPO_RATES, _ppo),
}
COLORS = {"trpo": "#0072B2", "npg": "#009E73", "vpg": "#D55E00", "ppo": "#CC79A7"}
"""Okabe and Ito's palette, as in the library's own pictures."""
