"""A state on disk without a run."""

import jax
import numpy as np
import pytest

import trpo_jax

CONFIG = trpo_jax.TRPOConfig(num_envs=2, num_steps=8, hidden_sizes=(4,), value_epochs=1)


@pytest.fixture(scope="module")
def agent():
    return trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), CONFIG)


def bits(state):
    leaves = jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))
    return [np.asarray(leaf).tobytes() for leaf in leaves]


@pytest.mark.parametrize("seeds", [(), (3,)])
def test_training_goes_on_bit_for_bit(seeds, agent, tmp_path):
    keys = jax.random.split(jax.random.key(1), seeds) if seeds else jax.random.key(1)
    init, update = agent.init, agent.update
    if seeds:
        init, update = jax.vmap(init), jax.vmap(update)
    state, _ = update(init(keys))
    assert trpo_jax.save(state, tmp_path / "state") == tmp_path / "state"
    read = trpo_jax.restore(tmp_path / "state", agent)
    assert bits(read) == bits(state)
    assert bits(update(read)[0]) == bits(update(state)[0])


def test_a_state_on_the_host(tmp_path):
    agent = trpo_jax.make_trpo(trpo_jax.make_env("gymnasium/CartPole-v1"), CONFIG)
    state, _ = agent.update(agent.init(jax.random.key(0)))
    trpo_jax.save(state, tmp_path / "state")
    read = trpo_jax.restore(tmp_path / "state", agent)
    assert bits(read) == bits(state)
    assert agent.update(read)[1].valid_fraction == 1


def test_mistakes(agent, tmp_path):
    state = agent.init(jax.random.key(0))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    trpo_jax.save(state, tmp_path / "state")
    other = trpo_jax.make_trpo(agent.parts.env, CONFIG.replace(hidden_sizes=(5,)))
    for call, message in [
        (lambda: trpo_jax.save(state.policy_params, tmp_path / "new"), "must be a TrainState"),
        (lambda: trpo_jax.save(state, tmp_path / "full"), "not an empty directory"),
        (lambda: trpo_jax.save(state, 3), "path of a directory"),
        (lambda: trpo_jax.restore(tmp_path / "full", agent), "holds no state"),
        (lambda: trpo_jax.restore(tmp_path / "state", state), "must be an Agent"),
        (lambda: trpo_jax.restore(tmp_path / "state", other), "another agent"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert not (tmp_path / "new").exists()


def test_damage_is_found(agent, tmp_path):
    trpo_jax.save(agent.init(jax.random.key(0)), tmp_path)
    largest = max(tmp_path.rglob("*"), key=lambda file: file.stat().st_size * file.is_file())
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="checkpoint="):
        trpo_jax.restore(tmp_path, agent)
