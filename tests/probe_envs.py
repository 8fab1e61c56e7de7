"""Small environments whose values, returns and lengths are known in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax import Box, Discrete, Environment, EnvStep

FALSE = np.bool_(False)


class ConstantReward(Environment):
    """Reward 1 for ever, one observation, cut off every `limit` steps: V = 1 / (1 − γ)."""

    name = "constant-reward"
    obs_shape = (1,)
    action_space = Discrete(2)

    def __init__(self, limit: int = 5):
        self.max_episode_steps = limit

    def reset(self, key):
        return jnp.int32(0), jnp.ones(1)

    def step(self, key, state, action):
        time = state + 1
        return time, EnvStep(jnp.ones(1), jnp.float32(1), FALSE, time >= self.max_episode_steps)


class Countdown(Environment):
    """Reward 1 until termination, in r steps when unit r of the observation is lit.

    V = (1 − γʳ) / (1 − γ). An episode begins with `longest`, or with anything up to it if
    `staggered`.
    """

    name = "countdown"
    action_space = Discrete(2)

    def __init__(self, longest: int = 5, staggered: bool = False):
        self.longest, self.staggered = longest, staggered
        self.obs_shape = (longest + 1,)

    def _obs(self, left):
        return jax.nn.one_hot(left, self.longest + 1)

    def reset(self, key):
        drawn = jax.random.randint(key, (), 1, self.longest + 1)
        left = drawn if self.staggered else jnp.int32(self.longest)
        return left, self._obs(left)

    def step(self, key, state, action):
        left = state - 1
        return left, EnvStep(self._obs(left), jnp.float32(1), left <= 0, FALSE)


class SignReward(Environment):
    """An observation ±1 that lasts for the episode is the reward: V = obs / (1 − γ)."""

    name = "sign-reward"
    obs_shape = (1,)
    action_space = Discrete(2)
    max_episode_steps = 4

    def reset(self, key):
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return (sign, jnp.int32(0)), sign[None]

    def step(self, key, state, action):
        sign, time = state
        time = time + 1
        return (sign, time), EnvStep(sign[None], sign, FALSE, time >= self.max_episode_steps)


class MatchTheBit(Environment):
    """One step an episode; pays 1 for the action that equals the observed bit."""

    name = "match-the-bit"
    obs_shape = (2,)
    action_space = Discrete(2)
    max_episode_steps = 1

    def reset(self, key):
        bit = jax.random.bernoulli(key).astype(jnp.int32)
        return bit, jax.nn.one_hot(bit, 2)

    def step(self, key, state, action):
        reward = jnp.float32(action == state)
        return state, EnvStep(jax.nn.one_hot(state, 2), reward, np.bool_(True), FALSE)


class DelayedReward(Environment):
    """Two steps; the first action is paid, 1 for action 1, after the second, which counts nothing.

    Observations are one-hot: the start, after action 0, after action 1, the end.
    """

    name = "delayed-reward"
    obs_shape = (4,)
    action_space = Discrete(2)
    max_episode_steps = 2

    def reset(self, key):
        return jnp.int32(0), jax.nn.one_hot(0, 4)

    def step(self, key, state, action):
        last = state > 0
        cell = jnp.where(last, 3, 1 + action)
        reward = jnp.float32(state == 2)
        return cell, EnvStep(jax.nn.one_hot(cell, 4), reward, last, FALSE)


class TargetAction(Environment):
    """Continuous: reward −(action − 0.5)², one step an episode."""

    name = "target-action"
    obs_shape = (1,)
    action_space = Box(-1.0, 1.0, (1,))
    max_episode_steps = 1

    def reset(self, key):
        return jnp.int32(0), jnp.ones(1)

    def step(self, key, state, action):
        reward = -jnp.sum((action - 0.5) ** 2)
        return state, EnvStep(jnp.ones(1), reward, np.bool_(True), FALSE)


class KeyEcho(Environment):
    """Shows what is drawn from the keys it gets: a key that is used twice is seen twice."""

    name = "key-echo"
    obs_shape = (1,)
    action_space = Box(-jnp.inf, jnp.inf, (2,))
    max_episode_steps = 3

    def reset(self, key):
        return jnp.int32(0), jax.random.uniform(key, (1,))

    def step(self, key, state, action):
        time = state + 1
        obs = jax.random.uniform(key, (1,))
        return time, EnvStep(obs, jnp.float32(0), FALSE, time >= self.max_episode_steps)


class Faulty(Environment):
    """Another environment that lies now and then: with `rate`, one of `faults` a step.

    A fault is a pair: what takes the reward's place (0: nothing), what is added to the observation.
    """

    def __init__(self, env: Environment, rate: float, faults: list[tuple[Any, Any]]):
        self.inner, self.rate = env, rate
        self.rewards = np.array([reward for reward, _ in faults], np.float32)
        self.noise = np.array([noise for _, noise in faults], np.float32)
        self.name = f"faulty-{env.name}"
        self.obs_shape, self.action_space = env.obs_shape, env.action_space
        self.max_episode_steps = env.max_episode_steps

    def reset(self, key):
        return self.inner.reset(key)

    def step(self, key, state, action):
        state, step = self.inner.step(key, state, action)
        hit_key, kind_key = jax.random.split(jax.random.fold_in(key, 1))
        hit = jax.random.bernoulli(hit_key, self.rate)
        kind = jax.random.randint(kind_key, (), 0, len(self.rewards))
        reward, fault = jnp.asarray(step.reward, jnp.float32), jnp.asarray(self.rewards)[kind]
        noise = jnp.asarray(self.noise)[kind]
        return state, step._replace(
            reward=jnp.where(hit & (fault != 0), fault, reward),
            obs=jnp.where(hit, step.obs + noise, step.obs),
        )
