"""Pictures of gymnax's environments, where it can draw them."""

import contextlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from trpo_jax.experiments.episodes import Episode
from trpo_jax.experiments.mujoco_pictures import captioned

_CLASSIC_CONTROL = {
    "Acrobot-v1",
    "CartPole-v1",
    "Pendulum-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
}
"""gymnax draws these with gymnasium, which needs pygame."""
_OTHERS_WITH_VISUALIZER = {
    "Catch-bsuite",
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "Freeway-MinAtar",
    "Seaquest-MinAtar",
    "SpaceInvaders-MinAtar",
    "Pong-misc",
    "PointRobot-misc",
    "MetaMaze-misc",
    "FourRooms-misc",
}


def has_visualizer(name: str) -> bool:
    """Whether the environment of that name can be drawn with what is installed."""
    if name in _CLASSIC_CONTROL:
        return find_spec("pygame") is not None
    return name in _OTHERS_WITH_VISUALIZER


def of_gymnax(env: Any, episode: Episode, steps: Iterator[int]) -> Iterator[Any]:
    """Pictures of the states of an episode."""
    draw = _of_classic_control if env.name in _CLASSIC_CONTROL else _by_visualizer
    return draw(env, episode, steps)


def draw_without_display() -> None:
    """Let pygame draw where there is no display."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")


def _of_classic_control(env: Any, episode: Episode, steps: Iterator[int]) -> Iterator[Any]:
    """Frames from gymnasium. gymnax's own loop makes a new environment for each frame."""
    draw_without_display()
    import gymnasium
    from gymnax.visualize import vis_gym
    from PIL import Image

    with contextlib.closing(gymnasium.make(env.name, render_mode="rgb_array")) as drawn:
        drawn.reset()
        inner: Any = drawn.unwrapped
        vis_gym.set_gym_params(inner, env.name, env.params)
        for t in steps:
            state = episode.state(t)
            inner.state = vis_gym.get_gym_state(state, env.name)
            inner.last_u = getattr(state, "last_u", None)
            yield captioned(Image.fromarray(np.asarray(drawn.render())), episode.caption(t))


def _by_visualizer(env: Any, episode: Episode, steps: Iterator[int]) -> Iterator[Any]:
    """Frames from gymnax's visualiser."""
    import matplotlib.pyplot
    from gymnax.visualize import Visualizer
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    states = [episode.state(t) for t in range(episode.length + 1)]
    visualizer = Visualizer(env.unwrapped, env.params, states)
    try:
        canvas = FigureCanvasAgg(visualizer.fig)
        visualizer.init()
        for t in steps:
            visualizer.update(t)
            visualizer.ax.set_title(f"{env.name}, {episode.caption(t)}")
            canvas.draw()
            yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    finally:
        matplotlib.pyplot.close(visualizer.fig)
