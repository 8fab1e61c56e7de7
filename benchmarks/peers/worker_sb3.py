"""sb3-contrib's TRPO, in its own virtual environment."""

from importlib.metadata import version
from typing import Any

import given
import gymnasium
import gymnasium_side
import numpy as np
import torch
import torch_side
from protocol import Settings, serve, timed
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

_runs: dict[str, dict[str, Any]] = {}


def describe() -> dict[str, Any]:
    packages = ("sb3-contrib", "stable-baselines3", "torch", "gymnasium", "numpy")
    return {
        "versions": {name: version(name) for name in packages},
        "threads": torch.get_num_threads(),
    }


def _model(env: Any, settings: Settings, num_steps: int, seed: int, dimensions: int = 1) -> TRPO:
    """The peer at the common settings.

    It averages the KL over action dimensions: a bound and a damping divided by their number make
    the same step as the joint KL does.
    """
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
        policy_kwargs={
            "net_arch": {"pi": list(settings.hidden_sizes), "vf": list(settings.hidden_sizes)},
            "activation_fn": torch.nn.Tanh,
        },
        seed=seed,
        device="cpu",
    )
    model.set_logger(configure(None, []))
    return model


def prepare(run: str, settings: dict, seed: int, num_updates: int) -> dict[str, Any]:
    """Initialise; actions are scaled to the bounds, as trpo_jax does."""
    del num_updates
    chosen = Settings(**settings)
    env = make_vec_env(chosen.env_id, chosen.num_envs, seed=seed, wrapper_class=_scaled)
    model = _model(env, chosen, chosen.num_steps, seed)
    _runs[run] = {"settings": chosen, "model": model}
    return {}


def _scaled(env: gymnasium.Env) -> gymnasium.Env:
    if isinstance(env.action_space, gymnasium.spaces.Box):
        return gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return env


def updates(run: str, num_updates: int) -> dict[str, Any]:
    model, steps = _runs[run]["model"], num_updates * _runs[run]["settings"].batch_size
    return timed(lambda: model.learn(steps, reset_num_timesteps=False))


def evaluate(run: str, num_episodes: int, seed: int) -> dict[str, Any]:
    model, env_id = _runs[run]["model"], _runs[run]["settings"].env_id
    space = gymnasium.make(env_id).action_space

    def act(obs: np.ndarray) -> np.ndarray:
        action = model.predict(obs, deterministic=True)[0]
        return action * space.high if isinstance(space, gymnasium.spaces.Box) else action

    returns = gymnasium_side.evaluate(env_id, num_episodes, 1_000_000 + 1000 * seed, act)
    return {"returns": returns}


class _Spaces(gymnasium.Env):
    """Only the spaces of an environment: the batch is given."""

    def __init__(self, arrays: given.Arrays):
        size = arrays["obs"].shape[1]
        outputs = arrays[f"policy_b{given.num_layers(arrays, 'policy') - 1}"].size
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        box = gymnasium.spaces.Box(-1.0, 1.0, (outputs,), np.float32)
        is_box = "policy_log_std" in arrays
        self.action_space = box if is_box else gymnasium.spaces.Discrete(outputs)

    def reset(self, *, seed=None, options=None):
        return np.zeros(self.observation_space.shape, np.float32), {}


def load_batch(run: str, settings: dict, path: str, joint: bool) -> dict[str, Any]:
    """Put a batch into the peer's rollout buffer. `joint`: bound the KL summed over dimensions."""
    chosen, arrays = Settings(**settings), given.load(path)
    size = len(arrays["obs"])
    dimensions = arrays["policy_log_std"].size if joint and "policy_log_std" in arrays else 1
    model = _model(_Spaces(arrays), chosen, size, 0, dimensions)
    model._setup_learn(size)
    buffer = model.rollout_buffer
    buffer.reset()
    buffer.observations[:, 0] = arrays["obs"]
    buffer.actions[:, 0] = arrays["action"].reshape(size, -1)
    buffer.advantages[:, 0] = arrays["advantage"]
    buffer.returns[:, 0] = arrays["value_target"]
    buffer.values[:, 0] = 0.0
    buffer.log_probs[:, 0] = arrays["log_prob"]
    buffer.pos, buffer.full = size, True
    _runs[run] = {"model": model, "arrays": arrays, "epochs": chosen.epochs}
    return {}


def _networks(policy: Any) -> tuple[dict[str, list], torch.nn.Parameter | None]:
    extractor = policy.mlp_extractor
    layers = {
        "policy": [*extractor.policy_net[::2], policy.action_net],
        "value": [*extractor.value_net[::2], policy.value_net],
    }
    return layers, getattr(policy, "log_std", None)


def update_once(run: str, fit: str) -> dict[str, Any]:
    """The peer's `train`, from the given parameters; without value fit if that is "none"."""
    model = _runs[run]["model"]
    model.n_critic_updates = 0 if fit == "none" else _runs[run]["epochs"]
    model.policy.optimizer.state.clear()
    torch_side.write_layers(*_networks(model.policy), _runs[run]["arrays"])
    return timed(model.train)


def save_update(run: str, path: str) -> dict[str, Any]:
    given.save(path, torch_side.read_layers(*_networks(_runs[run]["model"].policy)))
    return {}


if __name__ == "__main__":
    serve(
        {
            "describe": describe,
            "prepare": prepare,
            "updates": updates,
            "evaluate": evaluate,
            "one_step": gymnasium_side.one_step,
            "load_batch": load_batch,
            "update_once": update_once,
            "save_update": save_update,
        }
    )
