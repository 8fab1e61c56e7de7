"""What test files share: a tiny policy-improvement problem, and tidying up behind each of them."""

import functools
import gc
import os
import shutil
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.trpo import build_agent
from trpo_jax.learner.types import Batch
from trpo_jax.policies.networks import (
    Body,
    CategoricalHead,
    GaussianHead,
    Policy,
    make_policy,
)
from trpo_jax.solver import Objective


def pytest_configure(config):
    """One cache of compiled programs for this session: its workers and the processes they start.

    What one test file has compiled, the next reads from disk. Its key is the program itself, and
    it is made anew for every session. Tests that count compilations count what is asked of the
    compiler, whether or not the answer is on disk (test_compilation.py tests that).
    """
    if hasattr(config, "workerinput"):
        return
    directory = tempfile.mkdtemp(prefix="trpo_jax-tests-")
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    settings = {
        "jax_compilation_cache_dir": directory,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


class Problem(NamedTuple):
    policy: Policy
    objective: Objective
    params: Any
    batch: Batch


@functools.cache  # the same objective twice, so that steps on it compile once
def _make_problem(kind="categorical", batch_size=48, seed=0, hidden=(4,), entropy_coef=0.0):
    """A one-hidden-layer tanh policy away from its initialisation, and a batch drawn from it."""
    rng = np.random.default_rng(seed)
    head = CategoricalHead(3) if kind == "categorical" else GaussianHead(2, -0.3)
    policy = make_policy(Body((3,), hidden, "tanh", False), head)
    params = policy.init(jax.random.key(seed))
    noise = lambda leaf: jnp.asarray(leaf + 0.4 * rng.normal(size=leaf.shape), jnp.float32)  # noqa: E731
    params = jax.tree.map(noise, params)
    obs = jnp.asarray(rng.normal(size=(batch_size, 3)), jnp.float32)
    distribution = policy.apply(params, obs)
    action = distribution.sample(jax.random.key(seed + 1))
    batch = Batch(
        obs=obs,
        action=action,
        distribution=distribution,
        log_prob=distribution.log_prob(action),
        entropy=distribution.entropy(),
        advantage=jnp.asarray(rng.normal(size=batch_size), jnp.float32),
        value=jnp.zeros(batch_size),
        value_target=jnp.zeros(batch_size),
        weight=jnp.ones(batch_size),
    )
    return Problem(policy, make_objective(policy, entropy_coef), params, batch)


@pytest.fixture(scope="session")
def make_problem():
    """The factory of problems: `make_problem(kind, batch_size, seed, hidden, entropy_coef)`."""
    return _make_problem


@pytest.fixture
def hasty_compiler():
    """XLA without most of its optimisations: half the time for programs that run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Free the programs of each file.

    XLA's CPU client maps memory for every one of them; a process that has compiled some hundred
    reaches the limit of Linux (vm.max_map_count) and dies while it compiles the next.
    """
    yield
    build_agent.cache_clear()
    jax.clear_caches()
    gc.collect()
