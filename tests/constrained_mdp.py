"""A constrained Markov decision process of two states, and its optimum by linear programming."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog

from trpo_jax import Discrete, Environment, EnvStep

HORIZON = 4
REWARD = np.array([[0.0, 1.0], [0.3, 2.0]])
"""[state, action]."""
COST = np.array([[0.0, 1.0], [0.2, 3.0]])
TO_STATE_1 = np.array([[0.2, 0.7], [0.4, 0.9]])
"""[state, action]: probability that the next state is 1."""


class TwoStates(Environment):
    """Two states, two actions, an end after `HORIZON` steps; nothing is discounted.

    Action 1 pays more and costs more. The observation is one-hot over (time, state), so that a
    policy without hidden layers can be any Markov policy.
    """

    name = "two-states"
    obs_shape = (2 * HORIZON,)
    action_space = Discrete(2)
    max_episode_steps = HORIZON

    def reset(self, key):
        state = jnp.int32(0), jnp.int32(0)
        return state, self._obs(*state)

    def step(self, key, state, action):
        time, place = state
        moved = jax.random.bernoulli(key, jnp.asarray(TO_STATE_1)[place, action])
        after = time + 1, moved.astype(jnp.int32)
        return after, EnvStep(
            self._obs(*after),
            jnp.asarray(REWARD, jnp.float32)[place, action],
            after[0] >= HORIZON,
            np.bool_(False),
            cost=jnp.asarray(COST, jnp.float32)[place, action],
        )

    def _obs(self, time, place):
        return jax.nn.one_hot(2 * time + place, 2 * HORIZON)


def optimum(limit: float) -> tuple[float, float]:
    """(return, cost) of the best policy whose expected cost per episode is at most `limit`.

    The variables are the probabilities ρ(t, s, a) of being in s at t and doing a.
    """
    shape = (HORIZON, 2, 2)
    index = np.arange(np.prod(shape)).reshape(shape)
    flows, inflow = np.zeros((2 * HORIZON, index.size)), np.zeros(2 * HORIZON)
    inflow[0] = 1  # state 0 at time 0
    for time in range(HORIZON):
        for place in range(2):
            row = flows[2 * time + place]
            row[index[time, place]] = 1
            if time:
                chance = TO_STATE_1 if place else 1 - TO_STATE_1
                row[index[time - 1].ravel()] -= chance.ravel()
    reward, cost = (np.broadcast_to(each, shape).ravel() for each in (REWARD, COST))
    found = linprog(-reward, A_ub=cost[None], b_ub=[limit], A_eq=flows, b_eq=inflow, bounds=(0, 1))
    assert found.success
    return -found.fun, float(cost @ found.x)
