"""Training runs: updates in chunks, shown and logged, with a directory that says what was done."""

import datetime
import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.envs import make_env
from trpo_jax.experiments.checkpoints import save_state
from trpo_jax.experiments.evaluation import Summary, evaluation_key, summarize
from trpo_jax.experiments.loggers import JsonLines, ProgressDisplay, to_records
from trpo_jax.learner.trpo import Agent, make_trpo

_CHUNKS_PER_RUN = 100


class RunSpec(NamedTuple):
    """Everything that determines a run."""

    env_id: str
    env_kwargs: dict[str, Any]
    config: TRPOConfig
    hparams: HParams
    seed: int
    num_seeds: int
    total_steps: int
    eval_episodes: int

    @property
    def seeds(self) -> list[int]:
        """Lane i of a vmapped run is the run with seed `seed + i`."""
        return list(range(self.seed, self.seed + self.num_seeds))


def train_run(spec: RunSpec, agent: Agent, directory: Path, console: Console) -> Summary:
    """Train, log to `directory`, evaluate; returns what the evaluation says.

    On Ctrl-C what was reached is saved before the interruption goes on its way.
    """
    write_config(spec, directory)
    state = _init(agent, spec)
    log = JsonLines(directory / "metrics.jsonl")
    try:
        state = _train(spec, agent, state, log, console)
    except _Interrupted as interruption:
        save_state(directory / "checkpoints" / "final", interruption.state)
        raise KeyboardInterrupt from None
    finally:
        log.close()
    save_state(directory / "checkpoints" / "final", state)
    return _evaluate(spec, agent, state, directory)


def make_agent(spec: RunSpec) -> Agent:
    """The agent of a run; raises `ValueError` if environment or settings cannot work."""
    return make_trpo(make_env(spec.env_id, **spec.env_kwargs), spec.config)


def create_run_directory(out: Path | None, env_id: str) -> Path:
    """A new, empty directory: `out`, or runs/ENV-DATE-TIME. Raises `ValueError` if it cannot be."""
    if out is None:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        out = Path("runs") / f"{env_id.replace('/', '-')}-{stamp}"
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"out={out} exists and is not an empty directory; choose another one")
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"out={out} cannot be written: {error.strerror}") from None
    return out


def write_config(spec: RunSpec, directory: Path) -> None:
    """Write config.json: settings, seeds, versions and the command."""
    content = {
        **spec._asdict(),
        "config": vars(spec.config),
        "hparams": vars(spec.hparams),
        "versions": {
            "trpo_jax": importlib.metadata.version("trpo-jax"),
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
        "devices": [str(device) for device in jax.devices()],
        "command": sys.argv,
    }
    text = json.dumps(content, indent=2, default=str)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")


class _Interrupted(Exception):
    """Ctrl-C, with the last state that was reached."""

    def __init__(self, state: Any):
        self.state = state


def _init(agent: Agent, spec: RunSpec) -> Any:
    if spec.num_seeds == 1:
        return agent.init(jax.random.key(spec.seed))
    return jax.vmap(lambda seed: agent.init(jax.random.key(seed)))(jnp.asarray(spec.seeds))


def _train(spec: RunSpec, agent: Agent, state: Any, log: JsonLines, console: Console) -> Any:
    """All updates, in chunks of equal size, so that one program serves them all."""
    batch_size = spec.config.batch_size
    wanted = -(-spec.total_steps // batch_size)
    chunk = max(1, wanted // _CHUNKS_PER_RUN)
    num_updates = -(-wanted // chunk) * chunk
    advance = _chunk_function(agent, spec, chunk)
    started, rate = time.perf_counter(), None
    with ProgressDisplay(console, num_updates, batch_size, spec.num_seeds) as display:
        for done in range(0, num_updates, chunk):
            try:
                state, history = advance(state)
                history = jax.device_get(history)
            except KeyboardInterrupt:
                raise _Interrupted(state) from None
            log.write(to_records(history, done, batch_size, spec.seeds))
            if done == 0:
                started = time.perf_counter()
            else:
                rate = done / (time.perf_counter() - started)
            display.show(history, done + chunk, rate)
    return state


def _chunk_function(agent: Agent, spec: RunSpec, chunk: int):
    """state -> (state, history [seeds, chunk, ...])."""
    if spec.num_seeds > 1:
        return jax.jit(jax.vmap(lambda s: agent.train(s, spec.hparams, num_updates=chunk)))

    def advance(state: Any):
        state, history = agent.train(state, spec.hparams, num_updates=chunk)
        return state, jax.tree.map(lambda leaf: leaf[None], history)

    return advance


def _evaluate(spec: RunSpec, agent: Agent, state: Any, directory: Path) -> Summary:
    def play(lane_state: Any, key: jax.Array):
        return agent.evaluate(lane_state, key, num_episodes=spec.eval_episodes)

    if spec.num_seeds == 1:
        returns = np.asarray(play(state, evaluation_key(spec.seed)).returns)[None]
    else:
        keys = jnp.stack([evaluation_key(seed) for seed in spec.seeds])
        returns = np.asarray(jax.vmap(play)(state, keys).returns)
    summary = summarize(returns)
    content = {**summary._asdict(), "mean_per_seed": returns.mean(axis=1).tolist()}
    (directory / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n")
    return summary
