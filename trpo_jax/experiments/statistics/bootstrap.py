"""Bootstrap intervals: for samples of a fixed number that are looked at once."""

import numpy as np

_RESAMPLES = 2000


def bootstrap_interval(samples: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of samples [n]; the mean itself if n = 1.

    Of paired differences it is the paired bootstrap: pairs are drawn together. Not valid for
    repeated looks at growing samples: `lower_bound` and `upper_bound` are. Efron & Tibshirani 1993,
    ch. 13.
    """
    from scipy.stats import bootstrap

    if samples.size == 1 or np.ptp(samples) == 0:
        return float(samples[0]), float(samples[0])
    interval = bootstrap(
        (samples,),
        np.mean,
        n_resamples=max(_RESAMPLES, int(100 / (1 - confidence))),
        confidence_level=confidence,
        method="percentile",
        rng=0,
    ).confidence_interval
    return float(interval.low), float(interval.high)
