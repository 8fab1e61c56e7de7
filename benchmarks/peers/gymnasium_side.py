"""What the PyTorch peers have in common: gymnasium environments."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np


def evaluate(
    env_id: str, num_episodes: int, seed: int, act: Callable[[np.ndarray], np.ndarray]
) -> list[float]:
    """Returns of `num_episodes` episodes side by side, each from its start to its end."""
    envs = [gymnasium.make(env_id) for _ in range(num_episodes)]
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    returns = np.zeros(num_episodes)
    alive = np.arange(num_episodes)
    while alive.size:
        actions = act(obs[alive])
        ended = []
        for i, action in zip(alive, actions, strict=True):
            obs[i], reward, terminated, truncated, _ = envs[i].step(action)
            returns[i] += reward
            ended.append(terminated or truncated)
        alive = alive[~np.array(ended)]
    for env in envs:
        env.close()
    return returns.tolist()


def one_step(env_id: str, states: list, actions: list) -> dict[str, Any]:
    """What one step from each state does, and the time limit."""
    env = gymnasium.make(env_id)
    spec = env.spec
    assert spec is not None
    env.reset(seed=0)
    bare: Any = env.unwrapped
    dtype = np.float32 if isinstance(bare.action_space, gymnasium.spaces.Box) else np.int64
    outcomes = []
    for state, action in zip(states, actions, strict=True):
        bare.state = np.array(state)
        if hasattr(bare, "steps_beyond_terminated"):
            bare.steps_beyond_terminated = None
        obs, reward, terminated, _, _ = bare.step(np.array(action, dtype))
        outcomes.append([*np.asarray(obs).tolist(), float(reward), float(terminated)])
    return {"outcomes": outcomes, "max_episode_steps": spec.max_episode_steps}
