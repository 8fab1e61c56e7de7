"""An episode as curves: what can be shown of any environment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trpo_jax.envs.base import Environment
from trpo_jax.experiments.episodes import Episode
from trpo_jax.experiments.plots import COLORS
from trpo_jax.spaces import Box

_MAX_DRAWN_DIMENSIONS = 12
_DOTTED_STEPS = 50


def write_plot(env: Environment, episode: Episode, file: Path) -> Path:
    """Observations, actions and reward over time."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 8), layout="constrained", dpi=110)
    obs_axes, action_axes, reward_axes = figure.subplots(3, 1, sharex=True)
    _draw_obs(obs_axes, episode.obs.reshape(episode.length, -1))
    drawstyle = "default" if isinstance(env.action_space, Box) else "steps-mid"
    _draw_curves(action_axes, episode.action.reshape(episode.length, -1), drawstyle)
    action_axes.set_ylabel("action")
    if not isinstance(env.action_space, Box):
        action_axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    rewards = np.stack([episode.reward, np.cumsum(episode.reward)], axis=1)
    _draw_curves(reward_axes, rewards, labels=("reward", "return so far"))
    reward_axes.set_xlim(-0.5, episode.length - 0.5)
    reward_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    reward_axes.set_ylabel("reward")
    reward_axes.set_xlabel("step")
    for ax in (obs_axes, action_axes, reward_axes):
        ax.grid(alpha=0.25)
    total = episode.reward.sum()
    figure.suptitle(
        f"{env.name}: return {total:.2f}, {episode.length} steps, {episode.ending}", fontsize=12
    )
    figure.savefig(file)
    return file


def _draw_curves(
    ax: Any, values: np.ndarray, drawstyle: str = "default", labels: Sequence[str] | None = None
) -> None:
    """Draw values [T, dimensions], one curve each; short curves also have a dot per step."""
    from cycler import cycler

    ax.set_prop_cycle(cycler(linestyle=("-", "--")) * cycler(color=COLORS))
    marker = "." if len(values) <= _DOTTED_STEPS else None
    lines = ax.plot(values, marker=marker, linewidth=1.2, drawstyle=drawstyle)
    if 1 < len(lines) <= _MAX_DRAWN_DIMENSIONS:
        title = None if labels else "dimension"
        names = labels or [str(i) for i in range(len(lines))]
        beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        ax.legend(lines, names, frameon=False, fontsize=8, title=title, **beside)


def _draw_obs(ax: Any, obs: np.ndarray) -> None:
    """Curves for a few dimensions, an image for many."""
    if obs.shape[1] <= _MAX_DRAWN_DIMENSIONS:
        _draw_curves(ax, obs)
        ax.set_ylabel("observation")
        return
    image = ax.imshow(obs.T, aspect="auto", interpolation="none", cmap="viridis")
    ax.figure.colorbar(image, ax=ax, label="observation")
    ax.set_ylabel("dimension of the observation")
