"""The settings of a sweep: a grid, or random ones."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from trpo_jax.config import HParams, TRPOConfig

Setting = dict[str, Any]
"""Fields of `HParams`, and of `TRPOConfig` if some are static, that differ from the defaults."""
_LOG_SCALE = ("max_kl", "cg_damping", "cg_tol", "entropy_coef", "value_learning_rate")
"""Fields that random search draws on a logarithmic scale."""


def grid(axes: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """The product of the values of each field; the last field varies fastest."""
    for name, values in axes.items():
        is_array = isinstance(values, np.ndarray | jax.Array) and values.ndim == 1
        is_list = isinstance(values, Sequence) and not isinstance(values, str)
        if not (is_array or is_list) or not len(values):
            raise ValueError(f"{name}={values!r} must be a sequence of at least one value")
    columns = [
        values.tolist() if isinstance(values, np.ndarray | jax.Array) else values
        for values in axes.values()
    ]
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*columns)]


def random_settings(
    ranges: Mapping[str, tuple[float, float]], num: int, seed: int = 0
) -> list[Setting]:
    """Draw `num` settings between bounds, on a logarithmic scale for some fields."""
    rng = np.random.default_rng(seed)
    settings: list[Setting] = [{} for _ in range(num)]
    for name, bounds in ranges.items():
        if len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise ValueError(
                f"{name}={', '.join(map(str, bounds))} must be two bounds, the lower first"
            )
        for bound in bounds:
            HParams().replace(**{name: bound})
        low, high = bounds
        if name in _LOG_SCALE and low > 0:
            drawn = np.exp(rng.uniform(np.log(low), np.log(high), num))
        else:
            drawn = rng.uniform(low, high, num)
        for setting, value in zip(settings, drawn, strict=True):
            setting[name] = float(value)
    return settings


def show(value: Any) -> str:
    """A value of a setting: 0.003, tanh, 64x64."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def require_traced(settings: Sequence[Setting]) -> None:
    """Raise `ValueError` unless all settings name the same fields, all of `HParams`."""
    if not settings:
        raise ValueError("settings=[]: the grid is empty; name at least one setting")
    if any(setting.keys() != settings[0].keys() for setting in settings):
        raise ValueError("settings must all name the same fields, so that they can be compared")
    static, traced = vars(TRPOConfig()), vars(HParams())
    for name in settings[0]:
        if name in static:
            raise ValueError(
                f"{name} is a static setting (TRPOConfig): it fixes a shape, a loop bound or a "
                f"branch, so each value needs its own program; give it as "
                f"static={{{name!r}: […]}}, on the command line as --static {name}=…; "
                f"the traced ones are {', '.join(traced)}"
            )
        if name not in traced:
            raise ValueError(f"{name} is not a field of HParams; those are {', '.join(traced)}")


def static_settings(config: TRPOConfig, axes: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """The product of values per field of `TRPOConfig`. Raises `ValueError` if one cannot work."""
    for name in axes:
        if name in vars(HParams()):
            raise ValueError(
                f"static={name}: {name} is traced (HParams), all its values fit into one program; "
                f"give it as an axis of settings, on the command line as "
                f"--{name.replace('_', '-')} VALUE …"
            )
    settings = [
        {name: tuple(value) if isinstance(value, list) else value for name, value in each.items()}
        for each in grid(axes)
    ]
    for setting in settings:
        config.replace(**setting)
    if any(settings.count(setting) > 1 for setting in settings):
        raise ValueError(f"static={dict(axes)!r} names a value twice; name each once")
    return settings
