"""Real trainings under a guard for `guard.py`: healthy ones, and ones that collapse now and then.

The faults are the doctor's (`injected.py`). They begin at random and last for a while: after a roll
back the state of the policy step is that of the policy in service, so that training is healthy
again until the next fault.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import injected
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import trpo_jax
from trpo_jax.experiments import run_directory as layout
from trpo_jax.experiments import states
from trpo_jax.experiments.checkpoints import Checkpoints
from trpo_jax.experiments.files import create_directory, read_lines
from trpo_jax.experiments.guard.settings import Guard
from trpo_jax.experiments.runner import carry_out
from trpo_jax.learner.parts import PolicyStep
from trpo_jax.solver.trust_region import trust_region_step

ENV_ID, MAX_STEPS = "CartPole-v1", 100
FAULTS = (injected.wrong_sign, injected.favoured_action)
OPTIONS = trpo_jax.RunOptions(
    checkpoint_every=10**6, keep=200, eval_every=0, eval_episodes=8, tensorboard=False
)
_FIRST, _HAZARD, _DURATION = 40, 0.05, 40
_EPISODES = 4096


class Guarded(NamedTuple):
    """What a run under a guard has done."""

    worst_step: float
    """The largest fall of the true mean return from one policy in service to the next."""
    worst_fall: float
    """The largest fall below the best policy that was ever in service before."""
    in_service: float
    """True mean return of the policy in service at the end."""
    learner: float
    """That of the policy that was trained last."""
    replaced: int
    rolled_back: int
    tests: int
    share: float
    """Steps of all tests, as a share of those of training."""


def recurring(fault: Callable[..., Any] | None) -> PolicyStep:
    """The library's step, in which a fault of the doctor's returns now and then."""
    healthy = injected.changed_step()
    faulty = healthy if fault is None else fault(ENV_ID).policy_step

    def init(params):
        return jnp.int32(0), jnp.int32(0)

    def apply(key, objective, params, state, batch, hparams, config):
        count, left = state
        begins = (count >= _FIRST) & (jax.random.uniform(key) < _HAZARD)
        left = jnp.where(left > 0, left - 1, jnp.where(begins, _DURATION, 0))
        params, info = jax.lax.cond(
            left > 0,
            lambda: faulty(objective, params, batch, hparams, config),
            lambda: healthy(objective, params, batch, hparams, config),
        )
        return params, (count + 1, left.astype(jnp.int32)), info

    return PolicyStep(init, apply)


def make_agent(fault: Callable[..., Any] | None) -> trpo_jax.Agent:
    env = trpo_jax.make_env(ENV_ID, env_params={"max_steps_in_episode": MAX_STEPS})
    preset = trpo_jax.get_preset(ENV_ID)
    step = trust_region_step if fault is None else recurring(fault)
    return trpo_jax.make_trpo(env, preset.config, policy_step=step)


def train(agent: trpo_jax.Agent, guard: Guard, seed: int, steps: int, path: Path) -> Any:
    """Train in a run directory; returns the last state."""
    hparams = trpo_jax.get_preset(ENV_ID).hparams
    spec = states.spec_of(agent, hparams, seed, 1)._replace(guard=guard)
    run = layout.make_run(create_directory(path), spec, steps, OPTIONS)
    carry_out(run, agent, Console(quiet=True))
    return states.final_state(run, agent)


def true_return(agent: trpo_jax.Agent, state: Any) -> float:
    """Mean return of a policy over so many episodes that its error does not matter."""
    stats = agent.evaluate(state, jax.random.key(987_654_321), num_episodes=_EPISODES)
    return float(np.asarray(stats.returns, np.float64).mean())


def guarded(agent: trpo_jax.Agent, guard: Guard, seed: int, steps: int, path: Path) -> Guarded:
    """Train under a guard, and measure every policy that came into service."""
    last = train(agent, guard, seed, steps, path)
    lines = read_lines(path / layout.GUARD)
    with contextlib.closing(Checkpoints(path / layout.BEST)) as best:
        returns = [true_return(agent, best.restore(each, last)) for each in best.updates()]
    actions = [line["action"] for line in lines]
    ever = np.maximum.accumulate(returns)
    return Guarded(
        worst_step=float(np.max(-np.diff(returns), initial=0.0)),
        worst_fall=float(np.max(ever - returns)),
        in_service=returns[-1],
        learner=true_return(agent, last),
        replaced=actions.count("replaced"),
        rolled_back=actions.count("rolled back"),
        tests=sum(line["num_pairs"] > 0 for line in lines),
        share=max(line["share"] for line in lines),
    )
