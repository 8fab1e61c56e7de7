"""TRPO as pure functions: `make_trpo` -> init, update, train, act, evaluate."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.common.checks import require_whole_number
from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.envs.base import Environment, observation_spec, reset_batch
from trpo_jax.envs.checks import check_is_environment
from trpo_jax.learner import acting
from trpo_jax.learner.assembly import assemble, example_observation
from trpo_jax.learner.bookkeeping import begin_episodes
from trpo_jax.learner.evaluation import EpisodeStats, evaluate
from trpo_jax.learner.learn import learn
from trpo_jax.learner.monitoring import UpdateMetrics
from trpo_jax.learner.normalization import init_statistics, init_tree_statistics
from trpo_jax.learner.parts import Parts, PolicyStep, ValueFit
from trpo_jax.learner.rollout import rollout
from trpo_jax.learner.types import ActorState, TrainState, Trajectory
from trpo_jax.policies.policy import Critic, Policy
from trpo_jax.solver.trust_region import trust_region_step
from trpo_jax.spaces import critic_view, policy_view

_DEFAULTS = HParams()


class Agent(NamedTuple):
    """The functions that make up an agent. All are pure and compile on first use.

    They compose with `jit`, `vmap`, `scan` and sharding.
    """

    init: Callable[..., TrainState]
    """(key, policy_params=None, value_params=None) -> state; parameters not given are drawn. Safe
    under `vmap`."""
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
    """(state, trajectory, hparams) -> (state, metrics): the second half. Refuses stale data."""
    policy: Policy
    """The policy network as functions."""
    critic: Critic
    """The value network as functions."""
    parts: Parts
    """All parts of the agent."""


def make_trpo(
    env: Environment,
    config: TRPOConfig = TRPOConfig(),  # noqa: B008 - frozen
    *,
    policy_step: Callable[..., Any] | PolicyStep = trust_region_step,
    policy: Policy | None = None,
    critic: Critic | None = None,
    value_fit: ValueFit | None = None,
) -> Agent:
    """Build an agent for an environment.

    Parts that are not given come from the configuration: the networks from `hidden_sizes` and the
    spaces, the policy step from `algorithm`, the value fit from `value_optimizer`.
    `policy_step(objective, params, batch, hparams, config) -> (params, info)` improves the policy;
    `info` is a `StepInfo` or `TrustRegionInfo`. A `PolicyStep` may also carry state and draw random
    numbers, and so may a `ValueFit`. `policy_from_flax` and `critic_from_flax` wrap flax modules.
    The same arguments return the same agent, so calling again compiles nothing. Raises `ValueError`
    if the environment does not satisfy the interface `Environment`, or if a part does not fit it.
    """
    check_is_environment(env)
    if not isinstance(config, TRPOConfig):
        raise ValueError(f"config={config!r} must be a TRPOConfig; HParams go to update and train")
    if not (callable(policy_step) or isinstance(policy_step, PolicyStep)):
        raise ValueError(f"policy_step={policy_step!r} must be a function or a PolicyStep")
    for name, part, kind in (
        ("policy", policy, Policy), ("critic", critic, Critic), ("value_fit", value_fit, ValueFit)
    ):  # fmt: skip
        if not isinstance(part, kind | None):
            raise ValueError(
                f"{name}={part!r} must be a trpo_jax.{kind.__name__}; wrap a flax module with "
                "policy_from_flax or critic_from_flax"
            )
    own_step = None if policy_step is trust_region_step else policy_step
    return build_agent(env, config, own_step, policy, critic, value_fit)


@functools.lru_cache(maxsize=16)
def build_agent(
    env: Environment,
    config: TRPOConfig,
    policy_step: Callable[..., Any] | PolicyStep | None = None,
    policy: Policy | None = None,
    critic: Critic | None = None,
    value_fit: ValueFit | None = None,
) -> Agent:
    """`make_trpo` without its checks; `build_agent.cache_clear()` drops the cached agents."""
    parts = assemble(env, config, policy_step, policy, critic, value_fit)
    act = jax.jit(functools.partial(acting.act, parts), static_argnames="deterministic")
    play = jax.jit(
        functools.partial(evaluate, parts),
        static_argnames=("num_episodes", "deterministic", "max_steps"),
    )
    collect = functools.partial(rollout, env=env, policy=parts.policy, config=config)
    compiled_init = jax.jit(functools.partial(_init, parts))
    compiled_learn = jax.jit(functools.partial(learn, parts))

    @jax.jit
    def compiled_update(state: TrainState, hparams: HParams):
        return learn(parts, *collect(state), hparams)

    @functools.partial(jax.jit, static_argnames="num_updates")
    def compiled_train(state: TrainState, hparams: HParams, num_updates: int):
        return jax.lax.scan(
            lambda carried, _: compiled_update(carried, hparams), state, length=num_updates
        )

    def init(key: jax.Array, policy_params: Any = None, value_params: Any = None) -> TrainState:
        return compiled_init(_typed(key), policy_params, value_params)

    # Hyperparameters become float32 arrays: one program for Python numbers and arrays alike.
    def learn_from(state: TrainState, trajectory: Trajectory, hparams: HParams = _DEFAULTS):
        _check_batch(state, parts)
        return compiled_learn(state, trajectory, _scalars(hparams))

    def update(state: TrainState, hparams: HParams = _DEFAULTS):
        _check_batch(state, parts)
        return compiled_update(state, _scalars(hparams))

    def train(state: TrainState, hparams: HParams = _DEFAULTS, num_updates: int = 1):
        _check_batch(state, parts)
        require_whole_number("num_updates", num_updates)
        return compiled_train(state, _scalars(hparams), int(num_updates))

    return Agent(
        init=init,
        update=update,
        train=train,
        act=functools.partial(_act, act),
        evaluate=functools.partial(_evaluate, play),
        rollout=jax.jit(collect),
        learn=learn_from,
        policy=parts.policy,
        critic=parts.critic,
        parts=parts,
    )


def _act(
    compiled: Callable[..., jax.Array],
    state: TrainState,
    key: jax.Array,
    obs: Any,
    deterministic: bool = False,
) -> jax.Array:
    return compiled(state, _typed(key), _as_arrays(obs), deterministic=deterministic)


def _as_arrays(obs: Any) -> Any:
    """Lists of numbers as one array; other trees leaf by leaf."""
    return jnp.asarray(obs) if isinstance(obs, list) else jax.tree.map(jnp.asarray, obs)


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
    """A typed key; one from the older `PRNGKey` is converted."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key
    if dtype != jnp.uint32:
        raise ValueError(f"key={key!r} must be a random key; use jax.random.key(0)")
    return jax.random.wrap_key_data(key)


def _check_batch(state: TrainState, parts: Parts) -> None:
    """Raise `ValueError` unless the state's observations have this agent's shapes."""
    spec, num_envs = observation_spec(parts.env), parts.config.num_envs
    shapes = jax.tree.map(jnp.shape, state.actor.obs)
    wanted = jax.tree.map(lambda leaf: (num_envs, *leaf.shape), spec)
    if shapes != wanted:
        raise ValueError(
            f"state.actor.obs has shape {shapes}; this agent's is {wanted}: take a state "
            "of its own `init`, and `jax.vmap` for several states"
        )


def _scalars(hparams: HParams) -> HParams:
    """Hyperparameters as scalar arrays. Raises `ValueError` if they have a leading axis."""
    if not isinstance(hparams, HParams):
        raise ValueError(f"hparams={hparams!r} must be an HParams")
    arrays = hparams.as_arrays()
    for name, value in vars(arrays).items():
        if value.ndim:
            raise ValueError(
                f"{name} has shape {value.shape}; one run takes one number: vmap over the settings"
            )
    return arrays


def _init(parts: Parts, key: jax.Array, policy_params: Any, value_params: Any) -> TrainState:
    config, env = parts.config, parts.env
    keys = jax.random.split(key, 3 + config.num_envs)
    state_key, policy_key, value_key, reset_keys = keys[0], keys[1], keys[2], keys[3:]
    env_state, obs = reset_batch(env, reset_keys)
    example = example_observation(env)
    policy_params = _given_or_drawn(
        "policy_params", policy_params, parts.policy.init, policy_key, policy_view(example)
    )
    value_params = _given_or_drawn(
        "value_params", value_params, parts.critic.init, value_key, critic_view(example)
    )
    return TrainState(
        key=state_key,
        num_updates=jnp.zeros((), jnp.int32),
        policy_params=policy_params,
        value_params=value_params,
        value_opt_state=parts.value_fit.init(value_params),
        policy_step_state=parts.policy_step.init(policy_params),
        obs_statistics=init_tree_statistics(observation_spec(env)),
        return_statistics=init_statistics(()),
        actor=ActorState(env_state, obs, begin_episodes(config.num_envs)),
    )


def _given_or_drawn(name: str, given: Any, draw: Any, key: jax.Array, example: Any) -> Any:
    """A network's parameters: those given, checked, or else new ones."""
    if given is None:
        return draw(key, example)
    wanted = jax.eval_shape(draw, key, example)
    difference = trees.first_difference(given, wanted)
    if difference is not None:
        raise ValueError(f"{name} has another structure than this agent's: {name} {difference}")
    trees.require_like(name, given, wanted)
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), given, wanted)
