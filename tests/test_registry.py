"""Environments by name, as objects and from functions, over all suites."""

import functools
import importlib
import json
import re
import subprocess
import sys

import brax.envs
import gymnasium
import gymnax
import jax.numpy as jnp
import jaxnasium
import jumanji
import navix
import numpy as np
import pgx
import pytest
import xminigrid
from craftax.craftax_env import make_craftax_env_from_name
from craftax.environment_base import spaces as craftax_spaces

import trpo_jax
from trpo_jax import make_env
from trpo_jax.cli import main
from trpo_jax.envs import ids, registry, suites
from trpo_jax.envs.brax import BraxEnvironment
from trpo_jax.envs.host import HostEnvironment

EXTRAS = [suite for suite in suites.SUITES if suite not in ("gymnax", "brax")]


# Lists of ids


@pytest.mark.parametrize("suite", suites.SUITES)
def test_ids_are_those_of_the_library(suite):
    listed, known = ids.names_of(suite), suites.adapter(suite).list_ids()
    assert len(set(listed)) == len(listed) > 0
    if suite in ("gymnasium", "envpool"):
        # Gymnasium's registry has names that it only refuses, and EnvPool's ids depend on the
        # version of Python.
        assert set(listed) <= set(known)
        assert len(listed) > 0.5 * len(known)
    else:
        assert list(listed) == list(known)


def test_the_group_of_robots_is_that_of_playground():
    assert list(ids.names_of(ids.ROBOTS)) == suites.adapter("playground").robots()


LIGHT = """
import sys
from trpo_jax.envs import ids, list_environments, make_env, suites
listed = list_environments()
assert "pgx/minatar-breakout" in listed and "craftax/Craftax-Symbolic-v1" in listed
try:
    make_env("playgroud/CartpoleBalance")
except ValueError as error:
    assert "playground/CartpoleBalance" in str(error), error
heavy = {"mujoco_playground", "envpool", "craftax", "jumanji", "navix", "xminigrid", "pgx"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_lists_and_near_matches_import_no_suite():
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


def test_envs_lists_every_id_and_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(suites, "_has_robots", lambda: False)
    monkeypatch.setitem(sys.modules, "pgx", None)
    assert main(["envs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == [
        f"{suite}/{name}" for suite in suites.SUITES for name in ids.names_of(suite)
    ]
    line_of = {line.partition(" ")[0]: line for line in lines}
    assert line_of["pgx/2048"] == 'pgx/2048  needs: pip install "trpo-jax[pgx]"'
    assert "mjx_env.ensure_menagerie_exists()" in line_of["playground/Go1Getup"]
    assert line_of["playground/CheetahRun"] == "playground/CheetahRun"
    assert line_of["brax/hopper"] == "brax/hopper  tuned"
    assert "pgx/2048" not in trpo_jax.list_environments()
    assert main(["envs", "HOPPER-V5"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "gymnasium/Hopper-v5  tuned", "envpool/Hopper-v5  tuned",
    ]  # fmt: skip


# Names


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("playground/CartpoleBalanc", "playground/CartpoleBalance"),
        ("playgroud/CartpoleBalance", "playground/CartpoleBalance"),
        ("jumanji/Maze", "jumanji/Maze-v0"),
        ("CraftaxSymbolic", "craftax/Craftax-Symbolic-v1"),
        ("gymnax/hopper-v5", "gymnasium/Hopper-v5"),
        ("navix/navix-empty-5x5", "navix/Navix-Empty-5x5-v0"),
    ],
)
def test_unknown_ids_suggest_near_matches_over_all_suites(wrong, right):
    with pytest.raises(ValueError, match=rf"unknown environment '{wrong}'; did you .*{right}"):
        make_env(wrong)


def test_a_name_without_its_suite():
    assert make_env("CartPole-v1") is make_env("CartPole-v1")
    assert type(make_env("CartPole-v1").unwrapped).__module__.startswith("gymnax")
    assert make_env("minatar-breakout").action_space == trpo_jax.Discrete(3)
    with pytest.raises(ValueError, match=r"use gymnasium/Hopper-v4 or envpool/Hopper-v4$"):
        make_env("Hopper-v4")


def test_an_id_is_split_at_its_first_slash():
    with pytest.raises(ValueError, match="'ALE/Pong-v5' cannot be made: Namespace ALE not found"):
        make_env("gymnasium/ALE/Pong-v5")
    with pytest.raises(ValueError, match=r"absent_package:X-v0.* cannot be made"):
        make_env("gymnasium/absent_package:X-v0")


# Packages that are missing


@pytest.fixture
def forgotten(monkeypatch):
    """A function that forgets an adapter, so that its import is tried again."""

    def forget(suite):
        registry._make_once.cache_clear()
        monkeypatch.delitem(sys.modules, f"trpo_jax.envs.{suite}", raising=False)
        for name in list(sys.modules):
            if name.partition(".")[0] == suites.PACKAGES[suite]:
                monkeypatch.delitem(sys.modules, name)

    return forget


@pytest.mark.parametrize("suite", EXTRAS)
def test_a_missing_package_is_one_line_with_the_extra(suite, forgotten, monkeypatch):
    forgotten(suite)
    monkeypatch.setitem(sys.modules, suites.PACKAGES[suite], None)
    with pytest.raises(ValueError, match="which is missing") as caught:
        make_env(f"{suite}/{ids.names_of(suite)[0]}")
    line = str(caught.value)
    assert line.endswith(f'pip install "trpo-jax[{suite}]"')
    assert "\n" not in line


def test_a_missing_package_of_a_package_too(forgotten, monkeypatch, tmp_path):
    (tmp_path / "pgx.py").write_text("import absent_dependency\n")
    forgotten("pgx")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"pgx needs absent_dependency.*trpo-jax\[pgx\]"):
        make_env("pgx/2048")
    (tmp_path / "pgx.py").write_text("raise ImportError('too old')\n")
    with pytest.raises(ValueError, match=r"pgx cannot be imported: too old.*trpo-jax\[pgx\]"):
        make_env("pgx/2048")


# Objects

OBJECTS = {
    "gymnax": lambda: gymnax.make("CartPole-v1")[0],
    "brax": lambda: brax.envs.get_environment("fast"),
    "gymnasium": lambda: gymnasium.make("CartPole-v1"),
    "craftax": lambda: make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=True),
    "jumanji": lambda: jumanji.make("Maze-v0"),
    "navix": lambda: navix.make("Navix-Empty-5x5-v0"),
    "xminigrid": lambda: xminigrid.make("MiniGrid-Empty-5x5")[0],
    "pgx": lambda: pgx.make("minatar-breakout"),
    "jaxnasium": lambda: jaxnasium.make("CartPole-v1"),
}


@pytest.mark.parametrize("suite", OBJECTS)
def test_objects_are_recognised_by_their_package(suite):
    thing = OBJECTS[suite]()
    env = make_env(thing, observe=None, reward_scale=1)
    while isinstance(getattr(env, "env", None), trpo_jax.Environment):
        env = env.env
    assert type(env).__module__ == f"trpo_jax.envs.{suite}"


def test_the_keywords_of_an_object_are_checked():
    with pytest.raises(ValueError, match=r"env_params cannot be set for .*; use metrics"):
        make_env(gymnasium.make("CartPole-v1"), env_params=None)
    with pytest.raises(ValueError, match="backend cannot be set for CartPole; use env_params"):
        make_env(gymnax.make("CartPole-v1")[0], backend="mjx")


class Foreign:
    """An object of a package that is refused."""


@pytest.mark.parametrize(
    ("package", "remedy"),
    [("gym.envs", "gymnasium"), ("envelope", "it wraps"), ("pettingzoo.mpe", "several agents")],
)
def test_objects_of_other_packages_are_refused_with_the_remedy(package, remedy, monkeypatch):
    monkeypatch.setattr(Foreign, "__module__", package)
    with pytest.raises(ValueError, match=f"Foreign is an object of .*{remedy}"):
        make_env(Foreign())


@pytest.mark.parametrize("thing", [None, 3, {"reset": 1}, np.zeros(3)])
def test_what_is_no_environment_is_told_which_styles_are_known(thing):
    with pytest.raises(ValueError, match="neither an environment id, nor an object of gymnax,"):
        make_env(thing)


class Walk:
    """In gymnax's style, with the spaces of Craftax."""

    default_params = None

    def action_space(self, params):
        return craftax_spaces.Discrete(3)

    def observation_space(self, params):
        return craftax_spaces.Box(-1.0, 1.0, (2,))

    def reset(self, key, params):
        return jnp.zeros(2), jnp.zeros(2)

    def step(self, key, state, action, params):
        raise NotImplementedError


def test_the_spaces_of_craftax_are_gymnaxs_in_all_but_name():
    assert make_env(Walk()).action_space == trpo_jax.Discrete(3)


# Functions


def test_a_function_that_makes_an_environment():
    inner = make_env(lambda: gymnax.make("CartPole-v1")[0])
    assert (inner.obs_shape, inner.max_episode_steps) == ((4,), 500)
    assert make_env(lambda: "CartPole-v1") is make_env("CartPole-v1")
    partial = functools.partial(brax.envs.get_environment, "fast")
    assert isinstance(make_env(partial).env, BraxEnvironment)


def test_a_gymnasium_environment_without_a_spec_is_made_by_a_function():
    bare = type(gymnasium.make("CartPole-v1").unwrapped)
    with pytest.raises(ValueError, match="pass a function that makes one"):
        make_env(bare())
    for make in (lambda: bare(), bare):
        env = make_env(make, episode_length=9)
        assert isinstance(env, HostEnvironment)
        assert env.max_episode_steps == 9


def test_the_keywords_of_a_function():
    def make(size, episode_length=3):
        assert size == 2
        return make_env("gymnax/CartPole-v1", episode_length=episode_length)

    assert make_env(make, size=2).max_episode_steps == 3
    made = make_env(make, size=2, episode_length=4, frame_stack=3)
    assert (made.max_episode_steps, made.obs_shape) == (4, (12,))
    with pytest.raises(ValueError, match=r"make does not take .*missing .*'size'"):
        make_env(make)
    with pytest.raises(ValueError, match="it must return an environment"):
        make_env(lambda: make)


@pytest.mark.parametrize("kind", ["class", "partial", "named"])
def test_what_a_function_does_not_name_is_done_to_what_it_makes(kind, monkeypatch):
    class Swallows(type(gymnasium.make("CartPole-v1").unwrapped)):
        def __init__(self, **keywords):
            assert not keywords
            super().__init__()

    monkeypatch.setattr(sys.modules[__name__], "swallows", lambda **_: Swallows(), raising=False)
    monkeypatch.setitem(sys.modules, "my_module", sys.modules[__name__])
    partial = functools.partial(gymnasium.make, "CartPole-v1")
    thing = {"class": Swallows, "partial": partial, "named": "my_module:swallows"}[kind]
    env = make_env(thing, frame_stack=2, episode_length=7, metrics=("height",))
    assert (env.obs_shape, env.max_episode_steps, env.metrics) == ((8,), 7, ("height",))


def test_metrics_that_reach_no_environment_of_gymnasium_are_not_dropped():
    def make(**keywords):
        return make_env("gymnasium/CartPole-v1", **keywords)

    with pytest.raises(ValueError, match=r"metrics=\('height',\) does not reach .*parameter of"):
        make_env(make, metrics=("height",))


@pytest.mark.parametrize(
    ("module", "named", "words"),
    [
        ("", "./one_of_mine.py:make", "write one_of_mine:make, which is looked for in the working"),
        ("", "inner/one_of_mine.py:make", r"write inner\.one_of_mine:make,"),
        ("", "../one_of_mine.py:make", "write one_of_mine:make,"),
        ("", ".one_of_mine:make", "write one_of_mine:make,"),
        ("def make(:", "one_of_mine:make", "cannot be imported: SyntaxError: invalid syntax"),
        ("{}['x']", "one_of_mine:make", "cannot be imported: KeyError: 'x'"),
        ("def make():\n {}['x']", "one_of_mine:make", " raised KeyError: 'x'"),
        ("def make():\n raise ValueError('a\\nb')", "one_of_mine:make", "raised ValueError: a b"),
        ("make = max", "one_of_mine:make", "function max>, whose parameters cannot be read; pass"),
    ],
)
def test_mistakes_in_a_named_function_are_one_line(
    module, named, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.delitem(sys.modules, "one_of_mine", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one_of_mine.py").write_text(module)
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=rf"env='{re.escape(named)}'.*{words}"):
        make_env(named)
    assert main(["train", named]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_keywords_may_have_the_names_of_our_own_parameters(monkeypatch):
    for suite_id in ("gymnax/CartPole-v1", "gymnasium/CartPole-v1", "navix/Navix-Empty-5x5-v0"):
        for keyword in ("name", "env_id"):
            with pytest.raises(ValueError, match=f"does not take .*{keyword}"):
                make_env(suite_id, **{keyword: "x"})
    monkeypatch.setitem(sys.modules, "my_module", sys.modules[__name__])
    monkeypatch.setattr(
        sys.modules[__name__], "of_id", lambda env_id: make_env(env_id), raising=False
    )
    assert make_env("my_module:of_id", env_id="CartPole-v1").obs_shape == (4,)


# Keywords for every environment


def test_keywords_apply_to_ids_objects_and_what_is_made():
    by_id = make_env("gymnax/CartPole-v1", frame_stack=2, observe=[0, 2])
    assert by_id is make_env("gymnax/CartPole-v1", frame_stack=2, observe=(0, 2))
    assert by_id.obs_shape == (4,)
    assert make_env(gymnax.make("CartPole-v1")[0], observe=(1,)).obs_shape == (1,)
    plain = make_env("gymnax/CartPole-v1")
    assert make_env(plain) is plain
    assert make_env(plain, action_repeat=1, reward_scale=1.0) is plain
    assert make_env(plain, action_repeat=4).max_episode_steps == 125
    assert plain.max_episode_steps == 500


def test_the_recipe_is_what_was_asked_for():
    assert make_env("gymnax/CartPole-v1", action_repeat=1).recipe == ("gymnax/CartPole-v1", {})
    env = make_env("gymnax/CartPole-v1", observe=(0, 2), episode_length=7)
    env_id, keywords = env.recipe
    assert json.loads(json.dumps(keywords)) == keywords
    again = make_env(env_id, **keywords)
    assert again is env


def test_true_is_not_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_module", sys.modules[__name__])
    for flag in (1, True):
        assert make_env("my_module:flagged", flag=flag).flag is flag


def flagged(flag):
    env = make_env(gymnax.make("CartPole-v1")[0])
    env.flag = flag
    return env


def test_other_parameters_are_another_environment_than_the_recipes(tmp_path):
    for keywords in ({}, {"frame_stack": 2}):
        env = make_env("gymnax/CartPole-v1", **keywords)
        light = env.with_parameters(env.parameters.replace(gravity=1.0))
        assert light.recipe is None
        assert env.recipe is not None
    agent = trpo_jax.make_trpo(light, trpo_jax.TRPOConfig(num_envs=2, num_steps=8))
    run = trpo_jax.train_run(agent, tmp_path / "run", total_steps=16)
    with pytest.raises(ValueError, match="env of its own"):
        trpo_jax.load_run(run.path)
    assert trpo_jax.load_run(run.path, env=light).agent.parts.env is light


@pytest.mark.parametrize(
    "keywords",
    [{"episode_length": 0}, {"action_repeat": True}, {"frame_stack": 1.5}, {"reward_scale": "x"}],
)
def test_bad_values_are_named(keywords):
    (name, value) = next(iter(keywords.items()))
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        make_env("gymnax/CartPole-v1", **keywords)


def heavier(key, params):
    return params.replace(gravity=2 * params.gravity)


def test_randomize_may_be_named_and_is_refused_on_the_host(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_module", sys.modules[__name__])
    env = make_env("gymnax/CartPole-v1", randomize="my_module:heavier")
    assert env.obs_shape == (4,)
    assert env.recipe == ("gymnax/CartPole-v1", {"randomize": "my_module:heavier"})
    with pytest.raises(ValueError, match="my_module has no function 'lighter'"):
        make_env("gymnax/CartPole-v1", randomize="my_module:lighter")
    with pytest.raises(ValueError, match="steps on the host"):
        make_env("gymnasium/CartPole-v1", randomize=heavier)
