"""What the PyTorch peers have in common: threads, networks as plain arrays, gymnasium."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import given
import gymnasium
import numpy as np
import torch

torch.set_num_threads(int(os.environ.get("PEER_THREADS") or os.cpu_count() or 1))
Layers = Mapping[str, Sequence[torch.nn.Linear]]


@torch.no_grad()
def write_layers(layers: Layers, log_std: torch.nn.Parameter | None, arrays: given.Arrays) -> None:
    """Put the given weights into the linear layers of "policy" and "value"."""
    for which, linears in layers.items():
        for i, linear in enumerate(linears):
            linear.weight.copy_(torch.from_numpy(arrays[f"{which}_w{i}"].T))
            linear.bias.copy_(torch.from_numpy(arrays[f"{which}_b{i}"]))
    if log_std is not None:
        log_std.copy_(torch.from_numpy(arrays["policy_log_std"]).reshape(log_std.shape))


@torch.no_grad()
def read_layers(layers: Layers, log_std: torch.nn.Parameter | None) -> given.Arrays:
    """The weights as they are now."""
    arrays = {}
    for which, linears in layers.items():
        for i, linear in enumerate(linears):
            arrays[f"{which}_w{i}"] = linear.weight.numpy().T.copy()
            arrays[f"{which}_b{i}"] = linear.bias.numpy().copy()
    if log_std is not None:
        arrays["policy_log_std"] = log_std.numpy().reshape(-1).copy()
    return arrays


def space_of(arrays: given.Arrays) -> gymnasium.Space:
    """The action space of a given batch."""
    outputs = given.num_outputs(arrays)
    if "policy_log_std" in arrays:
        return gymnasium.spaces.Box(-1.0, 1.0, (outputs,), np.float32)
    return gymnasium.spaces.Discrete(outputs)


def evaluate(
    env_id: str, num_episodes: int, seed: int, act: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Returns of `num_episodes` episodes side by side, each from its start to its end."""
    envs = [gymnasium.make(env_id) for _ in range(num_episodes)]
    seed = 1_000_000 + 1000 * seed
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    returns = np.zeros(num_episodes)
    alive = np.arange(num_episodes)
    while alive.size:
        ended = []
        for i, action in zip(alive, act(obs[alive]), strict=True):
            obs[i], reward, terminated, truncated, _ = envs[i].step(action)
            returns[i] += reward
            ended.append(terminated or truncated)
        alive = alive[~np.array(ended)]
    return returns


def one_step(env_id: str, states: list, actions: list) -> dict[str, Any]:
    """What one step from each state does, and the time limit."""
    env = gymnasium.make(env_id)
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
    return {"outcomes": outcomes, "max_episode_steps": env.spec.max_episode_steps}
