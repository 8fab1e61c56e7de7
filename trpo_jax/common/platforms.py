"""Where CPUs and accelerators want different programs. The only place that decides.

`lax.platform_dependent` decides when a program is lowered, so one exported for a GPU has the GPU's
form wherever it was exported from. CPUs do no work that is not needed. An accelerator is idle while
the host reads from it whether a loop goes on, so there it does all of the work there may be.
"""

from collections.abc import Callable
from typing import Any

import jax

from trpo_jax.common import trees
from trpo_jax.common.trees import Tree


def by_platform(on_cpu: Callable[..., Tree], elsewhere: Callable[..., Tree], *operands: Any) -> Any:
    """`on_cpu(*operands)` on CPUs, `elsewhere(*operands)` on any other platform."""
    return jax.lax.platform_dependent(*operands, cpu=on_cpu, default=elsewhere)


def bounded_while(
    unfinished: Callable[[Tree], jax.Array], step: Callable[[Tree], Tree], start: Tree, limit: int
) -> Tree:
    """`lax.while_loop` for a loop that ends by itself after at most `limit` steps.

    On accelerators it is `masked_loop`, whose number of trips is known in advance.
    """
    return by_platform(
        lambda state: jax.lax.while_loop(unfinished, step, state),
        lambda state: masked_loop(unfinished, step, state, limit),
        start,
    )


def masked_loop(
    unfinished: Callable[[Tree], jax.Array], step: Callable[[Tree], Tree], start: Tree, limit: int
) -> Tree:
    """The same result from `limit` steps, of which those after the end change nothing."""

    def advance(_: Any, state: Tree) -> Tree:
        return trees.select(unfinished(state), step(state), state)

    return jax.lax.fori_loop(0, limit, advance, start)
