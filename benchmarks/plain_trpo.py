"""A plain TRPO in one function, as one would first write it in JAX: the yardstick for speed.

It follows the description of the prototype in the project's notes: gymnax CartPole with reset in
every step, jitted in one scan, 64 × 64 tanh networks, Gauss–Newton products linearised once,
10 CG iterations, 10 epochs of Adam over shuffled minibatches. No diagnostics, no safety, no
metrics beyond the return.
"""

from functools import partial

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import optax
from jax import lax


class Net(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.tanh(nn.Dense(64)(x))
        return nn.Dense(self.outputs)(x)


def make(num_envs=8, num_steps=256, cg_iterations=10, epochs=10, minibatch=128):
    env, env_params = gymnax.make("CartPole-v1")
    actor, critic, optimizer = Net(2), Net(1), optax.adam(1e-3)
    batch_size = num_envs * num_steps

    def init(key):
        keys = jax.random.split(key, 3)
        reset_keys = jax.random.split(keys[0], num_envs)
        obs, env_state = jax.vmap(env.reset, (0, None))(reset_keys, env_params)
        value = critic.init(keys[2], obs[0])
        return key, actor.init(keys[1], obs[0]), value, optimizer.init(value), env_state, obs

    def update(state, _):
        key, policy, value, opt_state, env_state, obs = state
        key, roll_key, fit_key = jax.random.split(key, 3)

        def step(carry, step_key):
            env_state, obs = carry
            act_key, env_key = jax.random.split(step_key)
            action = jax.random.categorical(act_key, actor.apply(policy, obs))
            given = jax.random.split(env_key, num_envs), env_state, action, env_params
            new_obs, env_state, *outcome, info = jax.vmap(env.step, (0, 0, 0, None))(*given)
            return (env_state, new_obs), (obs, action, *outcome, info["final_observation"])

        keys = jax.random.split(roll_key, num_steps)
        (env_state, obs), rows = lax.scan(step, (env_state, obs), keys)
        seen, action, reward, terminated, truncated, final = rows
        v, v_next = critic.apply(value, jnp.stack([seen, final]))[..., 0]
        delta = reward + 0.99 * (1 - terminated) * v_next - v
        decay = 0.99 * 0.95 * (1 - terminated) * (1 - truncated)
        _, advantage = lax.scan(
            lambda a, d: (d[0] + d[1] * a,) * 2, jnp.zeros(num_envs), (delta, decay), reverse=True
        )
        target = (advantage + v).reshape(-1)
        x, a = seen.reshape(batch_size, -1), action.reshape(-1)
        adv = advantage.reshape(-1)
        adv = (adv - adv.mean()) / (adv.std() + 1e-8)
        policy = improve(policy, x, a, adv)
        value, opt_state = fit(value, opt_state, fit_key, x, target)
        return (key, policy, value, opt_state, env_state, obs), (reward.sum() / terminated.sum())

    def improve(policy, x, a, adv):
        log_old = jax.nn.log_softmax(actor.apply(policy, x))
        p_old = jnp.exp(log_old)
        chosen_old = jnp.take_along_axis(log_old, a[:, None], 1)[:, 0]

        def surrogate(params):
            log_p = jax.nn.log_softmax(actor.apply(params, x))
            ratio = jnp.exp(jnp.take_along_axis(log_p, a[:, None], 1)[:, 0] - chosen_old)
            return jnp.mean(ratio * adv), jnp.mean(jnp.sum(p_old * (log_old - log_p), -1))

        g = jax.grad(lambda params: surrogate(params)[0])(policy)
        _, push = jax.linearize(lambda params: actor.apply(params, x), policy)
        pull = jax.linear_transpose(push, policy)

        def matvec(v):
            u = push(v)
            u = p_old * (u - jnp.sum(p_old * u, -1, keepdims=True)) / batch_size
            return jax.tree.map(lambda h, w: h + 0.1 * w, pull(u)[0], v)

        def dot(s, t):
            return sum(jnp.vdot(i, j) for i, j in zip(*map(jax.tree.leaves, (s, t)), strict=True))

        def cg(carry, _):
            sol, r, p, rr = carry
            ap = matvec(p)
            alpha = rr / dot(p, ap)
            sol = jax.tree.map(lambda i, j: i + alpha * j, sol, p)
            r = jax.tree.map(lambda i, j: i - alpha * j, r, ap)
            new = dot(r, r)
            p = jax.tree.map(lambda i, j: i + new / rr * j, r, p)
            return (sol, r, p, new), None

        zero = jax.tree.map(jnp.zeros_like, g)
        (sol, *_), _ = lax.scan(cg, (zero, g, g, dot(g, g)), length=cg_iterations)
        scale = jnp.sqrt(2 * 0.01 / dot(sol, matvec(sol)))

        def candidate(i):
            return jax.tree.map(lambda p, s: p + 0.8**i * scale * s, policy, sol)

        def search(carry):
            gain, kl = surrogate(candidate(carry[0]))
            return carry[0] + 1, (gain > jnp.mean(adv)) & (kl <= 0.01)

        tries, ok = lax.while_loop(lambda c: ~c[1] & (c[0] < 10), search, (0, False))
        return jax.tree.map(lambda n, o: jnp.where(ok, n, o), candidate(tries - 1), policy)

    def fit(value, opt_state, key, x, target):
        def minibatch_step(carry, index):
            value, opt_state = carry
            g = jax.grad(lambda p: jnp.mean((critic.apply(p, x[index])[:, 0] - target[index]) ** 2))
            updates, opt_state = optimizer.update(g(value), opt_state)
            return (optax.apply_updates(value, updates), opt_state), None

        def epoch(carry, epoch_key):
            order = jax.random.permutation(epoch_key, batch_size).reshape(-1, minibatch)
            return lax.scan(minibatch_step, carry, order)

        return lax.scan(epoch, (value, opt_state), jax.random.split(key, epochs))[0]

    @partial(jax.jit, static_argnums=1)
    def train(state, num_updates):
        return lax.scan(update, state, length=num_updates)

    return jax.jit(init), train
