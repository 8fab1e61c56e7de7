"""TRPO as pure functions: `make_trpo` -> init, update, train, act, evaluate."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.envs.base import Box, Discrete, Environment, reset_batch
from trpo_jax.learner import acting, evaluation
from trpo_jax.learner.batch import prepare_batch
from trpo_jax.learner.evaluation import EpisodeStats
from trpo_jax.learner.monitoring import (
    OFF_POLICY_GAP,
    UpdateMetrics,
    record_episodes,
    update_metrics,
)
from trpo_jax.learner.normalization import init_statistics, update_statistics
from trpo_jax.learner.rollout import begin_episodes, rollout
from trpo_jax.learner.types import Batch, TrainState, Trajectory
from trpo_jax.learner.value import fit_value, init_value_optimizer
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
from trpo_jax.solver import trees
from trpo_jax.solver.trust_region import (
    Objective,
    StepStatus,
    TrustRegionInfo,
    trust_region_step,
)


class PolicyStep(NamedTuple):
    """A policy improvement that carries a state from update to update, such as Adam's."""

    init: Callable[[Any], Any]
    """policy_params -> step state."""
    apply: Callable[..., tuple[Any, Any, TrustRegionInfo]]
    """(key, objective, params, state, batch, hparams, config) -> (params, state, info)."""


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


@functools.lru_cache(maxsize=64)
def make_trpo(
    env: Environment,
    config: TRPOConfig = TRPOConfig(),  # noqa: B008 - frozen
    policy_step: Callable[..., Any] | PolicyStep = trust_region_step,
) -> Agent:
    """Build an agent for an environment.

    `policy_step(objective, params, batch, hparams, config) -> (params, TrustRegionInfo)` is the
    policy improvement; a `PolicyStep` may keep a state and draws its own random numbers. The same
    arguments return the same agent, so that calling again compiles nothing anew.
    """
    policy = make_policy(_body(env, config), _head(env, config))
    critic = make_critic(_body(env, config))
    step = policy_step if isinstance(policy_step, PolicyStep) else _stateless(policy_step)
    collect = functools.partial(rollout, env=env, policy=policy, config=config)

    @jax.jit
    def init(key: jax.Array) -> TrainState:
        return _init(key, env, config, policy, critic, step)

    @jax.jit
    def learn(state: TrainState, trajectory: Trajectory, hparams: HParams):
        return _learn(state, trajectory, hparams, policy, critic, config, step)

    @jax.jit
    def update(state: TrainState, hparams: HParams):
        return _learn(*collect(state), hparams, policy, critic, config, step)

    @functools.partial(jax.jit, static_argnames="num_updates")
    def train(state: TrainState, hparams: HParams, num_updates: int):
        return jax.lax.scan(lambda s, _: update(s, hparams), state, length=num_updates)

    @functools.partial(jax.jit, static_argnames="deterministic")
    def act(state: TrainState, key: jax.Array, obs: jax.Array, deterministic: bool = False):
        obs = acting.policy_input(
            state.obs_statistics, jnp.asarray(obs, jnp.float32), config.normalize_observations
        )
        action, _ = acting.act(policy, state.policy_params, key, obs, deterministic)
        return acting.to_environment(env.action_space, action, config.action_bounds)

    @functools.partial(jax.jit, static_argnames=("num_episodes", "deterministic", "max_steps"))
    def evaluate(state, key, num_episodes=128, deterministic=True, max_steps=None):
        return evaluation.evaluate(
            state,
            key,
            env=env,
            policy=policy,
            config=config,
            num_episodes=num_episodes,
            deterministic=deterministic,
            max_steps=max_steps,
        )

    return Agent(
        init=init,
        update=lambda state, hparams=HParams(): update(state, hparams.as_arrays()),  # noqa: B008
        train=lambda state, hparams=HParams(), num_updates=1: train(  # noqa: B008
            state, hparams.as_arrays(), _positive("num_updates", num_updates)
        ),
        act=act,
        evaluate=evaluate,
        rollout=jax.jit(collect),
        learn=lambda state, trajectory, hparams=HParams(): learn(  # noqa: B008
            state, trajectory, hparams.as_arrays()
        ),
        policy=policy,
        critic=critic,
    )


def make_objective(policy: Policy, entropy_coef: jax.Array | float) -> Objective:
    """The surrogate E[(π/π_old − 1) A] + c (H(π) − H(π_old)) and the metric KL(π_old‖π).

    Both are zero at π = π_old; the gradient of the surrogate there is the policy gradient.
    Schulman et al. 2015, eq. 14, less the constant E[A].
    """

    def gain(distribution, batch: Batch) -> jax.Array:
        log_ratio = distribution.log_prob(batch.action) - batch.log_prob
        bonus = entropy_coef * (distribution.entropy() - batch.entropy)
        return jnp.expm1(log_ratio) * batch.advantage + bonus

    return Objective(
        predict=lambda params, batch: policy.apply(params, batch.obs),
        gain=gain,
        divergence=lambda distribution, batch: batch.distribution.kl(distribution),
        fisher_product=lambda distribution, tangent: distribution.fisher_product(tangent),
        weight=lambda batch: batch.weight,
    )


def _init(key, env: Environment, config: TRPOConfig, policy, critic, step) -> TrainState:
    keys = jax.random.split(key, 3 + config.num_envs)
    state_key, policy_key, value_key, reset_keys = keys[0], keys[1], keys[2], keys[3:]
    policy_params = policy.init(policy_key)
    value_params = critic.init(value_key)
    env_state, obs = reset_batch(env, reset_keys)
    return TrainState(
        key=state_key,
        num_updates=jnp.zeros((), jnp.int32),
        policy_params=policy_params,
        value_params=value_params,
        value_opt_state=init_value_optimizer(value_params),
        policy_step_state=step.init(policy_params),
        obs_statistics=init_statistics(env.obs_shape),
        return_statistics=init_statistics(()),
        env_state=env_state,
        obs=obs,
        episodes=begin_episodes(config.num_envs),
    )


def _learn(
    state: TrainState,
    trajectory: Trajectory,
    hparams: HParams,
    policy: Policy,
    critic: Critic,
    config: TRPOConfig,
    step: PolicyStep,
) -> tuple[TrainState, UpdateMetrics]:
    """Improve the policy, fit the critic, merge the statistics; in this order."""
    next_key, step_key, fit_key = jax.random.split(state.key, 3)
    prepared = prepare_batch(
        state, trajectory, hparams, policy=policy, critic=critic, config=config
    )
    batch = prepared.batch

    policy_params, step_state, info = _guarded_step(
        step_key, state, prepared, hparams, policy, config, step
    )
    value_params, value_opt_state, fit = fit_value(
        fit_key,
        state.value_params,
        state.value_opt_state,
        apply=critic.apply,
        obs=batch.obs,
        target=batch.value_target,
        weight=batch.weight,
        learning_rate=hparams.value_learning_rate,
        num_epochs=config.value_epochs,
        minibatch_size=config.minibatch_size,
    )
    episodes = record_episodes(state.episodes, trajectory)
    metrics = update_metrics(
        step=info,
        fit=fit,
        trajectory=trajectory,
        batch=batch,
        raw_advantage=prepared.raw_advantage,
        on_policy_gap=prepared.on_policy_gap,
        new_distribution=policy.apply(policy_params, batch.obs),
        units=prepared.units,
        before=state.episodes,
        after=episodes,
        hparams=hparams,
        config=config,
    )
    obs_statistics = state.obs_statistics
    if config.normalize_observations:
        valid = trajectory.valid.astype(jnp.float32)
        obs_statistics = update_statistics(obs_statistics, trajectory.obs, valid)
    new_state = state.replace(
        key=next_key,
        num_updates=state.num_updates + 1,
        policy_params=policy_params,
        value_params=value_params,
        value_opt_state=value_opt_state,
        policy_step_state=step_state,
        obs_statistics=obs_statistics,
        return_statistics=prepared.return_statistics,
        episodes=episodes.replace(discounted=prepared.discounted),
    )
    return new_state, metrics


def _guarded_step(key, state: TrainState, prepared, hparams, policy, config, step: PolicyStep):
    """The policy step; refused if the batch is not that of the policy at hand."""
    objective = make_objective(policy, hparams.entropy_coef)
    params, step_state, info = step.apply(
        key,
        objective,
        state.policy_params,
        state.policy_step_state,
        prepared.batch,
        hparams,
        config,
    )
    on_policy = prepared.on_policy_gap <= OFF_POLICY_GAP
    keep = on_policy & info.accepted
    refused = info._replace(
        status=jnp.full_like(info.status, StepStatus.OFF_POLICY),
        accepted=jnp.zeros_like(info.accepted),
        step_fraction=jnp.zeros_like(info.step_fraction),
        kl=jnp.zeros_like(info.kl),
        improvement=jnp.zeros_like(info.improvement),
    )
    return (
        trees.select(keep, params, state.policy_params),
        trees.select(keep, step_state, state.policy_step_state),
        trees.select(on_policy, info, refused),
    )


def _stateless(step: Callable[..., Any]) -> PolicyStep:
    """A plain function as a `PolicyStep` that carries nothing."""

    def apply(key, objective, params, step_state, batch, hparams, config):
        del key
        params, info = step(objective, params, batch, hparams, config)
        return params, step_state, info

    return PolicyStep(init=lambda params: (), apply=apply)


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


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number >= 1")
    return value
