"""Do they learn the same? Returns at equal numbers of steps, and updates until solved."""

from typing import Any, NamedTuple

import numpy as np
from client import Peer
from protocol import Settings
from studies import ENVIRONMENTS

_RANGES = {
    "CartPole-v1": ([2.4, 3.0, 0.2, 3.0], 2, None),
    "Acrobot-v1": ([3.1, 3.1, 6.0, 12.0], 3, None),
    "Pendulum-v1": ([3.1, 8.0], None, 2.5),
}
"""Half-width of the states that are tried, number of discrete actions, half-width of continuous."""


class Goal(NamedTuple):
    """When an environment counts as solved, and how long it is tried."""

    threshold: float
    """Mean return of the evaluation."""
    num_updates: int
    """Of 2,048 steps each."""
    every: int
    """Updates between evaluations."""


GOALS = {
    "CartPole-v1": Goal(475.0, 48, 2),
    "Acrobot-v1": Goal(-100.0, 48, 4),
    "Pendulum-v1": Goal(-250.0, 72, 4),
}
"""gymnasium's own thresholds. It has none for Pendulum: good policies get −150 to −200 there, and
the mean of 32 episodes has a standard error of 15."""


def learning(
    peers: list[Peer],
    settings: Settings,
    goal: Goal,
    seeds: list[int],
    num_episodes: int,
    stamp: dict[str, Any],
) -> dict[str, Any]:
    """Mean return of deterministic evaluations, [evaluations], per peer and seed.

    Each keeps the `stamp` of its run, since later runs may add peers and seeds.
    """
    run = {"run": settings.env_id, "num_updates": goal.every}
    curves: dict[str, dict[str, list[float]]] = {peer.name: {} for peer in peers}
    runs: dict[str, dict[str, Any]] = {peer.name: {} for peer in peers}
    for seed in seeds:
        asked = {"run": settings.env_id, "num_episodes": num_episodes, "seed": seed}
        for peer in peers:
            peer.ask("prepare", **run, settings=settings.as_json(), seed=seed)
            curve = []
            for _ in range(goal.num_updates // goal.every):
                peer.ask("updates", **run)
                curve.append(float(np.mean(peer.ask("evaluate", **asked)["returns"])))
            curves[peer.name][str(seed)] = curve
            runs[peer.name][str(seed)] = {**stamp, "peers": {peer.name: peer.description}}
            print(
                f"{settings.env_id}, seed {seed}: {peer.name} ends at {curve[-1]:.1f}", flush=True
            )
    return {
        "settings": settings.as_json(),
        "goal": goal._asdict(),
        "num_episodes": num_episodes,
        "curves": curves,
        "runs": runs,
    }


def dynamics(peers: list[Peer], num_states: int = 200) -> dict[str, Any]:
    """The largest difference of what one step does, over random states: peer against trpo_jax.

    trpo_jax must be among the peers.
    """
    rng = np.random.default_rng(0)
    results: dict[str, Any] = {}
    for env_id in ENVIRONMENTS:
        bounds, num_actions, reach = _RANGES[env_id]
        states = rng.uniform(-1, 1, (num_states, len(bounds))) * bounds
        if num_actions:
            actions = rng.integers(num_actions, size=num_states)
        else:
            actions = rng.uniform(-reach, reach, (num_states, 1))
        request = {"env_id": env_id, "states": states.tolist(), "actions": actions.tolist()}
        replies = {peer.name: peer.ask("one_step", **request) for peer in peers}
        reference = replies["trpo_jax"]["outcomes"]
        results[env_id] = {
            "peers": {
                peer.name: {
                    **peer.description,
                    "difference": _difference(replies[peer.name]["outcomes"], reference),
                    "max_episode_steps": replies[peer.name]["max_episode_steps"],
                }
                for peer in peers
            }
        }
    return results


def _difference(outcomes: list, reference: list) -> float:
    return float(np.max(np.abs(np.array(outcomes) - np.array(reference))))
