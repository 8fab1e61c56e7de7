"""Networks are initialised side by side without LAPACK, which hangs under vmap on CPUs."""

from runs import run_program

MANY_LANES = """
import jax, trpo_jax
from test_own_networks import ENV, TINY, Mlp
wide = (64, 64, 64)  # smaller ones are factorised by one thread, which waits for no other
policy = trpo_jax.policy_from_flax(Mlp((2,), wide), ENV.action_space)
critic = trpo_jax.critic_from_flax(Mlp((1,), wide))
init = jax.jit(jax.vmap(trpo_jax.make_trpo(ENV, TINY, policy=policy, critic=critic).init))
for seed in range(400):
    jax.block_until_ready(init(jax.random.split(jax.random.key(seed), 4)))
"""


def test_orthogonal_initialisation_under_vmap_does_not_deadlock():
    """jaxlib hangs within a few hundred calls if LAPACK is batched."""
    run_program(MANY_LANES)
