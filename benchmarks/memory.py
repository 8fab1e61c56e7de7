"""Peak memory against `curvature_chunk_size`, by the compiled program's own account.

python benchmarks/memory.py peak|time [--quick]

`peak` compiles the second half of an update (values, advantages, policy step, value fit) for
policies of 1 M and 10 M parameters at a batch of 65,536 and runs nothing. `time` runs the policy
step on a smaller batch, whole and in chunks interleaved: the overhead, and how equal results are.
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import report
from jax.flatten_util import ravel_pytree

import trpo_jax
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.types import Batch
from trpo_jax.solver import trees
from trpo_jax.solver.objective import curvature_product, evaluation

OBS, ACTIONS = 17, 6
POLICIES = {"1 M": (1000, 1000), "10 M": (2240, 2240, 2240)}
BATCH = 65_536
CHUNKS = (None, 16_384, 4_096, 1_024, 256, 64)
PARTS = {"peak": "Peak memory", "time": "Time and equality of the policy step"}


class Idle(trpo_jax.Environment):
    """Shapes of a continuous control task, and nothing else."""

    name = "idle"
    obs_shape = (OBS,)
    action_space = trpo_jax.Box(-1.0, 1.0, (ACTIONS,))

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(OBS)

    def step(self, key, state, action):
        never = jnp.bool_(False)
        return state, trpo_jax.EnvStep(jnp.zeros(OBS), jnp.float32(0), never, never)


def config_of(hidden: tuple[int, ...], batch: int, chunk: int | None) -> trpo_jax.TRPOConfig:
    return trpo_jax.TRPOConfig(
        num_envs=64,
        num_steps=batch // 64,
        hidden_sizes=hidden,
        curvature_chunk_size=chunk,
        value_minibatch_size=64,
    )


def peaks(quick: bool) -> dict[str, dict]:
    """Bytes of temporaries per policy and chunk size, and of one vector of parameters."""
    results: dict[str, dict] = {}
    for name, hidden in {"small": (32, 32)}.items() if quick else POLICIES.items():
        results[name] = {}
        for chunk in (None, 256) if quick else CHUNKS:
            config = config_of(hidden, 1024 if quick else BATCH, chunk)
            agent = trpo_jax.make_trpo(Idle(), config)
            state = jax.eval_shape(agent.init, jax.random.key(0))
            state, trajectory = jax.eval_shape(agent.rollout, state)
            program = (
                jax.jit(lambda s, t, a=agent: a.learn(s, t)).lower(state, trajectory).compile()
            )
            results[name][chunk] = program.memory_analysis().temp_size_in_bytes
            sizes = [leaf.size for leaf in jax.tree.leaves(state.policy_params)]
            results[name]["parameters"] = 4 * sum(sizes)
            print(name, chunk, results[name][chunk] / 2**20, flush=True)
    return results


def rows_of_peaks(results: dict[str, dict]) -> list[list[str]]:
    rows = []
    for name, sizes in results.items():
        for chunk in measured(sizes):
            share = sizes[chunk] / sizes[None]
            rows.append(
                [name, chunk or "whole batch", f"{sizes[chunk] / 2**20:.0f}", f"{share:.3f}",
                 f"{sizes[chunk] / sizes['parameters']:.1f}"]
            )  # fmt: skip
    return rows


def measured(sizes: dict) -> list[int | None]:
    return [chunk for chunk in CHUNKS if chunk in sizes]


def draw(results: dict[str, dict], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(6, 4))
    for name, sizes in results.items():
        chunks = [chunk for chunk in measured(sizes) if chunk]
        (line,) = axis.loglog(chunks, [sizes[c] / 2**20 for c in chunks], "o-", label=name)
        axis.axhline(sizes[None] / 2**20, color=line.get_color(), linestyle="--")
        axis.axhline(sizes["parameters"] / 2**20, color=line.get_color(), linestyle=":")
    axis.set_xlabel("curvature_chunk_size")
    axis.set_ylabel("peak of temporaries, MiB")
    axis.set_title(f"batch {BATCH}; dashed: whole batch; dotted: one vector of parameters")
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def times(quick: bool) -> list[list[str]]:
    """The policy step whole and in chunks, interleaved: its time; and how far gradient, curvature
    product and step are from those of the whole batch, and from the same in float64."""
    rows = []
    cases = {"small": ((32, 32), 256)} if quick else {"1 M": (POLICIES["1 M"], 2048)}
    for name, (hidden, batch_size) in cases.items():
        agent = trpo_jax.make_trpo(Idle(), config_of(hidden, batch_size, None))
        params = agent.policy.init(jax.random.key(0))
        batch = random_batch(agent.policy, params, batch_size)
        objective = make_objective(agent.policy, 0.0)
        chunks = (None, batch_size // 4, batch_size // 16)
        configs = {chunk: config_of(hidden, batch_size, chunk) for chunk in chunks}
        steps = {
            chunk: jax.jit(step_in(objective, config)).lower(params, batch).compile()
            for chunk, config in configs.items()
        }
        seconds: dict = {chunk: [] for chunk in chunks}
        for _ in range(1 if quick else 5):
            for chunk, step in steps.items():
                start = time.perf_counter()
                jax.block_until_ready(step(params, batch))
                seconds[chunk].append(time.perf_counter() - start)
        results = {
            chunk: (
                *jax.jit(parts_of(objective, configs[chunk]))(params, batch),
                step(params, batch),
            )
            for chunk, step in steps.items()
        }
        with jax.enable_x64(True):
            wide = trees.cast((params, batch), jnp.float64)
            exact = (
                *jax.jit(parts_of(objective, configs[None]))(*wide),
                jax.jit(step_in(objective, configs[None]))(*wide),
            )
        for chunk in chunks:
            ratio = np.median(np.array(seconds[chunk]) / np.array(seconds[None]))
            rows.append(
                [name, batch_size, chunk or "whole batch", f"{ratio:.2f}",
                 *(f"{gap(x, y):.1e}" for x, y in zip(results[chunk], results[None], strict=True)),
                 *(f"{gap(x, y):.1e}" for x, y in zip(results[chunk], exact, strict=True))]
            )  # fmt: skip
    return rows


def gap(left: jax.Array, right: jax.Array) -> float:
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    return float(np.linalg.norm(left - right) / np.linalg.norm(right))


def parts_of(objective, config: trpo_jax.TRPOConfig):
    """(params, batch) -> gradient g, curvature product H g: what is summed over micro-batches."""

    def parts(params, batch):
        with jax.default_matmul_precision("highest"):
            gradient = jax.grad(lambda p: evaluation(objective, batch, config)(p)[0])(params)
            product = curvature_product(objective, params, batch, config)(gradient)
        return ravel_pytree(gradient)[0], ravel_pytree(product)[0]

    return parts


def step_in(objective, config: trpo_jax.TRPOConfig):
    """(params, batch) -> what ten iterations of conjugate gradients and the line search make."""
    hparams = trpo_jax.HParams(cg_tol=0.0).as_arrays()

    def step(params, batch):
        new, _ = trpo_jax.trust_region_step(objective, params, batch, hparams, config)
        return ravel_pytree(new)[0] - ravel_pytree(params)[0]

    return step


def random_batch(policy, params, size: int) -> Batch:
    keys = jax.random.split(jax.random.key(1), 3)
    obs = jax.random.normal(keys[0], (size, OBS))
    distribution = policy.apply(params, obs)
    action = distribution.sample(keys[1])
    return Batch(
        obs=obs,
        action=action,
        distribution=distribution,
        log_prob=distribution.log_prob(action),
        entropy=distribution.entropy(),
        advantage=jax.random.normal(keys[2], (size,)),
        value=jnp.zeros(size),
        value_target=jnp.zeros(size),
        weight=jnp.ones(size),
    )


def main() -> None:
    arguments = report.part_arguments(__doc__, PARTS, "memory.md")
    if arguments.part == "peak":
        results = peaks(arguments.quick)
        draw(results, arguments.out.with_suffix(".png"))
        header = ("policy", "chunk", "temporaries, MiB", "of the whole batch", "parameter vectors")
        text = f"{report.table(header, rows_of_peaks(results))}\n\n![peak](memory.png)"
    else:
        header = (
            *("policy", "batch", "chunk", "time", "gradient, to that of the whole batch"),
            *("H g", "step", "gradient, to that in float64", "H g", "step"),
        )
        text = report.table(header, times(arguments.quick))
    title = "Memory bounded by micro-batches"
    report.write_part(arguments.out, title, PARTS, arguments.part, text)
    print(text)


if __name__ == "__main__":
    main()
