"""Peak memory against the size of micro-batches, by the compiled program's own account.

python benchmarks/memory.py peak|time [--quick]

`peak` compiles the second half of an update (values, advantages, policy step, value fit) for
policies of 1 M and 10 M parameters at a batch of 65,536 and runs nothing. `time` runs the policy
step on a smaller batch, whole and in chunks interleaved: the overhead, and how equal results are.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pictures
import problems
import report
from jax.flatten_util import ravel_pytree
from problems import Shape
from timing import compiled, interleaved, ratio, working_memory

import trpo_jax

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
    size = {"num_envs": 64, "num_steps": batch // 64, "hidden_sizes": hidden}
    return problems.in_micro_batches(trpo_jax.TRPOConfig(**size, value_minibatch_size=64), chunk)


def peaks(quick: bool) -> list[dict]:
    """Per policy and micro-batch: MiB of temporaries, and of one vector of parameters."""
    rows = []
    for name, hidden in {"small": (32, 32)}.items() if quick else POLICIES.items():
        for chunk in (None, 256) if quick else CHUNKS:
            agent = trpo_jax.make_trpo(Idle(), config_of(hidden, 1024 if quick else BATCH, chunk))
            state = jax.eval_shape(agent.init, jax.random.key(0))
            state, trajectory = jax.eval_shape(agent.rollout, state)
            peak = working_memory(lambda s, t, a=agent: a.learn(s, t), state, trajectory) / 2**20
            sizes = [leaf.size for leaf in jax.tree.leaves(state.policy_params)]
            rows.append(
                {"policy": name, "chunk": chunk, "peak": peak, "vector": sum(sizes) / 2**18}
            )
            print(rows[-1], flush=True)
    return rows


def table_of_peaks(rows: list[dict]) -> str:
    whole = {row["policy"]: row["peak"] for row in rows if row["chunk"] is None}
    return report.records([
        {
            "policy": row["policy"],
            "chunk": row["chunk"] or "whole batch",
            "temporaries, MiB": f"{row['peak']:.0f}",
            "of the whole batch": f"{row['peak'] / whole[row['policy']]:.3f}",
            "parameter vectors": f"{row['peak'] / row['vector']:.1f}",
        }
        for row in rows
    ])  # fmt: skip


def draw(rows: list[dict]):
    figure, [axis] = pictures.panels(1, width=6, height=4)
    for name in dict.fromkeys(row["policy"] for row in rows):
        whole, *parts = [row for row in rows if row["policy"] == name]
        chunks, values = [row["chunk"] for row in parts], [row["peak"] for row in parts]
        (line,) = axis.loglog(chunks, values, "o-", label=name)
        axis.axhline(whole["peak"], color=line.get_color(), linestyle="--")
        axis.axhline(whole["vector"], color=line.get_color(), linestyle=":")
    axis.set(xlabel="examples in a micro-batch", ylabel="peak of temporaries, MiB")
    axis.set_title(f"batch {BATCH}; dashed: whole batch; dotted: one vector of parameters")
    axis.legend()
    return figure


def times(quick: bool) -> list[list[str]]:
    """The policy step whole and in chunks, interleaved: its time; and how far gradient, curvature
    product and step are from those of the whole batch, and from the same in float64."""
    name, hidden, size = ("small", (32, 32), 256) if quick else ("1 M", POLICIES["1 M"], 2048)
    policy, _, params, _, batch = problems.make_problem(Shape(size, OBS, ACTIONS, hidden))
    calls, results = {}, {}
    for chunk in (None, size // 4, size // 16):
        sums, step = parts_of(policy, config_of(hidden, size, chunk))
        calls[chunk] = compiled(step, params, batch)
        results[chunk] = (*jax.jit(sums)(params, batch), calls[chunk]())
    seconds = interleaved(calls, 1 if quick else 5)
    with jax.enable_x64(True):
        wide = problems.cast((params, batch), jnp.float64)
        sums, step = (jax.jit(fn) for fn in parts_of(policy, config_of(hidden, size, None)))
        exact = (*sums(*wide), step(*wide))
    return [
        [name, size, chunk or "whole batch", f"{ratio(seconds, chunk, None):.2f}",
         *(f"{gap(x, y):.1e}" for x, y in zip(found, results[None], strict=True)),
         *(f"{gap(x, y):.1e}" for x, y in zip(found, exact, strict=True))]
        for chunk, found in results.items()
    ]  # fmt: skip


def gap(left: jax.Array, right: jax.Array) -> float:
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    return float(np.linalg.norm(left - right) / np.linalg.norm(right))


def parts_of(policy, config: trpo_jax.TRPOConfig):
    """Functions of (params, batch): what is summed over micro-batches, and what comes of it.

    That is the gradient g and the product H g; and the step that ten iterations of conjugate
    gradients and the line search make.
    """
    improve = problems.policy_step(policy, config)

    def sums(params, batch):
        with jax.default_matmul_precision("highest"):
            problem = problems.flat_problem(policy, params, batch, config)
            return problem.gradient, problem.product(problem.gradient)

    def step(params, batch):
        return ravel_pytree(improve(params, batch)[0])[0] - ravel_pytree(params)[0]

    return sums, step


def main() -> None:
    arguments = report.parser(__doc__, "memory.md", PARTS).parse_args()
    if arguments.part == "peak":
        rows = peaks(arguments.quick)
        picture = pictures.save(draw(rows), arguments.out.with_suffix(".png"))
        text = f"{table_of_peaks(rows)}\n\n{picture}"
    else:
        header = (
            *("policy", "batch", "chunk", "time", "gradient, to that of the whole batch"),
            *("H g", "step", "gradient, to that in float64", "H g", "step"),
        )
        text = report.table(header, times(arguments.quick))
    report.write_part(arguments.out, "Memory bounded by micro-batches", PARTS, arguments.part, text)


if __name__ == "__main__":
    main()
