"""Gymnasium environments whose observations tell which episode and step they belong to."""

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 5


class Counting(gymnasium.Env):
    """Observation (identity, episode, step); episode k has LENGTH + k mod 3 steps.

    Episodes end by termination and by truncation in turn. The reward is the step.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.identity, self.episode, self.time = 0, -1, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.identity = seed % 1000
        self.episode, self.time = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action):
        assert not self.over, "stepped after its end"
        self.time += 1
        even = self.episode % 2 == 0
        return self._obs(), float(self.time), self.over and even, self.over and not even, {}

    @property
    def over(self):
        return self.time == LENGTH + self.episode % 3

    def _obs(self):
        return np.array([self.identity, self.episode, self.time], np.float64)


class Rich(gymnasium.Env):
    """Dict observations of every kind, offset and nested discrete actions, a mask, metrics."""

    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (6, 6, 3), np.uint8),
            "pair": spaces.Tuple((spaces.Discrete(3, start=5), spaces.MultiBinary(2))),
            "vector": spaces.Box(-1, 1, (2,), np.float32),
        }
    )
    action_space = spaces.Dict(
        {
            "a": spaces.Discrete(3, start=-1),
            "b": spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 4], start=[1, 0]))),
        }
    )

    def __init__(self):
        self.taken, self.time = [], 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.taken.append(action)
        self.time += 1
        return self._obs(), 1.0, self.time == 4, False, {"height": self.time / 2, "note": "x"}

    def _obs(self):
        return {
            "image": np.full((6, 6, 3), self.time, np.uint8),
            "pair": (5 + self.time % 3, np.array([1, self.time % 2], np.int8)),
            "vector": np.array([self.time / 4, 0], np.float32),
        }


class Masked(gymnasium.Env):
    """Of six actions only one is allowed, and it changes; anything else is an error."""

    observation_space = spaces.Discrete(6)
    action_space = spaces.Discrete(6)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return 0, self._info()

    def step(self, action):
        assert action == self.time % 6, (action, self.time)
        self.time += 1
        return self.time % 6, 1.0, False, self.time == 20, self._info()

    def _info(self):
        return {"action_mask": (np.arange(6) == self.time % 6).astype(np.int8)}


class Hurt(Counting):
    """Counting, with a fault in step 3 of episode 1: "raise", "nan reward" or "nan obs"."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if (self.episode, self.time) == (1, 3):
            if self.fault == "raise":
                raise RuntimeError("the simulator\nis broken")
            if self.fault == "nan reward":
                reward = float("nan")
            else:
                obs = obs * np.nan
        return obs, reward, terminated, truncated, info


class Odd(Counting):
    """Counting, with another observation, reward, action space or mask, as given."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, obs=None, reward=None, action_space=None, mask=None):
        super().__init__()
        self.odd, self.reward, self.mask = obs, reward, mask
        self.action_space = self.action_space if action_space is None else action_space

    def reset(self, *, seed=None, options=None):
        obs, _ = super().reset(seed=seed)
        return obs, {} if self.mask is None else {"action_mask": self.mask}

    def step(self, action):
        assert self.action_space.contains(action), action
        obs, reward, terminated, truncated, _ = super().step(action)
        info = {} if self.mask is None else {"action_mask": self.mask}
        obs = obs if self.odd is None else self.odd
        return obs, reward if self.reward is None else self.reward, terminated, truncated, info
