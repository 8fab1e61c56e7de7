"""trpo_jax, measured like a peer."""

from importlib.metadata import version
from typing import Any

import given
import gymnax_side
import jax
from protocol import Settings, serve, timed
from trpo_jax_update import GivenUpdate, as_config, as_hparams

import trpo_jax

_runs: dict[str, dict[str, Any]] = {}
_updates: dict[str, GivenUpdate] = {}


def describe() -> dict[str, Any]:
    packages = ("jax", "jaxlib", "flax", "gymnax", "brax")
    return {"versions": {name: version(name) for name in packages}}


def prepare(run: str, settings: dict, seed: int, num_updates: int) -> dict[str, Any]:
    """Initialise; the first `updates` compiles."""
    del num_updates
    chosen = Settings(**settings)
    env = trpo_jax.make_env(chosen.env_id, **chosen.env_options)
    agent = trpo_jax.make_trpo(env, as_config(chosen))
    state = agent.init(jax.random.key(seed))
    _runs[run] = {"agent": agent, "state": state, "hparams": as_hparams(chosen)}
    return {}


def updates(run: str, num_updates: int) -> dict[str, Any]:
    going = _runs[run]

    def train() -> None:
        state, _ = going["agent"].train(going["state"], going["hparams"], num_updates=num_updates)
        going["state"] = jax.block_until_ready(state)

    return timed(train)


def evaluate(run: str, num_episodes: int, seed: int) -> dict[str, Any]:
    key = jax.random.key(1_000_000 + seed)
    stats = _runs[run]["agent"].evaluate(_runs[run]["state"], key, num_episodes=num_episodes)
    return {"returns": stats.returns.tolist()}


def one_step(env_id: str, states: list, actions: list) -> dict[str, Any]:
    env: Any = trpo_jax.make_env(env_id)
    return gymnax_side.one_step(env.unwrapped, env.params, env_id, states, actions)


def load_batch(run: str, settings: dict, path: str, joint: bool) -> dict[str, Any]:
    """Programs of one update on a given batch, compiled. Its KL is joint whatever is asked."""
    del joint
    _updates[run] = GivenUpdate(Settings(**settings), given.load(path))
    return {}


def update_once(run: str, fit: str) -> dict[str, Any]:
    return timed(_updates[run].compiled(fit))


def save_update(run: str, path: str) -> dict[str, Any]:
    given.save(path, _updates[run].result())
    return {}


if __name__ == "__main__":
    serve(
        {
            "describe": describe,
            "prepare": prepare,
            "updates": updates,
            "evaluate": evaluate,
            "one_step": one_step,
            "load_batch": load_batch,
            "update_once": update_once,
            "save_update": save_update,
        }
    )
