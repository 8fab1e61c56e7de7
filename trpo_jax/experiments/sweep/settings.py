"""What a sweep tries: a grid, or settings drawn at random."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

Setting = dict[str, float]
"""Fields of `HParams` that differ from the defaults."""
_LOG_SCALE = ("max_kl", "cg_damping", "cg_tol", "entropy_coef", "value_learning_rate")
"""What random search draws on a logarithmic scale."""


def grid(axes: Mapping[str, Sequence[float]]) -> list[Setting]:
    """The product of values per field, the last field varying fastest."""
    for name, values in axes.items():
        if np.ndim(values) != 1 or not len(values):
            raise ValueError(f"{name}={values!r} must be a sequence of at least one value")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def random_settings(
    ranges: Mapping[str, tuple[float, float]], num: int, seed: int = 0
) -> list[Setting]:
    """`num` settings drawn between bounds, on a logarithmic scale where that is usual."""
    rng = np.random.default_rng(seed)
    settings: list[Setting] = [{} for _ in range(num)]
    for name, (low, high) in ranges.items():
        if not low < high:
            raise ValueError(f"{name}={low}, {high} must be two bounds, the lower first")
        if name in _LOG_SCALE and low > 0:
            drawn = np.exp(rng.uniform(np.log(low), np.log(high), num))
        else:
            drawn = rng.uniform(low, high, num)
        for setting, value in zip(settings, drawn, strict=True):
            setting[name] = float(value)
    return settings
