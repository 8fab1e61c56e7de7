"""rejax's PPO with gymnax 0.0.9, in its own virtual environment."""

from importlib.metadata import version
from typing import Any

import gymnax_side
import jax
import jax.numpy as jnp
import rejax
from protocol import Settings, serve, timed
from rejax.compat import create

_runs: dict[str, dict[str, Any]] = {}


def describe() -> dict[str, Any]:
    packages = ("rejax", "gymnax", "jax", "jaxlib", "flax")
    return {"versions": {name: version(name) for name in packages}}


def prepare(run: str, settings: dict, seed: int, num_updates: int) -> dict[str, Any]:
    """Initialise, for programs of `num_updates` iterations; the first `updates` compiles.

    Iterations only: `PPO.train` would evaluate in between. It would also initialise within the
    compiled program, so that is compiled here, too: operation by operation it would take seconds.
    """
    chosen = Settings(**settings)
    ppo = rejax.PPO.create(
        env=chosen.env_id,
        agent_kwargs={"hidden_layer_sizes": chosen.hidden_sizes, "activation": "tanh"},
        num_envs=chosen.num_envs,
        num_steps=chosen.num_steps,
        num_epochs=chosen.epochs,
        num_minibatches=chosen.batch_size // chosen.minibatch,
        learning_rate=chosen.ppo_learning_rate,
        gamma=chosen.gamma,
        gae_lambda=chosen.gae_lambda,
        ent_coef=0.0,
        max_grad_norm=0.5,
    )

    def body(state, _):
        return ppo.train_iteration(state), None

    train = jax.jit(lambda state: jax.lax.scan(body, state, length=num_updates)[0])
    # Strong types from the start, so that a second call does not compile again.
    initial = jax.jit(lambda key: jax.tree.map(_strong, ppo.init_state(key)))
    state = initial(jax.random.PRNGKey(seed))
    _runs[run] = {"ppo": ppo, "state": state, "train": train, "num_updates": num_updates}
    return {}


def _strong(leaf: Any) -> jax.Array:
    array = jnp.asarray(leaf)
    return jax.lax.convert_element_type(array, array.dtype)


def updates(run: str, num_updates: int) -> dict[str, Any]:
    going = _runs[run]
    if num_updates != going["num_updates"]:
        raise ValueError(f"prepared for {going['num_updates']} updates, asked for {num_updates}")

    def train() -> None:
        going["state"] = jax.block_until_ready(going["train"](going["state"]))

    return timed(train)


def evaluate(run: str, num_episodes: int, seed: int) -> dict[str, Any]:
    """With the mode of the policy, like everyone; the peer's own evaluation samples."""
    key = jax.random.PRNGKey(1_000_000 + seed)
    params = _runs[run]["state"].actor_ts.params
    return {"returns": _play(_runs[run]["ppo"], params, key, num_episodes).tolist()}


def _play(ppo: Any, params: Any, key: jax.Array, num_episodes: int) -> jax.Array:
    env, env_params = ppo.env, ppo.env_params

    def step(carry, step_key):
        obs, state, alive, returns = carry
        action = ppo.actor.apply(params, obs, method="_action_dist").mode()
        if not ppo.discrete:
            space = env.action_space(env_params)
            action = jnp.clip(action, space.low, space.high)
        keys = jax.random.split(step_key, num_episodes)
        obs, state, reward, done, _ = jax.vmap(env.step, (0, 0, 0, None))(
            keys, state, action, env_params
        )
        returns = returns + jnp.where(alive, reward.reshape(num_episodes), 0.0)
        return (obs, state, alive & ~done, returns), None

    reset_key, steps_key = jax.random.split(key)
    obs, state = ppo.vmap_reset(jax.random.split(reset_key, num_episodes), env_params)
    start = (obs, state, jnp.ones(num_episodes, bool), jnp.zeros(num_episodes))
    keys = jax.random.split(steps_key, env_params.max_steps_in_episode)
    return jax.lax.scan(step, start, keys)[0][-1]


def one_step(env_id: str, states: list, actions: list) -> dict[str, Any]:
    env, params = create(env_id)
    return gymnax_side.one_step(env, params, env_id, states, actions)


if __name__ == "__main__":
    serve(
        {
            "describe": describe,
            "prepare": prepare,
            "updates": updates,
            "evaluate": evaluate,
            "one_step": one_step,
        }
    )
