"""How the driver and a peer's process talk: JSON lines, on settings that all peers share.

Runs in every peer's virtual environment: the standard library and NumPy only.
"""

import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import given


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is equal for all: environment, batch, networks, trust region, value fit."""

    env_id: str = "CartPole-v1"
    env_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keywords of the environment, such as brax's backend."""
    num_envs: int = 8
    num_steps: int = 256
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Of policy and critic alike, tanh; they share nothing."""
    epochs: int = 10
    """Passes of the value fit (PPO: of policy and value) over the batch."""
    minibatch: int = 128
    cg_iterations: int = 10
    cg_damping: float = 0.1
    max_kl: float = 0.01
    """Bound on the KL summed over action dimensions."""
    backtrack_factor: float = 0.8
    line_search_tries: int = 10
    gamma: float = 0.99
    gae_lambda: float = 0.95
    learning_rate: float = 1e-3
    """Of the value fit."""
    ppo_learning_rate: float = 1e-3
    """Of policy and value in PPO."""

    def __post_init__(self):
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))

    @property
    def batch_size(self) -> int:
        """Transitions per update."""
        return self.num_envs * self.num_steps

    def replace(self, **changes) -> "Settings":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def as_json(self) -> dict[str, Any]:
        """For a request: `Settings(**…)` on the other side."""
        return dataclasses.asdict(self)


def serve(
    packages: Sequence[str], training: Any = None, update: Any = None, **handlers: Callable
) -> None:
    """Answer requests {"do": name, **arguments}, one JSON line each, until the input ends.

    `training(settings, seed, num_updates)` makes a run with `.train(num_updates)` and
    `.evaluate(num_episodes, seed)` -> returns. `update(settings, arrays, joint)` makes an update on
    a given batch, always from the same weights, with `.ready(fit)` -> the call that is timed, and
    `.weights()` after it; `joint`: bound the KL summed over action dimensions. Other requests have
    handlers of their own.
    """
    runs: dict[str, Any] = {}

    def describe():
        return {"versions": {name: version(name) for name in packages}}

    def prepare(run, settings, seed, num_updates):
        runs[run] = training(Settings(**settings), seed, num_updates)

    def updates(run, num_updates):
        return timed(lambda: runs[run].train(num_updates))

    def evaluate(run, num_episodes, seed):
        return {"returns": [float(x) for x in runs[run].evaluate(num_episodes, seed)]}

    def load_batch(run, settings, path, joint):
        runs[run] = update(Settings(**settings), given.load(path), joint)

    def update_once(run, fit):
        return timed(runs[run].ready(fit))

    def save_update(run, path):
        given.save(path, runs[run].weights())

    common = (describe, prepare, updates, evaluate, load_batch, update_once, save_update)
    handlers |= {handler.__name__: handler for handler in common}
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no reply
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            reply = handlers[arguments.pop("do")](**arguments) or {}
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=replies, flush=True)


def timed(call: Callable[[], Any]) -> dict[str, float]:
    """Wall time, and CPU time of all threads, of a call that returns when its work is done."""
    start, cpu_start = time.perf_counter(), time.process_time()
    call()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}
