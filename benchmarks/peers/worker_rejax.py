"""rejax's PPO with gymnax 0.0.9, in its own virtual environment."""

from typing import Any

import gymnax_side
import jax
import jax.numpy as jnp
import rejax
from protocol import Settings, serve
from rejax.compat import create


def _strong(leaf: Any) -> jax.Array:
    array = jnp.asarray(leaf)
    return jax.lax.convert_element_type(array, array.dtype)


class Training:
    """A program of `num_updates` iterations; the first call of `train` compiles.

    Iterations only: `PPO.train` would evaluate in between. It would also initialise within the
    compiled program, so that is compiled here, too: operation by operation it would take seconds.
    """

    def __init__(self, settings: Settings, seed: int, num_updates: int):
        self.ppo = ppo = rejax.PPO.create(
            env=settings.env_id,
            agent_kwargs={"hidden_layer_sizes": settings.hidden_sizes, "activation": "tanh"},
            num_envs=settings.num_envs,
            num_steps=settings.num_steps,
            num_epochs=settings.epochs,
            num_minibatches=settings.batch_size // settings.minibatch,
            learning_rate=settings.ppo_learning_rate,
            gamma=settings.gamma,
            gae_lambda=settings.gae_lambda,
            ent_coef=0.0,
            max_grad_norm=0.5,
        )

        def body(state, _):
            return ppo.train_iteration(state), None

        self.num_updates = num_updates
        self.program = jax.jit(lambda state: jax.lax.scan(body, state, length=num_updates)[0])
        # Strong types from the start, so that a second call does not compile again.
        initial = jax.jit(lambda key: jax.tree.map(_strong, ppo.init_state(key)))
        self.state = initial(jax.random.PRNGKey(seed))

    def train(self, num_updates: int) -> None:
        if num_updates != self.num_updates:
            raise ValueError(f"prepared for {self.num_updates} updates, asked for {num_updates}")
        self.state = jax.block_until_ready(self.program(self.state))

    def evaluate(self, num_episodes: int, seed: int) -> jax.Array:
        """With the mode of the policy, like everyone; the peer's own evaluation samples."""
        ppo, params = self.ppo, self.state.actor_ts.params
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

        reset_key, steps_key = jax.random.split(jax.random.PRNGKey(1_000_000 + seed))
        obs, state = ppo.vmap_reset(jax.random.split(reset_key, num_episodes), env_params)
        start = (obs, state, jnp.ones(num_episodes, bool), jnp.zeros(num_episodes))
        keys = jax.random.split(steps_key, env_params.max_steps_in_episode)
        return jax.lax.scan(step, start, keys)[0][-1]


def one_step(env_id: str, states: list, actions: list) -> dict[str, Any]:
    return gymnax_side.one_step(*create(env_id), env_id, states, actions)


if __name__ == "__main__":
    serve(("rejax", "gymnax", "jax", "jaxlib", "flax"), Training, one_step=one_step)
