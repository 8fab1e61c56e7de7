"""Where two trees of arrays differ, in words with numbers."""

from typing import Any

import jax
import numpy as np


def first_difference(
    old: Any, new: Any, axes: tuple[str, ...] = (), relative: float = 0.0, absolute: float = 0.0
) -> str | None:
    """The first element in which two trees of the same structure differ; None if none does.

    `axes` names the leading axes. NaN equals NaN. Numbers differ if |old − new| > absolute +
    relative · |old|.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(old)
    for (path, left), right in zip(paths, jax.tree.leaves(new), strict=True):
        a, b = np.asarray(left), np.asarray(right)
        name = jax.tree_util.keystr(path)
        if a.shape != b.shape:
            return f"{name} has shape {a.shape} and {b.shape}".strip()
        differ = ~_close(a, b, relative, absolute)
        if differ.any():
            index = tuple(int(i) for i in np.argwhere(differ)[0])
            return f"{place(name, index, axes)}: {a[index]} and {b[index]}"
    return None


def first_where(flags: Any, tree: Any, axes: tuple[str, ...]) -> str | None:
    """The first element of a tree where a tree of flags is true."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    for (path, leaf), flag in zip(paths, jax.tree.leaves(flags), strict=True):
        if np.any(flag):
            index = tuple(int(i) for i in np.argwhere(flag)[0])
            name = jax.tree_util.keystr(path)
            return f"{place(name, index, axes)}: {np.asarray(leaf)[index]}"
    return None


def place(name: str, index: tuple[int, ...], axes: tuple[str, ...]) -> str:
    """An element in words, such as "obs[2] at step 3, environment 0"."""
    inner = index[len(axes) :]
    element = f"{name}{list(inner)}" if inner else name
    where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=False))
    return f"{element} at {where}".strip() if where else element


def _close(a: np.ndarray, b: np.ndarray, relative: float, absolute: float) -> np.ndarray:
    if a.dtype == bool or b.dtype == bool:
        return a == b
    if relative == absolute == 0:
        return (a == b) | ((a != a) & (b != b))
    return np.isclose(b.astype(float), a.astype(float), relative, absolute, equal_nan=True)
