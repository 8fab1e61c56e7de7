"""TRPO as pure functions: `make_trpo` -> init, update, train, act, evaluate."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.config import HParams, TRPOConfig, require_whole_number
from trpo_jax.envs.base import Box, Discrete, Environment, reset_batch
from trpo_jax.envs.checks import check_environment, check_is_environment
from trpo_jax.learner import acting
from trpo_jax.learner.evaluation import EpisodeStats, evaluate
from trpo_jax.learner.learn import learn
from trpo_jax.learner.monitoring import UpdateMetrics
from trpo_jax.learner.normalization import init_statistics
from trpo_jax.learner.policy_step import PolicyStep, as_policy_step
from trpo_jax.learner.rollout import begin_episodes, rollout
from trpo_jax.learner.types import TrainState, Trajectory
from trpo_jax.learner.value import init_value_optimizer
from trpo_jax.policies.networks import (
    Body,
    CategoricalHead,
    Critic,
    GaussianHead,
    MultiCategoricalHead,
    Policy,
    make_critic,
    make_policy,
)
from trpo_jax.solver.trust_region import trust_region_step

_DEFAULTS = HParams()


class Agent(NamedTuple):
    """The functions that make up an agent. All pure, all compiled on first use.

    They compose with `jit`, `vmap`, `scan` and sharding. `policy` and `critic` are there for
    whoever wants to look inside.
    """

    init: Callable[[jax.Array], TrainState]
    """key -> state. Safe under `vmap`."""
    update: Callable[..., tuple[TrainState, UpdateMetrics]]
    """(state, hparams) -> (state, metrics): rollout, advantages, policy step, value fit."""
    train: Callable[..., tuple[TrainState, UpdateMetrics]]
    """(state, hparams, num_updates=…) -> (state, history): a scan of `update`."""
    act: Callable[..., jax.Array]
    """(state, key, obs [..., *obs_shape], deterministic=False) -> action for the environment."""
    evaluate: Callable[..., EpisodeStats]
    """(state, key, num_episodes=128, deterministic=True, max_steps=None) -> returns, lengths."""
    rollout: Callable[[TrainState], tuple[TrainState, Trajectory]]
    """state -> (state, trajectory): the first half of `update`."""
    learn: Callable[..., tuple[TrainState, UpdateMetrics]]
    """(state, trajectory, hparams) -> (state, metrics): the second half. Stale data is refused."""
    policy: Policy
    """The policy network as functions."""
    critic: Critic
    """The value network as functions."""


def make_trpo(
    env: Environment,
    config: TRPOConfig = TRPOConfig(),  # noqa: B008 - frozen
    policy_step: Callable[..., Any] | PolicyStep = trust_region_step,
) -> Agent:
    """Build an agent for an environment.

    `policy_step(objective, params, batch, hparams, config) -> (params, TrustRegionInfo)` is the
    policy improvement; a `PolicyStep` may keep a state and draws its own random numbers. The same
    arguments return the same agent, so that calling again compiles nothing anew. Raises
    `ValueError` if the environment does not keep the promises of `Environment`.
    """
    check_is_environment(env)
    if not (callable(policy_step) or isinstance(policy_step, PolicyStep)):
        raise ValueError(f"policy_step={policy_step!r} must be a function or a PolicyStep")
    if not isinstance(config, TRPOConfig):
        raise ValueError(f"config={config!r} must be a TRPOConfig; HParams go to update and train")
    return build_agent(env, config, policy_step)


@functools.lru_cache(maxsize=16)
def build_agent(
    env: Environment, config: TRPOConfig, policy_step: Callable[..., Any] | PolicyStep
) -> Agent:
    """`make_trpo` without its checks; `build_agent.cache_clear()` forgets the agents so far."""
    check_environment(env)
    policy, critic = _networks(env, config)
    step = as_policy_step(policy_step, config)
    collect = functools.partial(rollout, env=env, policy=policy, config=config)
    improve = functools.partial(learn, policy=policy, critic=critic, config=config, step=step)
    play = functools.partial(evaluate, env=env, policy=policy, config=config)
    choose = functools.partial(acting.act, env=env, policy=policy, config=config)
    compiled_act = jax.jit(choose, static_argnames="deterministic")
    compiled_play = jax.jit(play, static_argnames=("num_episodes", "deterministic", "max_steps"))

    @jax.jit
    def compiled_init(key: jax.Array) -> TrainState:
        return _init(key, env, config, policy, critic, step)

    @jax.jit
    def compiled_learn(state: TrainState, trajectory: Trajectory, hparams: HParams):
        return improve(state, trajectory, hparams)

    @jax.jit
    def compiled_update(state: TrainState, hparams: HParams):
        return improve(*collect(state), hparams)

    @functools.partial(jax.jit, static_argnames="num_updates")
    def compiled_train(state: TrainState, hparams: HParams, num_updates: int):
        return jax.lax.scan(
            lambda carried, _: compiled_update(carried, hparams), state, length=num_updates
        )

    def init(key: jax.Array) -> TrainState:
        return compiled_init(_typed(key))

    # Hyperparameters go in as float32 arrays: one program for Python numbers and arrays alike.
    def learn_from(state: TrainState, trajectory: Trajectory, hparams: HParams = _DEFAULTS):
        _check_batch(state, config, env)
        return compiled_learn(state, trajectory, _scalars(hparams))

    def update(state: TrainState, hparams: HParams = _DEFAULTS):
        _check_batch(state, config, env)
        return compiled_update(state, _scalars(hparams))

    def train(state: TrainState, hparams: HParams = _DEFAULTS, num_updates: int = 1):
        _check_batch(state, config, env)
        require_whole_number("num_updates", num_updates)
        return compiled_train(state, _scalars(hparams), int(num_updates))

    return Agent(
        init=init,
        update=update,
        train=train,
        act=functools.partial(_act, compiled_act),
        evaluate=functools.partial(_evaluate, compiled_play),
        rollout=jax.jit(collect),
        learn=learn_from,
        policy=policy,
        critic=critic,
    )


def _act(
    compiled: Callable[..., jax.Array],
    state: TrainState,
    key: jax.Array,
    obs: jax.Array,
    deterministic: bool = False,
) -> jax.Array:
    return compiled(state, _typed(key), jnp.asarray(obs), deterministic=deterministic)


def _evaluate(
    compiled: Callable[..., EpisodeStats],
    state: TrainState,
    key: jax.Array,
    num_episodes: int = 128,
    deterministic: bool = True,
    max_steps: int | None = None,
) -> EpisodeStats:
    require_whole_number("num_episodes", num_episodes)
    if max_steps is not None:
        require_whole_number("max_steps", max_steps)
    return compiled(state, _typed(key), int(num_episodes), deterministic, max_steps)


def _typed(key: Any) -> jax.Array:
    """A key of `jax.random.key`; one of the older `PRNGKey` is converted."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype != jnp.uint32:
        raise ValueError(f"key={key!r} must be a random key; use jax.random.key(0)")
    return jax.random.wrap_key_data(key)


def _check_batch(state: TrainState, config: TRPOConfig, env: Environment) -> None:
    """Raise `ValueError` unless a state has as many environments as the configuration."""
    wanted = (config.num_envs, *env.obs_shape)
    if jnp.shape(state.obs) != wanted:
        raise ValueError(
            f"state.obs has shape {jnp.shape(state.obs)}; this agent's is {wanted}: take a state "
            "of its own `init`, and `jax.vmap` for several states"
        )


def _scalars(hparams: HParams) -> HParams:
    """Hyperparameters as scalar arrays. Raises `ValueError` if they are for a `vmap` around."""
    if not isinstance(hparams, HParams):
        raise ValueError(f"hparams={hparams!r} must be an HParams")
    arrays = hparams.as_arrays()
    for name, value in vars(arrays).items():
        if value.ndim:
            raise ValueError(
                f"{name} has shape {value.shape}; one run takes one number: vmap over the settings"
            )
    return arrays


def _init(key, env: Environment, config: TRPOConfig, policy, critic, step) -> TrainState:
    keys = jax.random.split(key, 3 + config.num_envs)
    state_key, policy_key, value_key, reset_keys = keys[0], keys[1], keys[2], keys[3:]
    policy_params = policy.init(policy_key)
    value_params = critic.init(value_key)
    env_state, obs = reset_batch(env, reset_keys)
    adam = config.value_optimizer == "adam"
    return TrainState(
        key=state_key,
        num_updates=jnp.zeros((), jnp.int32),
        policy_params=policy_params,
        value_params=value_params,
        value_opt_state=init_value_optimizer(value_params) if adam else (),
        policy_step_state=step.init(policy_params),
        obs_statistics=init_statistics(env.obs_shape),
        return_statistics=init_statistics(()),
        env_state=env_state,
        obs=obs,
        episodes=begin_episodes(config.num_envs),
    )


def _networks(env: Environment, config: TRPOConfig) -> tuple[Policy, Critic]:
    body = _body(env, config)
    return make_policy(body, _head(env, config)), make_critic(body)


def _body(env: Environment, config: TRPOConfig) -> Body:
    is_image = len(env.obs_shape) == 3
    if config.network == "cnn" and not is_image:
        raise ValueError(
            f"network='cnn' needs observations [height, width, channels]; those of {env.name} "
            f"have shape {env.obs_shape}; use network='mlp'"
        )
    return Body(
        obs_shape=env.obs_shape,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        convolutional=is_image and config.network != "mlp",
    )


def _head(env: Environment, config: TRPOConfig):
    space = env.action_space
    if isinstance(space, Box):
        return GaussianHead(space.num_dimensions, config.initial_log_std)
    if isinstance(space, Discrete):
        return CategoricalHead(space.num_actions)
    return MultiCategoricalHead(tuple(space.num_categories))
