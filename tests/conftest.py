"""What test files share: a problem, a hasty compiler, its programs on disk, and tidying up."""

import gc
import os
import shutil
import tempfile

import jax
import pytest
import tiny_problems

from trpo_jax.learner.trpo import build_agent


def pytest_configure(config):
    """One cache of compiled programs for this session: its workers and the processes they start.

    What one test file has compiled, the next reads from disk. Its key is the program itself, and
    it is made anew for every session. Tests that count compilations count what is asked of the
    compiler, whether or not the answer is on disk (test_compilation.py tests that).

    XLA leaves most of its optimisations out, which takes a third of the time for programs that run
    once. With JAX_DISABLE_MOST_OPTIMIZATIONS=0 it compiles as it does for users.
    """
    if hasattr(config, "workerinput"):
        return
    directory = tempfile.mkdtemp(prefix="trpo_jax-tests-")
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    settings = {
        "jax_compilation_cache_dir": directory,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") != "0":
        settings["jax_disable_most_optimizations"] = True
        if jax.__version_info__ < (0, 11):  # later ones end a process that has this flag
            flags = os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false"
            os.environ["XLA_FLAGS"] = " ".join(flags)
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(scope="session")
def make_problem():
    """The factory of problems: `make_problem(kind, batch_size, seed, hidden, entropy_coef)`."""
    return tiny_problems.make_problem


@pytest.fixture
def hasty_compiler():
    """XLA without most of its optimisations, whatever the session has."""
    yield from _compiling(hastily=True)


@pytest.fixture
def optimizing_compiler():
    """XLA with its optimisations, for programs that run long."""
    yield from _compiling(hastily=False)


def _compiling(hastily):
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", hastily)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def without_plots(monkeypatch):
    """Runs that end without drawing their overview, which takes them a second."""
    monkeypatch.setattr("trpo_jax.experiments.plots.overview", lambda run: "none")


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
