"""Presets construct, and name environments that exist."""

import pytest

import trpo_jax
from trpo_jax.presets import DEFAULT, get_preset, list_presets


@pytest.mark.parametrize("name", list_presets())
def test_preset_constructs_an_agent(name):
    preset = get_preset(name)
    agent = trpo_jax.make_trpo(trpo_jax.make_env(name), preset.config)
    assert agent.policy is not None
    assert preset.total_steps >= preset.config.batch_size


def test_preset_is_found_with_and_without_suite():
    assert get_preset("gymnax/CartPole-v1") is get_preset("CartPole-v1")
    assert get_preset("brax/hopper") is get_preset("hopper")
    assert get_preset("envpool/Hopper-v4") is get_preset("gymnasium/Hopper-v5")
    assert get_preset("gymnasium/Hopper-v5") is not DEFAULT
    assert get_preset("no-such-environment") is DEFAULT
