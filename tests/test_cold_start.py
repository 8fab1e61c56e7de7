"""What is done so that a run begins soon: options of the compiler, a cache on disk, a thread."""

import os
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trpo_jax.common import compilation
from trpo_jax.experiments.background import Background

CACHE = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
SHORTEST = "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture
def settings():
    """JAX's settings of the cache, given back afterwards."""
    names = (*CACHE, SHORTEST)
    before = {name: jax.config.values[name] for name in names}
    yield lambda **changes: [jax.config.update(name, value) for name, value in changes.items()]
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_unless_told_otherwise(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = lambda: jax.config.values["jax_compilation_cache_dir"]  # noqa: E731

    settings(jax_compilation_cache_dir=None, jax_enable_compilation_cache=False)
    compilation.keep_programs()
    assert directory() is None

    settings(jax_enable_compilation_cache=True, **{SHORTEST: 1.0})
    compilation.keep_programs()
    assert directory() == str(tmp_path / "trpo_jax")
    assert jax.config.values[SHORTEST] < 1

    settings(jax_compilation_cache_dir="of my own", **{SHORTEST: 1.0})
    compilation.keep_programs()
    assert (directory(), jax.config.values[SHORTEST]) == ("of my own", 1.0)

    monkeypatch.delenv("XDG_CACHE_HOME")
    settings(jax_compilation_cache_dir=None)
    compilation.keep_programs()
    assert Path(directory()) == Path(os.path.expanduser("~/.cache/trpo_jax"))


def test_a_program_composes_and_has_its_options_alone(monkeypatch, optimizing_compiler):
    chosen = compilation.options(compilation.RUN_ONCE)  # the first call tries which are known
    asked = []
    real = jax.jit

    def jit(function, **keywords):
        asked.append(keywords.get("compiler_options"))
        return real(function, **keywords)

    monkeypatch.setattr(jax, "jit", jit)
    double = compilation.program(
        lambda x, times: times * x, static_argnames=("times",), wanted=compilation.RUN_ONCE
    )
    x = jnp.arange(3.0)
    within = [
        real(lambda x: double(x, times=2))(x),
        jax.vmap(lambda x: double(x, times=2))(x),
        jax.jvp(lambda x: double(x, times=2), (x,), (x,))[1],
        jax.lax.scan(lambda carry, _: (double(x, times=2), None), x, length=1)[0],
    ]
    assert asked == [None], "a part of a program was compiled alone"
    for result in (*within, double(x, times=2), double(x, times=2)):
        np.testing.assert_array_equal(result, 2 * x)
    assert asked == [None, chosen]


def test_options_give_way_to_a_hasty_compiler(hasty_compiler):
    assert compilation.options() is None


def test_a_program_compiles_in_the_background_and_the_first_call_waits():
    release = threading.Event()

    def traced(x):
        assert release.wait(60)
        return x + 1

    background = Background()
    program = background.compiled(jax.jit(traced), jnp.ones(3))  # returns at once
    broken = background.compiled(jax.jit(lambda x: x @ jnp.ones(2)), jnp.ones(3))
    release.set()
    np.testing.assert_array_equal(program(jnp.ones(3)), 2)
    with pytest.raises(TypeError, match="contracting"):
        broken(jnp.ones(3))
    background.close()
