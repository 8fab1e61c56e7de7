"""C3 and C5: what an update of TRPO, VPG and PPO costs, timed interleaved."""

import baselines
import jax
import numpy as np

import trpo_jax
from claim_studies import synthetic
from claim_studies.stopwatch import interleaved
from claim_studies.study import Options, Study, panels
from claim_studies.synthetic import Shape
from trpo_jax import HParams, TRPOConfig
from trpo_jax.solver.trust_region import trust_region_step

HPARAMS = HParams(cg_tol=0.0)
PPO_VARIANTS = {
    "PPO, 10 epochs of 64": baselines.PPOSettings(),
    "PPO, 10 epochs of 128": baselines.PPOSettings(minibatch_size=128),
    "PPO, 4 epochs of 512": baselines.PPOSettings(num_epochs=4, minibatch_size=512),
}

LIGHT_CRITIC = {"value_epochs": 4, "value_minibatch_size": 512}
"""As "PPO, 4 epochs of 512" would have it; elsewhere the critic's fit has 10 epochs of 128."""
LIGHT = ("TRPO", "PPO, 4 epochs of 512")
"""Whose iterations are timed with that critic too."""

STEP_SHAPES = ((Shape(2048, 17, 6, (64, 64)), 30), (Shape(8192, 87, 8, (256, 256)), 5))
"""Batches for the policy step alone, with the rounds: large steps take seconds and vary less."""


def whole_iterations(options: Options) -> Study:
    """C3 and C5: an iteration of each method (rollout and value fit included), and its step."""
    quick = options.quick
    config = TRPOConfig(num_envs=8, num_steps=256)
    if quick:
        config = config.replace(num_envs=4, num_steps=16, hidden_sizes=(8,))
    methods = ("TRPO",) if quick else tuple(_steps(config.batch_size))
    rows = _iteration_rows("CartPole-v1", config, methods, 3 if quick else 30)
    for shape, rounds in [(Shape(64, 4, 2, (8,)), 3)] if quick else STEP_SHAPES:
        rows += _step_rows(shape, rounds)
    return Study(
        "C3_C5",
        "C3: a TRPO update costs 2–5× a VPG update; C5: PPO is 2–5× faster per iteration than TRPO",
        "An iteration is rollout, advantages, policy step, value fit and metrics in one program; "
        "a step is the policy step alone on a given batch. TRPO with 10 CG iterations and "
        "linearised Gauss–Newton products. Every critic is fitted with 10 epochs of 128, but with "
        "4 of 512 where the row says so. Medians over interleaved rounds.",
        ("what", "batch", "method", "ms", "relative to TRPO", "TRPO relative to it"),
        rows,
        lambda: _bars(rows),
    )


def _steps(batch_size: int) -> dict:
    steps = {"TRPO": trust_region_step, "VPG": baselines.vanilla_policy_gradient()}
    for name, settings in PPO_VARIANTS.items():
        if batch_size % settings.minibatch_size == 0:
            steps[name] = baselines.ppo(settings)
    return steps


def _iteration_rows(env_id: str, config: TRPOConfig, names, rounds: int) -> list[list]:
    calls, steps = {}, _steps(config.batch_size)
    variants = {name: (steps[name], config) for name in names}
    if set(LIGHT) <= set(names):
        light = config.replace(**LIGHT_CRITIC)
        variants |= {f"{name}, critic 4 of 512": (steps[name], light) for name in LIGHT}
    for name, (step, own_config) in variants.items():
        agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id), own_config, step)
        state, _ = agent.update(agent.init(jax.random.key(0)), HPARAMS)
        calls[name] = lambda agent=agent, state=state: agent.update(state, HPARAMS)
    times = interleaved(calls, rounds)
    return _rows(f"iteration, {env_id}", str(config.batch_size), times)


def _step_rows(shape: Shape, rounds: int) -> list[list]:
    problem = synthetic.make(shape)
    config, key = TRPOConfig(), jax.random.key(0)
    calls = {}
    for name, step in _steps(shape.batch_size).items():
        if step is trust_region_step:
            program = jax.jit(
                lambda p, b: trust_region_step(problem.objective, p, b, HPARAMS, config)
            )
        else:
            program = jax.jit(
                lambda p, b, step=step: step.apply(
                    key, problem.objective, p, step.init(p), b, HPARAMS, config
                )
            )
        calls[name] = lambda program=program: program(problem.params, problem.batch)
    return _rows("policy step alone", str(shape), interleaved(calls, rounds))


def _rows(what: str, batch: str, times: dict[str, np.ndarray]) -> list[list]:
    ours = times["TRPO"]
    return [
        [what, batch, name, f"{1e3 * np.median(own):.2f}", f"{np.median(own / ours):.2f}",
         f"{np.median(ours / own):.2f}"]
        for name, own in times.items()
    ]  # fmt: skip


def _bars(rows: list):
    groups = list(dict.fromkeys((row[0], row[1]) for row in rows))
    figure, axes = panels(len(groups), width=4.5, per_row=2)
    for axis, group in zip(axes, groups, strict=True):
        own = [row for row in rows if (row[0], row[1]) == group]
        axis.barh([row[2] for row in own], [float(row[4]) for row in own])
        axis.axvline(1, color="black", linewidth=1)
        axis.set(title=", ".join(group), xlabel="time relative to TRPO")
        axis.title.set_fontsize("small")
        axis.invert_yaxis()
    return figure
