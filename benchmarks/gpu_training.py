"""The parts of `gpu.py` that train: throughput, sweeps, time to reward."""

import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from gpu_part import Part, Settings, compile_all, peak_memory, within_bound
from timing import best, interleaved

import trpo_jax
from trpo_jax.presets import get_preset

HPARAMS = trpo_jax.HParams()


def environment(name: str, settings: Settings):
    """An environment; brax with its fastest backend."""
    name = settings.replace.get(name, name)
    return trpo_jax.make_env(name, **({"backend": "spring"} if name.startswith("brax/") else {}))


def large_batch(num_envs: int, num_steps: int, **changes) -> trpo_jax.TRPOConfig:
    """Settings for many environments: a value fit of 4 × 16 large steps, not thousands of small."""
    return trpo_jax.TRPOConfig(
        num_envs=num_envs,
        num_steps=num_steps,
        value_epochs=4,
        value_minibatch_size=max(1, num_envs * num_steps // 16),
        **changes,
    )


def throughput(part: Part, settings: Settings, *, name: str) -> None:
    """Steps per second of the rollout, and of whole updates, against number of environments."""
    env = environment(name, settings)
    for num_envs in part.affordable(settings.num_envs):
        agent = trpo_jax.make_trpo(env, large_batch(num_envs, settings.steps))
        began = time.monotonic()
        state = agent.init(jax.random.key(0))
        shapes = jax.eval_shape(agent.rollout, state)
        collect, learn = compile_all([
            (agent.rollout, (state,)),
            (lambda s, t, learn=agent.learn: learn(s, t, HPARAMS), shapes),
        ])  # fmt: skip
        compilation = time.monotonic() - began
        state, trajectory = collect(state)
        calls = {"rollout": partial(collect, state), "learn": partial(learn, state, trajectory)}
        least = best(interleaved(calls, settings.repeats))
        metrics = learn(state, trajectory)[1]
        steps = num_envs * settings.steps
        part.row(
            environment=name,
            num_envs=num_envs,
            rollout_steps_per_second=steps / least["rollout"],
            training_steps_per_second=steps / (least["rollout"] + least["learn"]),
            rollout_ms=1e3 * least["rollout"],
            learn_ms=1e3 * least["learn"],
            compilation_seconds=compilation,
            peak_mib_so_far=peak_memory(),
        )
        part.check("KL within its bound", within_bound(metrics.kl, HPARAMS.max_kl))
        part.check("every transition valid", np.asarray(trajectory.valid).all())


def lanes(part: Part, settings: Settings) -> None:
    """One update of so many seeds side by side; a lane must do what it does alone."""
    num_envs, num_steps = settings.classic
    env = trpo_jax.make_env("CartPole-v1")
    agent = trpo_jax.make_trpo(env, trpo_jax.TRPOConfig(num_envs=num_envs, num_steps=num_steps))
    for number in part.affordable(settings.lanes):
        keys = jax.random.split(jax.random.key(0), number)
        states = jax.vmap(agent.init)(keys)
        update = jax.vmap(lambda state: agent.update(state, HPARAMS))
        [program] = compile_all([(update, (states,))])
        least = best(interleaved({"update": partial(program, states)}, settings.repeats))
        new_states, metrics = program(states)
        steps = number * num_envs * num_steps
        part.row(
            lanes=number,
            ms=1e3 * least["update"],
            ms_per_lane=1e3 * least["update"] / number,
            steps_per_second=steps / least["update"],
            peak_mib_so_far=peak_memory(),
        )
        part.check("KL within its bound in every lane", within_bound(metrics.kl, HPARAMS.max_kl))
        part.check("most lanes step", np.mean(np.asarray(metrics.accepted)) > 0.9)
        part.check("a lane is like a run alone", _alike(agent, keys[0], new_states, metrics))


def _alike(agent, key, new_states, metrics) -> bool:
    """Whether the first lane took the step that the same seed takes alone, but for rounding.

    Other matrix products round otherwise, so that a sampled action may differ, rarely: the data
    must be nearly the same, the step alike.
    """
    _, alone = agent.update(agent.init(key), HPARAMS)
    lane = jax.tree.map(lambda leaf: leaf[0], metrics)
    return bool(
        np.isclose(lane.entropy, alone.entropy, rtol=0.01)
        and np.isclose(lane.kl, alone.kl, rtol=0.1, atol=1e-4)
    )


def reward(part: Part, settings: Settings) -> None:
    """Return against seconds of training; time to every threshold reached."""
    name, num_envs, num_steps = settings.ant
    config = large_batch(
        num_envs,
        num_steps,
        hidden_sizes=settings.hidden_sizes,
        normalize_observations=True,
        normalize_rewards=True,
    )
    # δ per action dimension as in the preset of hopper (0.01), gamma and λ as usual.
    hparams = get_preset("hopper").hparams.replace(max_kl=0.08)
    agent = trpo_jax.make_trpo(environment(name, settings), config)
    state = agent.init(jax.random.key(0))
    began = time.monotonic()
    [update] = compile_all([(lambda s: agent.update(s, hparams), (state,))])
    compilation = time.monotonic() - began
    returns, kls = _train(part, update, state, settings.ant_updates, num_envs * num_steps)
    finished = [value for value in returns if np.isfinite(value)]
    part.record["compilation_seconds"] = compilation
    part.check("KL within its bound in every update", within_bound(kls, 0.08))
    part.check("returns are finite", finished)
    if len(finished) > 20:
        part.check("the return rises", np.mean(finished[-5:]) > np.mean(finished[:5]))


def _train(part: Part, update: Callable, state, most: int, batch: int):
    """Updates until the share of time is over; a row each."""
    returns: list[float] = []
    kls: list[float] = []
    began = time.monotonic()
    for number in range(1, most + 1):
        state, metrics = update(state)
        returns.append(float(metrics.episode_return))
        kls.append(float(metrics.kl))
        part.record["rows"].append({
            "seconds": round(time.monotonic() - began, 3),
            "steps": number * batch,
            "mean_return": returns[-1],
        })  # fmt: skip
        if part.left() < 0:
            break
    return returns, kls
