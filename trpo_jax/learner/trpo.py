"""TRPO as pure functions: `make_trpo` -> init, update, train, act, evaluate."""

import functools
from collections.abc import Callable
from typing import Any, get_args

import jax

from trpo_jax.common.checks import require_whole_number
from trpo_jax.common.compilation import RUN_ONCE, keep_programs, program
from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.envs.base import Environment
from trpo_jax.envs.checks import check_is_environment
from trpo_jax.envs.host import HostEnvironment
from trpo_jax.learner import acting
from trpo_jax.learner.agent import (
    DEFAULT_HPARAMS,
    Agent,
    act_with,
    evaluate_with,
    initial_carry_of,
    require_own_state,
    scalars,
    typed_key,
)
from trpo_jax.learner.assembly import assemble
from trpo_jax.learner.beginning import begin
from trpo_jax.learner.evaluation import evaluate
from trpo_jax.learner.host_agent import build_host_agent
from trpo_jax.learner.learn import learn
from trpo_jax.learner.parts import PolicyStep, ValueFit
from trpo_jax.learner.rollout import rollout
from trpo_jax.learner.types import TrainState, Trajectory
from trpo_jax.policies.policy import Critic, Policy, RecurrentCritic, RecurrentPolicy
from trpo_jax.solver.trust_region import trust_region_step


def make_trpo(
    env: Environment,
    config: TRPOConfig = TRPOConfig(),  # noqa: B008 - frozen
    *,
    policy_step: Callable[..., Any] | PolicyStep = trust_region_step,
    policy: Policy | RecurrentPolicy | None = None,
    critic: Critic | RecurrentCritic | None = None,
    value_fit: ValueFit | None = None,
) -> Agent:
    """Build an agent for an environment, `env`.

    Parts that are not given come from the configuration: the networks from `hidden_sizes` and the
    spaces, the policy step from `algorithm`, the value fit from `value_optimizer`.
    `policy_step(objective, params, batch, hparams, config) -> (params, info)` improves the policy;
    `info` is a `StepInfo` or `TrustRegionInfo`. A `PolicyStep` may also carry state and draw random
    numbers, and so may a `ValueFit`,
    `value_fit`. `policy_from_flax` and `critic_from_flax` wrap flax modules.
    A `RecurrentPolicy` or `RecurrentCritic` has a memory, whatever `memory` says.
    The same arguments return the same agent, so calling again compiles nothing. Raises `ValueError`
    if the environment does not satisfy the interface `Environment`, or if a part does not fit it.
    """
    check_is_environment(env)
    if not isinstance(config, TRPOConfig):
        raise ValueError(f"config={config!r} must be a TRPOConfig; HParams go to update and train")
    if not (callable(policy_step) or isinstance(policy_step, PolicyStep)):
        raise ValueError(f"policy_step={policy_step!r} must be a function or a PolicyStep")
    parts: tuple[tuple[str, Any, Any], ...] = (
        ("policy", policy, Policy | RecurrentPolicy),
        ("critic", critic, Critic | RecurrentCritic),
        ("value_fit", value_fit, ValueFit),
    )
    for name, part, kind in parts:
        if not isinstance(part, kind | None):
            kinds = " or ".join(each.__name__ for each in get_args(kind) or (kind,))
            raise ValueError(
                f"{name}={part!r} must be a trpo_jax.{kinds}; wrap a flax module with "
                "policy_from_flax or critic_from_flax"
            )
    own_step = None if policy_step is trust_region_step else policy_step
    return build_agent(env, config, own_step, policy, critic, value_fit)


@functools.lru_cache(maxsize=16)
def build_agent(
    env: Environment,
    config: TRPOConfig,
    policy_step: Callable[..., Any] | PolicyStep | None = None,
    policy: Policy | RecurrentPolicy | None = None,
    critic: Critic | RecurrentCritic | None = None,
    value_fit: ValueFit | None = None,
) -> Agent:
    """`make_trpo` without its checks; `build_agent.cache_clear()` drops the cached agents."""
    keep_programs()
    parts = assemble(env, config, policy_step, policy, critic, value_fit)
    if isinstance(env, HostEnvironment):
        return build_host_agent(parts)
    act = jax.jit(functools.partial(acting.act, parts), static_argnames="deterministic")
    play = program(
        functools.partial(evaluate, parts),
        static_argnames=("num_episodes", "deterministic", "max_steps"),
    )
    collect = functools.partial(rollout, env=env, policy=parts.policy, config=config)
    compiled_init = program(functools.partial(begin, parts), wanted=RUN_ONCE)
    compiled_learn = program(functools.partial(learn, parts))

    def one_update(state: TrainState, hparams: HParams):
        return learn(parts, *collect(state), hparams)

    def several_updates(state: TrainState, hparams: HParams, num_updates: int):
        return jax.lax.scan(
            lambda carried, _: compiled_update(carried, hparams), state, length=num_updates
        )

    compiled_update = program(one_update)
    compiled_train = program(several_updates, static_argnames=("num_updates",))

    def init(key: jax.Array, policy_params: Any = None, value_params: Any = None) -> TrainState:
        return compiled_init(typed_key(key), policy_params, value_params)

    # Hyperparameters become float32 arrays: one program for Python numbers and arrays alike.
    def learn_from(state: TrainState, trajectory: Trajectory, hparams: HParams = DEFAULT_HPARAMS):
        require_own_state(state, parts)
        return compiled_learn(state, trajectory, scalars(hparams))

    def update(state: TrainState, hparams: HParams = DEFAULT_HPARAMS):
        require_own_state(state, parts)
        return compiled_update(state, scalars(hparams))

    def train(state: TrainState, hparams: HParams = DEFAULT_HPARAMS, num_updates: int = 1):
        require_own_state(state, parts)
        require_whole_number("num_updates", num_updates)
        return compiled_train(state, scalars(hparams), int(num_updates))

    return Agent(
        init=init,
        update=update,
        train=train,
        act=functools.partial(act_with, act),
        evaluate=functools.partial(evaluate_with, play),
        rollout=jax.jit(collect),
        learn=learn_from,
        policy=parts.policy,
        critic=parts.critic,
        parts=parts,
        initial_carry=functools.partial(initial_carry_of, parts),
    )
