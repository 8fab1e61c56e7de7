"""Products with the curvature H, which is never formed.

The Hessian of the mean KL at the old parameters is the Fisher matrix, H = E[Jᵀ F J], where J is
the Jacobian of the network's outputs and F the Fisher matrix of the distribution in terms of those
outputs. The first two functions work for any scalar function; the third uses this identity.
All matrix products run at the highest precision: with TF32 or bfloat16, conjugate gradients would
lose conjugacy.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.common.trees import Tree

MatVec = Callable[[Tree], Tree]


def hvp(fn: Callable[[Tree], jax.Array], params: Tree, vector: Tree) -> Tree:
    """∇²fn(params) · vector, by forward-mode differentiation of the gradient.

    `fn` maps `params` to a scalar; `vector` and the result are shaped like `params`, else a
    `ValueError` is raised. Pearlmutter 1994, eq. 3, in the forward-over-reverse form.
    """
    trees.require_like("vector", vector, params)
    params = jax.tree.map(jnp.asarray, params)
    vector = jax.tree.map(lambda p, v: jnp.asarray(v, p.dtype), params, vector)
    with jax.default_matmul_precision("highest"):
        return jax.jvp(jax.grad(fn), (params,), (vector,))[1]


def linearized_hvp(fn: Callable[[Tree], jax.Array], params: Tree) -> MatVec:
    """v ↦ ∇²fn(params) · v, linearised once: what does not depend on v is computed here."""
    with jax.default_matmul_precision("highest"):
        _, product = jax.linearize(jax.grad(fn), params)
    return product


def gauss_newton_product(
    predict: Callable[[Tree], Tree], output_product: Callable[[Tree, Tree], Tree], params: Tree
) -> MatVec:
    """v ↦ Jᵀ F J v, with J the Jacobian of `predict` at `params`, linearised once.

    `predict` maps `params` to outputs z (a tree). `output_product(z, u)` returns F(z) · u, shaped
    like z; the weights of the batch mean belong in it. At the parameters where KL(z‖·) is zero
    this equals the Hessian of the KL, at about two thirds of the cost.
    Schraudolph 2002; Martens 2014, sec. 6.
    """
    with jax.default_matmul_precision("highest"):
        outputs, push = jax.linearize(predict, params)
        pull = jax.linear_transpose(push, params)
        # Already linear; linearising it computes once what does not depend on the tangent.
        zero = jax.tree.map(jnp.zeros_like, outputs)
        _, weigh = jax.linearize(lambda tangent: output_product(outputs, tangent), zero)

    def product(vector: Tree) -> Tree:
        return pull(weigh(push(vector)))[0]

    return product
