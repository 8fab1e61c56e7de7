"""Pictures of MuJoCo's models, where an OpenGL backend is there."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from trpo_jax.experiments.episodes import Episode

_SIZE = 320


def prefer_a_backend_without_display() -> None:
    """Let MuJoCo draw through EGL if nothing else is chosen and there is no display.

    Only before MuJoCo is imported.
    """
    if sys.platform == "linux" and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")


@contextlib.contextmanager
def explaining_what_is_missing() -> Iterator[None]:
    """Turn errors of OpenGL into a `ValueError` that says what to install."""
    try:
        yield
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.filename:
            raise
        chosen = os.environ.get("MUJOCO_GL", "not set")
        raise ValueError(
            f"nothing can be drawn: {type(error).__name__}: {error} (MUJOCO_GL is {chosen}); "
            "MuJoCo needs EGL, in Debian libegl1, and MUJOCO_GL=egl; classic control needs pygame: "
            'pip install "trpo-jax[render]"'
        ) from error


def captioned(picture: Any, caption: str, color: str = "black") -> Any:
    """A picture of Pillow's with a line of text in its corner."""
    from PIL import ImageDraw

    ImageDraw.Draw(picture).text((8, 8), caption, fill=color, font_size=16)
    return picture


def of_playground(env: Any, episode: Episode, steps: Iterator[int]) -> Iterator[Any]:
    """Pictures of the states of an episode, with the camera of the model."""
    with explaining_what_is_missing():
        import mujoco
        from PIL import Image

        model = env.unwrapped.mj_model
        data = mujoco.MjData(model)
        with contextlib.closing(mujoco.Renderer(model, _SIZE, _SIZE)) as renderer:
            for t in steps:
                for name in ("qpos", "qvel", "mocap_pos", "mocap_quat"):
                    values = np.asarray(getattr(episode.states.data, name)[t])
                    getattr(data, name)[:] = values
                mujoco.mj_forward(model, data)
                renderer.update_scene(data, camera=0 if model.ncam else -1)
                picture = Image.fromarray(renderer.render())
                yield captioned(picture, episode.caption(t), "white")
