"""The settings of a guard, which a run keeps."""

import math
from typing import Any, NamedTuple

from trpo_jax.common.checks import is_number, require_whole_number


class Guard(NamedTuple):
    """When a policy may replace the one in service: only if a test shows that it may.

    The policy in service is kept in the run's directory `best`. docs/guard.md has the mathematics.
    """

    confidence: float = 0.95
    """Probability that, in the whole training, no policy comes into service that falls short of the
    one before it by `margin` or more."""
    margin: float = 0.0
    """By how much less return a policy may have and still count as not worse. With 0, only better
    ones come into service."""
    share: float = 0.1
    """Environment steps of all tests, as a share of the training's steps so far."""
    every: int | None = None
    """Updates between tests. By default a tenth of the run."""


def as_guard(guard: Any) -> Guard | None:
    """A guard with Python's numbers; a number is its confidence. Raises `ValueError` if it has
    values that cannot work."""
    if guard is None:
        return None
    if is_number(guard):
        guard = Guard(guard)
    if not isinstance(guard, Guard):
        raise ValueError(
            f"guard={guard!r} must be a trpo_jax.Guard, a confidence such as 0.95, or None"
        )
    for name in ("confidence", "margin", "share"):
        if not is_number(getattr(guard, name)):
            raise ValueError(f"{_option(name)}={getattr(guard, name)!r} must be a number")
    if not 0.5 <= guard.confidence < 1:
        raise ValueError(f"guard={guard.confidence} must be a confidence in [0.5, 1), such as 0.95")
    if not (guard.margin >= 0 and math.isfinite(guard.margin)):
        raise ValueError(f"guard_margin={guard.margin} must be a return >= 0")
    if not 0 < guard.share <= 1:
        raise ValueError(f"guard_share={guard.share} must be in (0, 1], such as 0.1")
    if guard.every is not None:
        require_whole_number("guard_every", guard.every)
    every = None if guard.every is None else int(guard.every)
    return Guard(float(guard.confidence), float(guard.margin), float(guard.share), every)


def require_testable(
    guard: Guard | None,
    target_return: float | None,
    *,
    num_seeds: int,
    devices: int,
    eval_every: int | None,
) -> None:
    """Raise `ValueError` unless a run whose policy is tested has one seed, one device and tests."""
    if target_return is not None and guard is None and eval_every == 0:
        raise ValueError(
            f"target_return={target_return} does not go with eval_every=0: evaluations say when it "
            "is worth a test; leave eval_every out"
        )
    tested = {"guard": guard and guard.confidence, "target_return": target_return}
    for name, value in tested.items():
        if value is not None and num_seeds > 1:
            raise ValueError(
                f"{name}={value} does not go with num_seeds={num_seeds}: each seed has a policy of "
                "its own; train the seeds one by one"
            )
        if value is not None and devices > 1:
            raise ValueError(f"{name}={value} does not go with devices={devices}; use one device")


def _option(name: str) -> str:
    return "guard" if name == "confidence" else f"guard_{name}"
