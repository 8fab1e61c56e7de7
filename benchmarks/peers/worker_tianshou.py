"""tianshou's TRPO, in its own virtual environment."""

import logging
import warnings
from importlib.metadata import version
from typing import Any

import given
import gymnasium
import gymnasium_side
import numpy as np
import torch
import torch_side
from protocol import Settings, serve, timed
from tianshou.algorithm import TRPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from tianshou.utils.torch_utils import policy_within_training_step, torch_train_mode

_runs: dict[str, dict[str, Any]] = {}
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")


def describe() -> dict[str, Any]:
    packages = ("tianshou", "torch", "gymnasium", "numpy")
    return {
        "versions": {name: version(name) for name in packages},
        "threads": torch.get_num_threads(),
    }


def _gaussian(parameters: tuple[torch.Tensor, torch.Tensor]) -> torch.distributions.Distribution:
    return torch.distributions.Independent(torch.distributions.Normal(*parameters), 1)


def _categorical(logits: torch.Tensor) -> torch.distributions.Distribution:
    return torch.distributions.Categorical(logits=logits)


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
    if isinstance(space, gymnasium.spaces.Box):
        actor = ContinuousActorProbabilistic(
            preprocess_net=body(), action_shape=space.shape, unbounded=True
        )
        critic, last = ContinuousCritic(preprocess_net=body()), actor.mu
    else:
        actor = DiscreteActor(preprocess_net=body(), action_shape=space.n, softmax_output=False)
        critic, last = DiscreteCritic(preprocess_net=body()), actor.last
    for module in [*actor.modules(), *critic.modules()]:
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.orthogonal_(module.weight, gain=np.sqrt(2))
            torch.nn.init.zeros_(module.bias)
    for module in last.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data *= 0.01
    policy = ProbabilisticActorPolicy(
        actor=actor,
        dist_fn=_gaussian if isinstance(space, gymnasium.spaces.Box) else _categorical,
        action_space=space,
        deterministic_eval=True,
        action_scaling=isinstance(space, gymnasium.spaces.Box),
        action_bound_method="clip" if isinstance(space, gymnasium.spaces.Box) else None,
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


def prepare(run: str, settings: dict, seed: int, num_updates: int) -> dict[str, Any]:
    """Initialise."""
    del num_updates
    chosen = Settings(**settings)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what the peer draws from
    envs = DummyVectorEnv([lambda: gymnasium.make(chosen.env_id)] * chosen.num_envs)
    envs.seed(seed)
    single = gymnasium.make(chosen.env_id)
    algorithm = _algorithm(single.observation_space.shape[0], single.action_space, chosen)
    buffer = VectorReplayBuffer(chosen.batch_size, chosen.num_envs)
    collector = Collector(algorithm, envs, buffer, raise_on_nan_in_buffer=False)
    collector.reset()
    _runs[run] = {"settings": chosen, "algorithm": algorithm, "collector": collector}
    return {}


def updates(run: str, num_updates: int) -> dict[str, Any]:
    """What its on-policy trainer does, without logging and progress bar."""
    algorithm, collector = _runs[run]["algorithm"], _runs[run]["collector"]

    def train() -> None:
        with policy_within_training_step(algorithm.policy):
            for _ in range(num_updates):
                collector.collect(n_step=_runs[run]["settings"].batch_size)
                algorithm.update(buffer=collector.buffer, batch_size=None, repeat=1)
                collector.reset_buffer(keep_statistics=True)

    return timed(train)


def evaluate(run: str, num_episodes: int, seed: int) -> dict[str, Any]:
    policy, env_id = _runs[run]["algorithm"].policy, _runs[run]["settings"].env_id

    def act(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad(), torch_train_mode(policy, enabled=False):
            action = policy(Batch(obs=obs, info=Batch())).act
        return policy.map_action(action.numpy())

    returns = gymnasium_side.evaluate(env_id, num_episodes, 1_000_000 + 1000 * seed, act)
    return {"returns": returns}


class _NoCritic(torch.nn.Module):
    """One number for all: its fit costs next to nothing, so that the policy step is left."""

    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(1))

    def forward(self, obs, **kwargs):
        return self.value.expand(len(obs))


def load_batch(run: str, settings: dict, path: str, joint: bool) -> dict[str, Any]:
    """A batch as the peer's `update` prepares it. Its KL is joint whatever is asked."""
    del joint
    chosen, arrays = Settings(**settings), given.load(path)
    outputs = arrays[f"policy_b{given.num_layers(arrays, 'policy') - 1}"].size
    is_box = "policy_log_std" in arrays
    box = gymnasium.spaces.Box(-1.0, 1.0, (outputs,), np.float32)
    space = box if is_box else gymnasium.spaces.Discrete(outputs)
    algorithm = _algorithm(arrays["obs"].shape[1], space, chosen)
    action = torch.from_numpy(arrays["action"])
    batch = Batch(
        obs=arrays["obs"],
        act=action if is_box else action.long(),
        adv=torch.from_numpy(arrays["advantage"]),
        returns=torch.from_numpy(arrays["value_target"]),
        logp_old=torch.from_numpy(arrays["log_prob"]),
        info=Batch(),
    )
    fitted = algorithm.critic, algorithm.optim
    idle = _NoCritic()
    nothing = idle, algorithm._create_optimizer(idle, AdamOptimizerFactory(lr=1e-3))
    _runs[run] = {
        "algorithm": algorithm,
        "batch": batch,
        "arrays": arrays,
        "epochs": chosen.epochs,
        "fitted": fitted,
        "nothing": nothing,
    }
    return {}


def _networks(given_run: dict[str, Any]) -> tuple[dict[str, list], torch.nn.Parameter | None]:
    actor, critic = given_run["algorithm"].policy.actor, given_run["fitted"][0]

    def linears(*modules: torch.nn.Module) -> list:
        parts = [part for module in modules for part in module.modules()]
        return [part for part in parts if isinstance(part, torch.nn.Linear)]

    last = actor.mu if hasattr(actor, "mu") else actor.last
    layers = {
        "policy": linears(actor.preprocess, last),
        "value": linears(critic.preprocess, critic.last),
    }
    return layers, getattr(actor, "sigma_param", None)


def update_once(run: str, fit: str) -> dict[str, Any]:
    """The peer's update from the given parameters; it only fits the full batch."""
    chosen = _runs[run]
    algorithm = chosen["algorithm"]
    algorithm.critic, algorithm.optim = chosen["nothing" if fit == "none" else "fitted"]
    algorithm.optim_critic_iters = 1 if fit == "none" else chosen["epochs"]
    algorithm.optim._optim.state.clear()
    torch_side.write_layers(*_networks(chosen), chosen["arrays"])

    def update() -> None:
        with torch_train_mode(algorithm):
            algorithm._update_with_batch(chosen["batch"], batch_size=None, repeat=1)

    return timed(update)


def save_update(run: str, path: str) -> dict[str, Any]:
    given.save(path, torch_side.read_layers(*_networks(_runs[run])))
    return {}


if __name__ == "__main__":
    serve(
        {
            "describe": describe,
            "prepare": prepare,
            "updates": updates,
            "evaluate": evaluate,
            "one_step": gymnasium_side.one_step,
            "load_batch": load_batch,
            "update_once": update_once,
            "save_update": save_update,
        }
    )
