"""Settings: every refusal names the field, the value and what to use instead."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trpo_jax import HParams, TRPOConfig

HPARAM_NAMES = [spec.name for spec in dataclasses.fields(HParams)]


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("num_envs", 0, ">= 1"),
        ("num_envs", 2.5, "whole number"),
        ("num_envs", True, "whole number"),
        ("num_steps", -3, ">= 1"),
        ("num_steps", None, "whole number"),
        ("hidden_sizes", (64, 0), "whole numbers >= 1"),
        ("hidden_sizes", 64, "tuple of whole numbers"),
        ("hidden_sizes", (True,), "whole numbers >= 1"),
        ("activation", "swish", "leaky_relu"),
        ("network", "rnn", "cnn"),
        ("action_bounds", "wrap", "tanh"),
        ("initial_log_std", float("nan"), "between -15 and 15"),
        ("initial_log_std", "small", "finite"),
        ("initial_log_std", 1000.0, "between -15 and 15"),
        ("curvature", "exact", "gauss_newton"),
        ("cg_iterations", 0, ">= 1"),
        ("algorithm", "ppo", "trpo_adaptive_damping"),
        ("solver_dtype", "bfloat16", "float64"),
        ("solver_dtype", "mixed", "float32, float64"),
        ("chunk_size", 0, ">= 1"),
        ("critic_hidden_sizes", (0,), "whole numbers >= 1"),
        ("critic_hidden_sizes", 64, "None or a tuple of whole numbers"),
        ("state_dependent_std", 1, "True or False"),
        ("value_iterations", -1, ">= 0"),
        ("line_search", 1, "True or False"),
        ("max_backtracks", -1, ">= 0"),
        ("value_epochs", -1, ">= 0"),
        ("value_minibatch_size", 0, ">= 1"),
        ("value_target", "td", "monte_carlo"),
        ("normalize_observations", "yes", "True or False"),
        ("normalize_rewards", 0, "True or False"),
        ("normalize_advantages", None, "True or False"),
    ],
)
def test_refusals_of_trpo_config(name, value, remedy):
    with pytest.raises(ValueError) as refusal:
        TRPOConfig(**{name: value})
    message = str(refusal.value)
    shown = str(value).strip("'")
    assert message.startswith(f"{name}=")
    assert shown in message
    assert remedy in message


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("max_kl", 0.0, "> 0"),
        ("max_kl", float("nan"), "> 0"),
        ("max_kl", float("inf"), "> 0"),
        ("max_kl", 1e39, "in float32"),
        ("max_kl", "large", "number"),
        ("max_kl", "0.01", "number"),
        ("gamma", 1.5, "[0, 1]"),
        ("gae_lambda", -0.1, "[0, 1]"),
        ("cg_damping", -1.0, ">= 0"),
        ("cg_tol", -1e-9, "[0, 1)"),
        ("backtrack_factor", 1.0, "strictly between 0 and 1"),
        ("backtrack_factor", 0.0, "strictly between 0 and 1"),
        ("accept_ratio", 1.1, "[0, 1]"),
        ("entropy_coef", -0.5, ">= 0"),
        ("value_learning_rate", 0, "> 0"),
        ("max_kl", np.array([0.01, -0.01]), "> 0"),
    ],
)
def test_refusals_of_hparams(name, value, remedy):
    with pytest.raises(ValueError) as refusal:
        HParams(**{name: value})
    message = str(refusal.value)
    assert message.startswith(f"{name}=")
    assert str(value) in message
    assert remedy in message


def test_a_minibatch_must_divide_the_batch():
    with pytest.raises(ValueError) as refusal:
        TRPOConfig(num_envs=8, num_steps=256, value_minibatch_size=100)
    message = str(refusal.value)
    assert "value_minibatch_size=100" in message
    assert "2048" in message
    assert "128" in message


def test_lbfgs_takes_no_minibatches():
    with pytest.raises(ValueError, match="value_minibatch_size=64 is for value_optimizer='adam'"):
        TRPOConfig(value_optimizer="lbfgs", value_minibatch_size=64)


@pytest.mark.parametrize(("envs", "steps"), [(8, 256), (7, 11), (1, 1), (13, 100)])
def test_the_default_minibatch_divides_the_batch(envs, steps):
    config = TRPOConfig(num_envs=envs, num_steps=steps)
    assert config.batch_size == envs * steps
    assert config.batch_size % config.minibatch_size == 0


@pytest.mark.parametrize("settings", [TRPOConfig(), HParams()])
def test_replace(settings):
    name = dataclasses.fields(settings)[0].name
    value = type(getattr(settings, name))(3)
    changed = settings.replace(**{name: value})
    assert getattr(changed, name) == value
    assert getattr(settings, name) != value
    with pytest.raises(ValueError, match="no field 'max_kll'.*" + name):
        settings.replace(max_kll=0.1)
    with pytest.raises(ValueError, match=name):
        settings.replace(**{name: -1})


def test_config_is_frozen_and_hashable():
    first, second = TRPOConfig(hidden_sizes=[32, 32]), TRPOConfig(hidden_sizes=(32, 32))
    assert first == second
    assert hash(first) == hash(second)
    assert {first: 1}[second] == 1
    assert first != TRPOConfig(hidden_sizes=(32,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.num_envs = 3


def test_hparams_are_a_pytree_in_the_order_of_their_fields():
    hparams = HParams(max_kl=0.02)
    paths, _ = jax.tree_util.tree_flatten_with_path(hparams)
    assert [path[0].name for path, _ in paths] == HPARAM_NAMES
    assert dict(zip(HPARAM_NAMES, jax.tree.leaves(hparams), strict=True))["max_kl"] == 0.02
    doubled = jax.tree.map(lambda x: 2 * x, hparams)
    assert isinstance(doubled, HParams)
    assert doubled.max_kl == 0.04


@pytest.mark.parametrize("placeholder", [0, None, "axis", object()])
def test_trees_of_hparams_take_placeholders(placeholder):
    marked = jax.tree.map(lambda _: placeholder, HParams())
    assert isinstance(marked, HParams)
    assert marked.max_kl is placeholder


@pytest.mark.parametrize("name", HPARAM_NAMES)
def test_every_field_can_be_batched(name):
    values = jnp.array([0.25, 0.5])
    batched = HParams(**{name: values})
    axes = jax.tree.map(lambda _: None, HParams()).__class__.tree_unflatten(
        None, [0 if n == name else None for n in HPARAM_NAMES]
    )
    read = jax.vmap(lambda h: 2 * getattr(h, name), in_axes=(axes,))(batched)
    np.testing.assert_allclose(read, 2 * values)


def test_hparams_pass_through_jit_without_validation_of_tracers():
    traced = jax.jit(lambda x: HParams(max_kl=x).replace(gamma=x).max_kl)(-1.0)
    assert traced == -1.0


def test_stack_and_as_arrays():
    stacked = HParams.stack([HParams(max_kl=0.01), HParams(max_kl=0.02)])
    np.testing.assert_allclose(stacked.max_kl, [0.01, 0.02], rtol=1e-6)
    assert all(
        leaf.shape == (2,) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(stacked)
    )
    arrays = HParams(max_kl=1).as_arrays()
    kinds = {(leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(arrays)}
    assert kinds == {(jnp.dtype("float32"), False)}
