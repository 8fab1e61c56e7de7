"""tianshou's TRPO, in its own virtual environment."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import given
import gymnasium
import numpy as np
import torch
import torch_side
from protocol import Settings, serve
from tianshou.algorithm import TRPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from tianshou.utils.torch_utils import policy_within_training_step, torch_train_mode

logging.disable(logging.WARNING)
warnings.simplefilter("ignore")


def _gaussian(parameters: tuple[torch.Tensor, torch.Tensor]) -> torch.distributions.Distribution:
    return torch.distributions.Independent(torch.distributions.Normal(*parameters), 1)


def _categorical(logits: torch.Tensor) -> torch.distributions.Distribution:
    return torch.distributions.Categorical(logits=logits)


def _linears(*modules: torch.nn.Module) -> list[torch.nn.Linear]:
    parts = [part for module in modules for part in module.modules()]
    return [part for part in parts if isinstance(part, torch.nn.Linear)]


def _algorithm(obs_size: int, space: gymnasium.Space, settings: Settings) -> TRPO:
    """The peer at the common settings; layers initialised as its own examples do.

    Its damping (0.1), its 10 CG iterations and its value fit on the full batch cannot be changed:
    an epoch here is one step of Adam.
    """
    if settings.cg_iterations != 10 or settings.cg_damping != 0.1:
        raise ValueError("tianshou always makes 10 CG iterations with damping 0.1")

    def body() -> Net:
        sizes = list(settings.hidden_sizes)
        return Net(state_shape=(obs_size,), hidden_sizes=sizes, activation=torch.nn.Tanh)

    actor: Any
    critic: Any
    is_box = isinstance(space, gymnasium.spaces.Box)
    if is_box:
        actor = ContinuousActorProbabilistic(
            preprocess_net=body(), action_shape=space.shape, unbounded=True
        )
        critic, last = ContinuousCritic(preprocess_net=body()), actor.mu
    else:
        actor = DiscreteActor(preprocess_net=body(), action_shape=space.n, softmax_output=False)
        critic, last = DiscreteCritic(preprocess_net=body()), actor.last
    for linear in _linears(actor, critic):
        torch.nn.init.orthogonal_(linear.weight, gain=np.sqrt(2))
        torch.nn.init.zeros_(linear.bias)
    for linear in _linears(last):
        linear.weight.data *= 0.01
    policy = ProbabilisticActorPolicy(
        actor=actor,
        dist_fn=_gaussian if is_box else _categorical,
        action_space=space,
        deterministic_eval=True,
        action_scaling=is_box,
        action_bound_method="clip" if is_box else None,
    )
    return TRPO(
        policy=policy,
        critic=critic,
        optim=AdamOptimizerFactory(lr=settings.learning_rate),
        max_kl=settings.max_kl,
        backtrack_coeff=settings.backtrack_factor,
        max_backtracks=settings.line_search_tries,
        optim_critic_iters=settings.epochs,
        gae_lambda=settings.gae_lambda,
        gamma=settings.gamma,
        max_batchsize=settings.batch_size,
    )


class Training:
    """What its on-policy trainer does, without logging and progress bar."""

    def __init__(self, settings: Settings, seed: int, num_updates: int):
        del num_updates
        self.settings = settings
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - what the peer draws from
        envs = DummyVectorEnv([lambda: gymnasium.make(settings.env_id)] * settings.num_envs)
        envs.seed(seed)
        one = gymnasium.make(settings.env_id)
        self.algorithm = _algorithm(one.observation_space.shape[0], one.action_space, settings)
        buffer = VectorReplayBuffer(settings.batch_size, settings.num_envs)
        self.collector = Collector(self.algorithm, envs, buffer, raise_on_nan_in_buffer=False)
        self.collector.reset()

    def train(self, num_updates: int) -> None:
        with policy_within_training_step(self.algorithm.policy):
            for _ in range(num_updates):
                self.collector.collect(n_step=self.settings.batch_size)
                self.algorithm.update(buffer=self.collector.buffer, batch_size=None, repeat=1)
                self.collector.reset_buffer(keep_statistics=True)

    def evaluate(self, num_episodes: int, seed: int) -> np.ndarray:
        policy = self.algorithm.policy

        def act(obs: np.ndarray) -> np.ndarray:
            with torch.no_grad(), torch_train_mode(policy, enabled=False):
                action = policy(Batch(obs=obs, info=Batch())).act
            return policy.map_action(action.numpy())

        return torch_side.evaluate(self.settings.env_id, num_episodes, seed, act)


class _NoCritic(torch.nn.Module):
    """One number for all: its fit costs next to nothing, so that the policy step is left."""

    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(1))

    def forward(self, obs, **kwargs):
        return self.value.expand(len(obs))


class Update:
    """The peer's update on a batch as it prepares one; it only fits the full batch.

    Its KL is joint whatever is asked.
    """

    def __init__(self, settings: Settings, arrays: given.Arrays, joint: bool):
        del joint
        space = torch_side.space_of(arrays)
        self.algorithm = _algorithm(arrays["obs"].shape[1], space, settings)
        action = torch.from_numpy(arrays["action"])
        self.batch = Batch(
            obs=arrays["obs"],
            act=action if isinstance(space, gymnasium.spaces.Box) else action.long(),
            adv=torch.from_numpy(arrays["advantage"]),
            returns=torch.from_numpy(arrays["value_target"]),
            logp_old=torch.from_numpy(arrays["log_prob"]),
            info=Batch(),
        )
        idle = _NoCritic()
        idle_optimizer = self.algorithm._create_optimizer(idle, AdamOptimizerFactory(lr=1e-3))
        fitted = self.algorithm.critic, self.algorithm.optim, settings.epochs
        self.arrays, self.fits = arrays, {"none": (idle, idle_optimizer, 1), "full": fitted}
        actor, critic = self.algorithm.policy.actor, self.algorithm.critic
        last = actor.mu if hasattr(actor, "mu") else actor.last
        self.networks = (
            {
                "policy": _linears(actor.preprocess, last),
                "value": _linears(critic.preprocess, critic.last),
            },
            getattr(actor, "sigma_param", None),
        )

    def ready(self, fit: str) -> Callable[[], Any]:
        algorithm = self.algorithm
        algorithm.critic, algorithm.optim, algorithm.optim_critic_iters = self.fits[fit]
        algorithm.optim._optim.state.clear()
        torch_side.write_layers(*self.networks, self.arrays)

        def update() -> None:
            with torch_train_mode(algorithm):
                algorithm._update_with_batch(self.batch, batch_size=None, repeat=1)

        return update

    def weights(self) -> given.Arrays:
        return torch_side.read_layers(*self.networks)


if __name__ == "__main__":
    packages = ("tianshou", "torch", "gymnasium", "numpy")
    serve(packages, Training, Update, one_step=torch_side.one_step)
