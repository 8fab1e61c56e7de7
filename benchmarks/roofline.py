"""How far from the limit? Every part of an update: measured, floor, ratio.

python benchmarks/roofline.py [--quick]

Floors: a policy step and a value fit cannot be faster than their matrix products, at the rate of a
big product or at the rates that this machine reaches with products of their own shapes, each
timed alone; a rollout cannot be faster than the bare environments and the policy's forward passes.
All calls of a row take turns; the least time of each counts.
"""

import jax
import jax.numpy as jnp
import numpy as np
import operations
import problems
import report
from operations import Product, Products
from problems import TINY, Shape
from timing import best, interleaved

import trpo_jax
from trpo_jax.envs.base import reset_batch, step_batch, where_done
from trpo_jax.spaces import Box

SHAPES = (
    Shape(2048, 4, 2, (64, 64), discrete=True),
    Shape(2048, 17, 6, (256, 256)),
    Shape(32768, 17, 6, (256, 256)),
    Shape(8192, 87, 8, (256, 256)),
)
ROLLOUTS = (("CartPole-v1", {}, 8, 256), ("brax/hopper", {"backend": "spring"}, 32, 64))
QUICK = ((TINY,), (("CartPole-v1", {}, 2, 4),))
CG_ITERATIONS, EPOCHS, MINIBATCH = 10, 10, 128
STEP_HEADER = (
    "shape", "part", "measured, ms", "GFLOP", "floor at the big product's rate, ms", "ratio",
    "floor at its own products' rates, ms", "ratio", "in forward-backward passes",
    "ratio to the big product in turns of equal length, median",
)  # fmt: skip
ROLLOUT_HEADER = (
    "environment", "rollout, ms", "bare environments, ms", "forward passes, ms", "floor, ms",
    "ratio", "library's own in a loop of its own, ms", "ratio to it",
)  # fmt: skip


def product_call(product: Product):
    """A jitted matrix product of this kind and shape; results stay on the device."""
    rows, i, o = product.rows, product.i, product.o
    left_shape = (rows, o) if product.kind == "back" else (rows, i)
    right_shape = (rows, o) if product.kind == "weights" else (i, o)
    axes = {"forward": ((1,), (0,)), "back": ((1,), (1,)), "weights": ((0,), (0,))}[product.kind]
    left, right = jnp.ones(left_shape), jnp.ones(right_shape)
    # Repeated within the program, lest calling it is what is timed.
    repeats = max(1, min(200, int(2e8 / product.operations)))

    @jax.jit
    def run(left, right):
        def body(changing, _):
            result = jax.lax.dot_general(left, changing, (axes, ((), ())), precision="highest")
            # One element changed in place: no product can be left out or moved out of the loop.
            return changing.at[0, 0].set(result[-1, -1]), None

        return jax.lax.scan(body, right, length=repeats)[0]

    return (lambda: run(left, right)), repeats


def big_product(size: int, precision: str = "highest"):
    """A jitted square product, and its operations."""
    matrix = jnp.ones((size, size))
    run = jax.jit(lambda x: jnp.dot(x, x, precision=precision))
    return (lambda: run(matrix)), 2.0 * size**3


def step_calls(shape: Shape, problem: problems.Problem):
    """Policy step, value fit, one forward-backward pass; and how often the step looked ahead."""
    config = trpo_jax.TRPOConfig(cg_iterations=CG_ITERATIONS)
    improve = jax.jit(problems.policy_step(problem.policy, config))
    fit = jax.jit(problems.value_fit(problem.critic.apply, EPOCHS, MINIBATCH))
    gradient = problems.gradient_of(problem.policy)
    key, optimizer = jax.random.key(0), problems.start_of_fit(problem.value_params)
    calls = {
        "policy step": lambda: improve(problem.params, problem.batch),
        "value fit": lambda: fit(key, problem.value_params, optimizer, problem.batch),
        "forward-backward": lambda: gradient(problem.params, problem.batch),
    }
    return calls, int(calls["policy step"]()[1].num_backtracks) + 1


def step_rows(shape: Shape, rounds: int, size: int) -> list[list[str]]:
    """Two rows of the table: policy step and value fit on a batch of this shape."""
    calls, evaluations = step_calls(shape, problems.make_problem(shape))
    products = {
        "policy step": operations.policy_step(shape, CG_ITERATIONS, evaluations),
        "value fit": operations.value_fit(shape, EPOCHS, min(MINIBATCH, shape.batch)),
    }
    kinds = {product: product_call(product) for product in sum(products.values(), Products())}
    square, square_work = big_product(size)
    calls |= {"square": square} | {kind: call for kind, (call, _) in kinds.items()}
    times = best(interleaved(calls, rounds))
    alone = {kind: times[kind] / repeats for kind, (_, repeats) in kinds.items()}
    rate = square_work / times["square"]
    parts = {name: calls[name] for name in ("square", *products)}
    paired = interleaved(parts, rounds, at_least=times["policy step"])
    rows = []
    for part, needed in products.items():
        work, measured = operations.operations(needed), times[part]
        own = sum(number * alone[kind] for kind, number in needed.items())
        passes = f"{measured / times['forward-backward']:.1f}" if part == "policy step" else ""
        rows.append([
            str(shape), part, f"{1e3 * measured:.1f}", f"{work / 1e9:.2f}",
            f"{1e3 * work / rate:.1f} ({rate / 1e9:.0f} GFLOP/s)", f"{measured * rate / work:.2f}",
            f"{1e3 * own:.1f} ({work / own / 1e9:.0f} GFLOP/s)", f"{measured / own:.2f}", passes,
            f"{np.median(paired[part] / paired['square']) * square_work / work:.2f}",
        ])  # fmt: skip
    return rows


def random_action(env, key, num_envs: int):
    """Actions that need no policy, as the environment takes them."""
    space = env.action_space
    if isinstance(space, Box):
        noise = jax.random.uniform(key, (num_envs, space.num_dimensions), minval=-1.0)
        return space.from_policy(noise, "clip")
    return jax.random.randint(key, (num_envs,), 0, space.num_actions)


def rollout_calls(env, config: trpo_jax.TRPOConfig):
    """The rollout; environments stepped with random actions; forward passes, one after another."""
    agent = trpo_jax.make_trpo(env, config)
    state = agent.init(jax.random.key(0))
    env_state, obs = problems.environment_of(state)
    steps = jax.random.split(jax.random.key(1), (config.num_steps, config.num_envs))

    @jax.jit
    def bare(env_state, obs, steps):
        fresh = reset_batch(env, steps[0])

        def advance(carry, keys):
            action = random_action(env, keys[0], config.num_envs)
            env_state, step = step_batch(env, keys, carry[0], action)
            done = step.terminated | step.truncated
            return where_done(done, fresh, (env_state, step.obs)), (step.obs, step.reward, done)

        return jax.lax.scan(advance, (env_state, obs), steps)

    @jax.jit
    def passes(params, obs):
        def act(obs, _):
            distribution = agent.policy.apply(params, obs)
            # What comes out goes into the next pass, so that none can be left out or moved.
            return obs + 1e-9 * distribution.mode().sum(), distribution

        return jax.lax.scan(act, obs, length=config.num_steps)

    return {
        "rollout": lambda: agent.rollout(state),
        "bare": lambda: bare(env_state, obs, steps),
        "passes": lambda: passes(state.policy_params, obs),
    }


def gymnax_loop(env_id: str, num_envs: int, num_steps: int):
    """What one writes with gymnax alone: its own step with its own reset, random actions."""
    import gymnax

    env, params = gymnax.make(env_id)
    reset = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), num_envs), params)

    @jax.jit
    def run(obs, env_state, keys):
        def advance(env_state, step_keys):
            action = jax.vmap(env.action_space(params).sample)(step_keys)
            obs, env_state, reward, terminated, truncated, _ = jax.vmap(env.step, (0, 0, 0, None))(
                step_keys, env_state, action, params
            )
            return env_state, (obs, reward, terminated | truncated)

        return jax.lax.scan(advance, env_state, keys)

    keys = jax.random.split(jax.random.key(1), (num_steps, num_envs))
    return lambda: run(*reset, keys)


def rollout_row(env_id: str, keywords: dict, num_envs: int, num_steps: int, rounds: int):
    """One row of the second table."""
    config = trpo_jax.TRPOConfig(num_envs=num_envs, num_steps=num_steps)
    calls = rollout_calls(trpo_jax.make_env(env_id, **keywords), config)
    if not env_id.startswith("brax/"):
        calls["gymnax"] = gymnax_loop(env_id, num_envs, num_steps)
    times = {name: 1e3 * value for name, value in best(interleaved(calls, rounds)).items()}
    floor = times["bare"] + times["passes"]
    with_gymnax = times["gymnax"] + times["passes"] if "gymnax" in times else None
    return [
        f"{env_id}, {num_envs}×{num_steps}, 64×64", f"{times['rollout']:.2f}",
        f"{times['bare']:.2f}", f"{times['passes']:.2f}", f"{floor:.2f}",
        f"{times['rollout'] / floor:.2f}", f"{times['gymnax']:.2f}" if with_gymnax else "",
        f"{times['rollout'] / with_gymnax:.2f}" if with_gymnax else "",
    ]  # fmt: skip


def main() -> None:
    arguments = report.parser(__doc__, "roofline.md").parse_args()
    rounds, size = (2, 64) if arguments.quick else (15, 2048)
    shapes, environments = QUICK if arguments.quick else (SHAPES, ROLLOUTS)
    steps = [row for shape in shapes for row in step_rows(shape, rounds, size)]
    rollouts = [rollout_row(*each, rounds=10 * rounds) for each in environments]
    report.write(
        arguments.out,
        "Distance to the limit",
        f"{CG_ITERATIONS} CG iterations, value fit of {EPOCHS} epochs of minibatch {MINIBATCH}, "
        'tanh, float32, `precision="highest"`. The machine is shared: each number is the least '
        f"of {rounds} turns ({10 * rounds} for rollouts), and the big product (size {size}) took "
        "its turns among them; a row's rates are those of its own minutes. Where the big product "
        "is slower than the small ones, others were using the cores meanwhile: long calls suffer "
        "from that, short ones escape. The floor at the big product's rate is then too high (the "
        "ratio flatters), the one at the products' own rates is what an undisturbed machine "
        "would do (the ratio is too large); the last column is least sensitive: big products are "
        "repeated for as long as the policy step takes, so that both share the cores in the same "
        "way.",
        "## Policy step and value fit",
        report.table(STEP_HEADER, steps),
        "## Rollout",
        report.table(ROLLOUT_HEADER, rollouts),
    )


if __name__ == "__main__":
    main()
