"""float64 solves where they are hardest: on a batch that is spread over devices."""

from runs import with_devices

SPREAD = """
import jax, jax.numpy as jnp, numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import tiny_problems
from trpo_jax import HParams, TRPOConfig

assert jax.device_count() == 8
problem = tiny_problems.make_problem("gaussian")
mesh = Mesh(np.array(jax.devices()), ("batch",))
place = lambda tree, *axes: jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))
hparams = HParams(cg_damping=1e-3).as_arrays()
lanes = HParams.stack([HParams(max_kl=0.002 * (i + 1)) for i in range(8)])

def step(params, batch, hparams, config):
    new_params, info = tiny_problems.step(problem.objective, params, batch, hparams, config)
    return ravel_pytree(new_params)[0], info.accepted, info.cg_residual_norms

config = TRPOConfig(cg_iterations=8, solver_dtype="float64")
one = jax.jit(lambda *args: step(*args, config))
many = jax.jit(lambda p, b, h: jax.vmap(lambda h: step(p, b, h, config))(h))
alone = one(problem.params, problem.batch, hparams)
spread = one(place(problem.params), place(problem.batch, "batch"), place(hparams))
sweep = many(problem.params, problem.batch, lanes)
spread_sweep = many(place(problem.params), place(problem.batch), place(lanes, "batch"))
assert len(sweep[0].sharding.device_set) == 1 and len(spread_sweep[0].sharding.device_set) == 8
for got, expected in ((spread, alone), (spread_sweep, sweep)):
    assert got[0].dtype == jnp.float32
    assert np.asarray(got[1]).all() and np.asarray(expected[1]).all()
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[2], expected[2], rtol=1e-3, atol=1e-6)
"""


def test_under_sharding_of_the_batch_and_of_the_lanes():
    with_devices(8, SPREAD)
