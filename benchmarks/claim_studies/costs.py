"""C3, C5, C10, C12 and C13: what updates, and parts of them, cost in time and memory."""

from functools import partial

import baselines
import jax
import jax.numpy as jnp
import numpy as np
import pictures
import problems
from problems import TINY, Problem, Shape, flat_problem
from timing import compiled, interleaved, ratio, working_memory

import trpo_jax
from claim_studies.study import Options, Study
from trpo_jax import TRPOConfig

PPO_VARIANTS = {
    "PPO, 10 epochs of 64": baselines.PPOSettings(),
    "PPO, 10 epochs of 128": baselines.PPOSettings(minibatch_size=128),
    "PPO, 4 epochs of 512": baselines.PPOSettings(num_epochs=4, minibatch_size=512),
}
LIGHT = ("TRPO", "PPO, 4 epochs of 512")
"""Whose iterations are timed with a critic of 4 epochs of 512, too; elsewhere it is 10 of 128."""
SMALL, CHEETAH = Shape(2048, 4, 2, (64, 64)), Shape(2048, 17, 6, (64, 64))
LARGE, ANT = Shape(32768, 17, 6, (64, 64)), Shape(8192, 87, 8, (256, 256))


def whole_iterations(options: Options) -> Study:
    """C3 and C5: an iteration of each method (rollout and value fit included), and its step."""
    config = TRPOConfig(num_envs=8, num_steps=256)
    if options.quick:
        config = config.replace(num_envs=4, num_steps=16, hidden_sizes=(8,))
    rows = _iteration_rows("CartPole-v1", config, options.quick)
    # Large steps take seconds and vary less.
    for shape, rounds in [(TINY, 3)] if options.quick else ((CHEETAH, 30), (ANT, 5)):
        rows += _step_rows(shape, rounds)

    def draw():
        groups = list(dict.fromkeys((row["what"], row["batch"]) for row in rows))
        figure, axes = pictures.panels(len(groups), width=4.5, per_row=2)
        for axis, group in zip(axes, groups, strict=True):
            own = [row for row in rows if (row["what"], row["batch"]) == group]
            values = {"": [float(row["relative to TRPO"]) for row in own]}
            pictures.bars(axis, [row["method"] for row in own], values, title=", ".join(group))
            axis.set_xlabel("time relative to TRPO")
            axis.title.set_fontsize("small")
        return figure

    return Study(
        "C3_C5",
        "C3: a TRPO update costs 2–5× a VPG update; C5: PPO is 2–5× faster per iteration than TRPO",
        "An iteration is rollout, advantages, policy step, value fit and metrics in one program; "
        "a step is the policy step alone on a given batch. TRPO with 10 CG iterations and "
        "linearised Gauss–Newton products. Every critic is fitted with 10 epochs of 128, but with "
        "4 of 512 where the row says so. Medians over interleaved rounds.",
        rows,
        draw,
    )


def _rivals(batch_size: int) -> dict:
    """The baselines whose minibatches divide such a batch."""
    steps = {"VPG": baselines.vanilla_policy_gradient()}
    for name, settings in PPO_VARIANTS.items():
        if batch_size % settings.minibatch_size == 0:
            steps[name] = baselines.ppo(settings)
    return steps


def _iteration_rows(env_id: str, config: TRPOConfig, quick: bool) -> list[dict]:
    steps = {"TRPO": trpo_jax.trust_region_step} | ({} if quick else _rivals(config.batch_size))
    variants = {name: (config, step) for name, step in steps.items()}
    if not quick:
        light = config.replace(value_epochs=4, value_minibatch_size=512)
        variants |= {f"{name}, critic 4 of 512": (light, steps[name]) for name in LIGHT}
    calls = {}
    for name, (own_config, step) in variants.items():
        agent = trpo_jax.make_trpo(trpo_jax.make_env(env_id), own_config, policy_step=step)
        state, _ = agent.update(agent.init(jax.random.key(0)), problems.ALL_ITERATIONS)
        calls[name] = partial(agent.update, state, problems.ALL_ITERATIONS)
    times = interleaved(calls, 3 if quick else 30)
    return _rows(f"iteration, {env_id}", str(config.batch_size), times)


def _step_rows(shape: Shape, rounds: int) -> list[dict]:
    problem = problems.make_problem(shape)
    functions = {"TRPO": problems.policy_step(problem.policy)}
    for name, step in _rivals(shape.batch).items():
        functions[name] = partial(baselines.one_step, step, problem.objective)
    arguments = problem.params, problem.batch
    calls = {name: compiled(function, *arguments) for name, function in functions.items()}
    return _rows("policy step alone", str(shape), interleaved(calls, rounds))


def _rows(what: str, batch: str, times: dict[str, np.ndarray]) -> list[dict]:
    return [
        {
            **{"what": what, "batch": batch, "method": name, "ms": f"{1e3 * np.median(own):.2f}"},
            "relative to TRPO": f"{ratio(times, name, 'TRPO'):.2f}",
            "TRPO relative to it": f"{ratio(times, 'TRPO', name):.2f}",
        }
        for name, own in times.items()
    ]


def line_search_and_cg(options: Options) -> Study:
    """C10: one evaluation of the line search against one iteration, and ten, of CG."""
    rows = []
    for shape in (TINY,) if options.quick else (SMALL, CHEETAH, LARGE, ANT):
        problem = problems.make_problem(shape)
        evaluate = partial(baselines.evaluate, problem.objective)
        calls = {
            "evaluation": compiled(evaluate, problem.params, problem.batch),
            "solve": _solve(problem, 10),
        }
        times = interleaved(calls, 3 if options.quick else 20 if shape.batch < 32768 else 7)
        share = ratio(times, "evaluation", "solve")
        rows.append({
            "batch × observations, policy": str(shape),
            "one evaluation, ms": f"{1e3 * np.median(times['evaluation']):.2f}",
            "CG, ms": f"{1e3 * np.median(times['solve']):.2f}",
            "one evaluation / CG": f"{share:.3f}",
            "eleven evaluations / CG": f"{11 * share:.2f}",
        })  # fmt: skip

    def draw():
        figure, [axis] = pictures.panels(1, width=6.5)
        labels = [row["batch × observations, policy"] for row in rows]
        columns = {"one evaluation / CG": "the rule", "eleven evaluations / CG": "the most"}
        series = {
            f"{column}, {words}": [float(row[column]) for row in rows]
            for column, words in columns.items()
        }
        drawn = pictures.bars(axis, labels, series, xlim=(0, 1.1))
        for bars, heights in zip(drawn, series.values(), strict=True):
            axis.bar_label(bars, [f"{height:.0%}" for height in heights], padding=3)
        axis.set_xlabel("time of the line search / time of ten CG iterations")
        return figure

    return Study(
        "C10",
        "C10: the line search is cheap beside CG",
        "An evaluation: surrogate and KL of one candidate, one forward pass; a line search takes "
        "one as a rule and 11 at most. CG: linearisation and ten iterations. Each compiled alone.",
        rows,
        draw,
    )


def iteration_cost(options: Options) -> Study:
    """C12: time of a CG iteration against batch size and against the number of parameters."""
    base = Shape(64, 17, 6, (8, 8)) if options.quick else CHEETAH
    batches = (64, 128) if options.quick else (512, 2048, 8192, 32768)
    widths = (8, 16) if options.quick else (32, 64, 128, 256, 512)
    varied = {
        "batch": [base._replace(batch=size) for size in batches],
        "parameters": [base._replace(hidden=(width, width)) for width in widths],
    }
    shapes = dict.fromkeys(shape for shapes in varied.values() for shape in shapes)
    drawn = {shape: problems.make_problem(shape) for shape in shapes}
    calls = {shape: _solve(problem, 20) for shape, problem in drawn.items()}
    times = interleaved(calls, 3 if options.quick else 9)
    rows = {}
    for shape, problem in drawn.items():
        own, size = np.median(times[shape]) / 20, problem.num_params
        rows[shape] = {
            **{"batch": shape.batch, "hidden": f"{shape.hidden[0]}²", "parameters": size},
            "ms per iteration": f"{1e3 * own:.3f}",
            "ns per example and parameter": f"{1e9 * own / shape.batch / size:.3f}",
        }
    curves = {
        what: np.array([(rows[s][what], float(rows[s]["ms per iteration"])) for s in shapes]).T
        for what, shapes in varied.items()
    }
    slopes = {what: np.polyfit(*np.log(curve), 1)[0] for what, curve in curves.items()}

    def draw():
        figure, axes = pictures.panels(2)
        for axis, (what, (sizes, ms)) in zip(axes, curves.items(), strict=True):
            axis.loglog(sizes, ms, "o-", label="measured")
            line = ms[-1] * sizes / sizes[-1]
            axis.loglog(sizes, line, "k--", linewidth=1, label="proportional, through the last")
            axis.set(xlabel=what, ylabel="ms per CG iteration")
            axis.legend(fontsize="small")
        return figure

    return Study(
        "C12",
        "C12: a CG iteration costs O(batch × parameters)",
        "A twentieth of the time of CG with 20 iterations, 17 observations, 6 actions. Exponent "
        f"of a fit t ∝ sizeᵃ: {slopes['batch']:.2f} in the batch at 64×64, "
        f"{slopes['parameters']:.2f} in the parameters at a batch of 2048. The last column would "
        "be constant if the claim were exact.",
        list(rows.values()),
        draw,
    )


def _solve(problem: Problem, iterations: int):
    """CG from linearisation to solution, always all iterations, ready to be timed."""
    rhs = jnp.ones(problem.num_params)
    solve = problems.solver(problem.policy, iterations, "float32")
    return compiled(partial(solve, damping=0.1), problem.params, problem.batch, rhs)


def products(options: Options) -> Study:
    """C13: temporary memory of one product, and of a whole step, against forward-backward."""
    sizes = {}
    for shape in (TINY,) if options.quick else (SMALL, LARGE, ANT):
        problem = problems.make_problem(shape)
        vector = jnp.ones(problem.num_params)
        sizes[str(shape)] = {
            name: working_memory(program, problem.params, problem.batch, vector) / 1e6
            for name, program in _programs(problem.policy, shape.batch // 8).items()
        }
    base = "forward-backward"
    rows = [
        {
            **{"batch × observations, policy": shape, "program": name, "MB": f"{size:.2f}"},
            "relative to forward-backward": f"{size / own[base]:.2f}",
        }
        for shape, own in sizes.items()
        for name, size in own.items()
    ]

    def draw():
        figure, [axis] = pictures.panels(1, width=7.5, height=4.5)
        series = {s: [size / own[base] for size in own.values()] for s, own in sizes.items()}
        pictures.bars(axis, list(own_names), series)
        axis.axvline(2, color="black", linewidth=1, linestyle="--")
        axis.set_xlabel("memory / forward-backward (dashed: 2×)")
        return figure

    own_names = next(iter(sizes.values()))
    return Study(
        "C13",
        "C13: the Hessian-vector product doubles the memory of a forward-backward pass",
        "Temporary memory that the compiled program asks for (`memory_analysis`), without its "
        "arguments and results. Forward-backward is the gradient of the surrogate. A solve is ten "
        "iterations of conjugate gradients: what is linearised once stays in memory meanwhile.",
        rows,
        draw,
    )


def _programs(policy, chunk: int) -> dict:
    """Functions of (params, batch, vector [P])."""
    hvp = TRPOConfig(curvature="hvp")
    chunks = problems.in_micro_batches(TRPOConfig(), chunk)

    def mean_kl(params, batch):
        problem = flat_problem(policy, params, batch)
        return problem.flat, lambda vector: problem.evaluate(vector)[1]

    def double_backward(params, batch, vector):
        flat, kl = mean_kl(params, batch)
        return jax.grad(lambda point: jnp.sum(jax.grad(kl)(point) * vector))(flat)

    def hvp_once(params, batch, vector):
        flat, kl = mean_kl(params, batch)
        return trpo_jax.hvp(kl, flat, vector)

    def step(config: TRPOConfig):
        improve = problems.policy_step(policy, config, trpo_jax.HParams())
        return lambda params, batch, vector: improve(params, batch)[0]

    def product(config: TRPOConfig):
        return lambda params, batch, v: flat_problem(policy, params, batch, config).product(v)

    return {
        "forward-backward": lambda p, b, v: flat_problem(policy, p, b).gradient,
        "product, double backward": double_backward,
        "product, hvp": hvp_once,
        "product, linearized_hvp": product(hvp),
        "product, gauss_newton_product": product(TRPOConfig()),
        "whole step, hvp": step(hvp),
        "whole step, Gauss–Newton": step(TRPOConfig()),
        "whole step, Gauss–Newton, chunks of an eighth": step(chunks),
    }
