"""sb3-contrib's TRPO, in its own virtual environment."""

from collections.abc import Callable
from typing import Any

import given
import gymnasium
import numpy as np
import torch
import torch_side
from protocol import Settings, serve
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure


def _model(env: Any, settings: Settings, num_steps: int, seed: int, dimensions: int = 1) -> TRPO:
    """The peer at the common settings.

    It averages the KL over action dimensions: a bound and a damping divided by their number make
    the same step as the joint KL does.
    """
    hidden = list(settings.hidden_sizes)
    model = TRPO(
        "MlpPolicy",
        env,
        learning_rate=settings.learning_rate,
        n_steps=num_steps,
        batch_size=settings.minibatch,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        cg_max_steps=settings.cg_iterations,
        cg_damping=settings.cg_damping / dimensions,
        target_kl=settings.max_kl / dimensions,
        line_search_shrinking_factor=settings.backtrack_factor,
        line_search_max_iter=settings.line_search_tries,
        n_critic_updates=settings.epochs,
        policy_kwargs={"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": torch.nn.Tanh},
        seed=seed,
        device="cpu",
    )
    model.set_logger(configure(None, []))
    return model


class Training:
    """A run; actions are scaled to the bounds, as trpo_jax does."""

    def __init__(self, settings: Settings, seed: int, num_updates: int):
        del num_updates
        self.settings = settings
        env = make_vec_env(settings.env_id, settings.num_envs, seed=seed, wrapper_class=_scaled)
        self.model = _model(env, settings, settings.num_steps, seed)

    def train(self, num_updates: int) -> None:
        self.model.learn(num_updates * self.settings.batch_size, reset_num_timesteps=False)

    def evaluate(self, num_episodes: int, seed: int) -> np.ndarray:
        high = getattr(gymnasium.make(self.settings.env_id).action_space, "high", None)

        def act(obs: np.ndarray) -> np.ndarray:
            action = self.model.predict(obs, deterministic=True)[0]
            return action if high is None else action * high

        return torch_side.evaluate(self.settings.env_id, num_episodes, seed, act)


def _scaled(env: gymnasium.Env) -> gymnasium.Env:
    if isinstance(env.action_space, gymnasium.spaces.Box):
        return gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return env


class _Spaces(gymnasium.Env):
    """Only the spaces of an environment: the batch is given."""

    def __init__(self, arrays: given.Arrays):
        shape = arrays["obs"].shape[1:]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = torch_side.space_of(arrays)

    def reset(self, *, seed=None, options=None):
        return np.zeros(self.observation_space.shape, np.float32), {}


class Update:
    """The peer's `train` on a batch in its rollout buffer."""

    def __init__(self, settings: Settings, arrays: given.Arrays, joint: bool):
        size = len(arrays["obs"])
        dimensions = arrays["policy_log_std"].size if joint and "policy_log_std" in arrays else 1
        self.model = _model(_Spaces(arrays), settings, size, 0, dimensions)
        self.model._setup_learn(size)
        buffer = self.model.rollout_buffer
        buffer.reset()
        buffer.observations[:, 0] = arrays["obs"]
        buffer.actions[:, 0] = arrays["action"].reshape(size, -1)
        buffer.advantages[:, 0] = arrays["advantage"]
        buffer.returns[:, 0] = arrays["value_target"]
        buffer.values[:, 0] = 0.0
        buffer.log_probs[:, 0] = arrays["log_prob"]
        buffer.pos, buffer.full = size, True
        self.arrays, self.epochs = arrays, settings.epochs
        extractor = self.model.policy.mlp_extractor
        self.networks = (
            {
                "policy": [*extractor.policy_net[::2], self.model.policy.action_net],
                "value": [*extractor.value_net[::2], self.model.policy.value_net],
            },
            getattr(self.model.policy, "log_std", None),
        )

    def ready(self, fit: str) -> Callable[[], Any]:
        self.model.n_critic_updates = 0 if fit == "none" else self.epochs
        self.model.policy.optimizer.state.clear()
        torch_side.write_layers(*self.networks, self.arrays)
        return self.model.train

    def weights(self) -> given.Arrays:
        return torch_side.read_layers(*self.networks)


if __name__ == "__main__":
    packages = ("sb3-contrib", "stable-baselines3", "torch", "gymnasium", "numpy")
    serve(packages, Training, Update, one_step=torch_side.one_step)
