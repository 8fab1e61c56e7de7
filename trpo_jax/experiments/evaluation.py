"""What evaluation episodes say about a policy."""

from typing import NamedTuple

import numpy as np

_EVALUATION_STREAM = 0x65766131
"""Folded into the seed, so that evaluation never shares a key with training."""
_NORMAL_QUANTILE = 1.959964


class Summary(NamedTuple):
    """Mean return with a 95 % confidence interval."""

    mean: float
    """Mean over all episodes."""
    half_width: float
    """Half of the interval: 1.96 standard errors; over runs if there are several."""
    num_episodes: int
    """Episodes in all."""

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.half_width:.2f} (95 %, {self.num_episodes} episodes)"


def summarize(returns: np.ndarray) -> Summary:
    """Summarise returns [runs, episodes].

    The unit of sampling is the episode for one run, the run for several: episodes of one policy
    say nothing about the spread between trainings.
    """
    samples = returns.mean(axis=1) if returns.shape[0] > 1 else returns[0]
    deviation = samples.std(ddof=1) if samples.size > 1 else 0.0
    half_width = _NORMAL_QUANTILE * deviation / np.sqrt(samples.size)
    return Summary(float(returns.mean()), float(half_width), int(returns.size))


def evaluation_key(seed: int):
    """The key of the evaluation that belongs to a training seed."""
    import jax

    return jax.random.fold_in(jax.random.key(seed), _EVALUATION_STREAM)
