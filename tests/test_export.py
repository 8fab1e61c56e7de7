"""Exported policies: the same actions as `act`, from programs that share no code with it."""

import dataclasses
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

import trpo_jax
from trpo_jax import Box, Discrete, Environment, EnvStep, MultiDiscrete, Observation, TRPOConfig

FORMATS = ("numpy", "onnx", "stablehlo")
SMALL = TRPOConfig(
    num_envs=2, num_steps=4, hidden_sizes=(8, 5), value_epochs=1, normalize_observations=True
)
BATCH = 64


class Still(Environment):
    """Nothing happens; observation and actions are what a test needs."""

    name = "still"

    def __init__(self, spec, space):
        self.obs_spec, self.action_space = spec, space
        part = spec.policy if isinstance(spec, Observation) else spec
        self.obs_shape = jax.tree.map(lambda leaf: leaf.shape, part)

    def _obs(self):
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.obs_spec)
        if not isinstance(zeros, Observation) or zeros.action_mask is None:
            return zeros
        return zeros._replace(action_mask=jnp.ones_like(zeros.action_mask))

    def reset(self, key):
        return jnp.int32(0), self._obs()

    def step(self, key, state, action):
        return state, EnvStep(self._obs(), jnp.float32(0), False, False)


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


VECTOR = array(3)
TREE = {"image": array(6, 5, 2), "joints": {"angle": array(4)}, "level": array(2, dtype=jnp.int32)}
MASKED = Observation(VECTOR, critic=array(9), action_mask=array(9, dtype=bool))
UNEVEN = Box(np.array([-2.0, -np.inf, 0.0, -1e31]), np.array([3.0, np.inf, np.inf, 5.0]), (4,))
CASES = {
    "choice": (VECTOR, Discrete(4), {}),
    "choices": (VECTOR, MultiDiscrete((4, 2, 3)), {"normalize_observations": False}),
    "masked choice": (MASKED, Discrete(9), {}),
    "masked choices": (MASKED, MultiDiscrete((4, 2, 3)), {}),
    "clipped": (VECTOR, Box(-2.0, 3.0, (2, 2)), {"initial_log_std": -0.5}),
    "squashed": (VECTOR, UNEVEN, {"action_bounds": "tanh", "state_dependent_std": True}),
    "no hidden layer": (VECTOR, Box(-1.0, 1.0, (1,)), {"hidden_sizes": ()}),
    "tree with an image": (TREE, Discrete(3), {"network": "cnn"}),
    "tree without": ((array(2), array(4, 5, 3, dtype=jnp.uint8)), Discrete(3), {}),
    "minatar": (array(10, 10, 4, dtype=bool), Discrete(3), {}),
    "nature": (array(44, 36, 3, dtype=jnp.uint8), Discrete(6), {"network": "nature"}),
    **{
        activation: (VECTOR, Box(-9.0, 9.0, (2,)), {"activation": activation})
        for activation in ("relu", "leaky_relu", "elu", "silu", "gelu")
    },
}


def made(name):
    """A policy without an agent: parts and a state whose parameters and statistics matter."""
    spec, space, settings = CASES[name]
    agent = trpo_jax.make_trpo(Still(spec, space), SMALL.replace(**settings))
    return agent, state_of(agent)


def state_of(agent):
    """A state that no compiled `init` made, with parameters and statistics that matter."""
    rng = np.random.default_rng(1)

    def drawn(leaf):
        scale = 0.3 if leaf.ndim < 2 else 1.5 / np.prod(leaf.shape[:-1]) ** 0.5
        return jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32)

    state = jax.eval_shape(agent.init, jax.random.key(0))
    statistics = state.obs_statistics
    return state.replace(
        key=jax.random.key(0),
        policy_params=jax.tree.map(drawn, state.policy_params),
        obs_statistics=statistics.replace(
            mean=jax.tree.map(drawn, statistics.mean),
            variance=jax.tree.map(lambda leaf: 5 + drawn(leaf) ** 2, statistics.variance),
        ),
    )


def observations(spec, batch=BATCH):
    """A batch, with numbers that are not finite and a row whose mask forbids everything."""
    rng = np.random.default_rng(0)

    def drawn(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            values = 3 * rng.normal(size=(batch, *leaf.shape)).astype(np.float32)
            values.reshape(-1)[:3] = np.nan, np.inf, -np.inf
            return values
        most = 256 if leaf.dtype == jnp.uint8 else 2
        return rng.integers(0, most, (batch, *leaf.shape)).astype(leaf.dtype)

    if not isinstance(spec, Observation):
        return jax.tree.map(drawn, spec)
    mask = drawn(spec.action_mask)
    mask[0] = False
    return Observation(drawn(spec.policy), action_mask=mask)


def named(obs):
    """The inputs of an exported policy, spelled out."""
    part = obs.policy if isinstance(obs, Observation) else obs
    mask = {"action_mask": obs.action_mask} if isinstance(obs, Observation) else {}
    if isinstance(part, np.ndarray):
        return {"obs": part, **mask}
    if isinstance(part, tuple):
        return {f"obs/{i}": leaf for i, leaf in enumerate(part)}
    return {
        "obs/image": part["image"],
        "obs/joints/angle": part["joints"]["angle"],
        "obs/level": part["level"],
    }


def noise_of(key, space, batch=BATCH):
    """The noise that `sample(key)` draws, by kind of space."""
    if isinstance(space, Box):
        return np.asarray(jax.random.normal(key, (batch, space.num_dimensions)))
    if isinstance(space, Discrete):
        return np.asarray(jax.random.gumbel(key, (batch, space.num_actions)))
    keys = jax.random.split(key, len(space.num_categories))
    sizes = zip(keys, space.num_categories, strict=True)
    return np.concatenate([jax.random.gumbel(k, (batch, size)) for k, size in sizes], axis=-1)


def run(file, format, inputs):
    if format == "onnx":
        (action,) = onnxruntime.InferenceSession(file).run(None, inputs)
        return action
    if format == "stablehlo":
        return np.asarray(jax.export.deserialize(file.read_bytes()).call(**inputs))
    from trpo_jax.experiments.export.numpy_policy import NumpyPolicy

    return NumpyPolicy(file)(**inputs)


def acting(state):
    """A state that can be traced: the environments are shapes only."""
    needed = ("key", "policy_params", "obs_statistics")
    names = [field.name for field in dataclasses.fields(state)]
    return state.replace(**{name: None for name in names if name not in needed})


def modes(agent, state, obs):
    return np.asarray(agent.act(acting(state), jax.random.key(0), obs, deterministic=True))


@pytest.mark.parametrize("name", CASES)
def test_every_format_acts_as_act_does(name, tmp_path):
    agent, state = made(name)
    spec, space, _ = CASES[name]
    obs, key = observations(spec), jax.random.key(3)
    inputs = named(obs)
    for deterministic in (True, False):
        wanted = np.asarray(agent.act(acting(state), key, obs, deterministic=deterministic))
        if not deterministic:
            inputs = {**inputs, "noise": noise_of(key, space)}
        assert len(np.unique(wanted)) > 1, "the case distinguishes nothing"
        for format in FORMATS:
            path = tmp_path / f"policy-{deterministic}"
            file = trpo_jax.export_policy(agent, state, path, format, deterministic=deterministic)
            action = run(file, format, inputs)
            assert (action.shape, action.dtype) == (wanted.shape, wanted.dtype), format
            scale = max(1.0, np.abs(wanted).max())  # boxes go to ±9: 1e-5 of that
            np.testing.assert_allclose(action, wanted, rtol=1e-5, atol=1e-5 * scale, err_msg=format)


@pytest.fixture(scope="module")
def plain():
    return made("choice")


@pytest.mark.parametrize("format", FORMATS)
def test_a_batch_has_any_size(plain, format, tmp_path):
    obs = observations(VECTOR)
    file = trpo_jax.export_policy(*plain, tmp_path / "policy", format)
    for size in (1, 3):
        np.testing.assert_array_equal(
            run(file, format, {"obs": obs[:size]}), modes(*plain, obs[:size])
        )


def test_the_numpy_file_runs_without_jax(plain, tmp_path):
    agent, state = plain
    trpo_jax.export_policy(agent, state, tmp_path / "deep" / "policy.npz", "numpy")
    obs = observations(VECTOR)
    np.save(tmp_path / "obs.npy", obs)
    code = (
        "import sys, numpy as np; from numpy_policy import NumpyPolicy; "
        "policy = NumpyPolicy('policy.npz'); assert list(policy.inputs) == ['obs']; "
        "print(policy(obs=np.load('../obs.npy')).tolist(), 'jax' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "deep", capture_output=True, text=True,
        env={"PATH": "/usr/bin"}, check=True,
    )  # fmt: skip
    wanted = modes(agent, state, obs).tolist()
    assert out.stdout.strip() == f"{wanted} False"


@pytest.mark.parametrize(
    ("inputs", "words"),
    [({}, r"\[\] came; .* \['obs'\]"), ({"obs": np.zeros((2, 4))}, r"\(2, 4\).*\[B, \*\(3,\)\]")],
)
def test_the_numpy_policy_says_what_it_takes(plain, inputs, words, tmp_path):
    from trpo_jax.experiments.export.numpy_policy import NumpyPolicy

    policy = NumpyPolicy(trpo_jax.export_policy(*plain, tmp_path / "policy", "numpy"))
    with pytest.raises(ValueError, match=words):
        policy(**inputs)


def test_stablehlo_is_for_every_platform_and_batch(plain, tmp_path):
    file = trpo_jax.export_policy(*plain, tmp_path / "policy", "stablehlo")
    exported = jax.export.deserialize(file.read_bytes())
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [str(aval.shape) for aval in exported.out_avals] == ["(batch,)"]


class Sharp(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return nn.Dense(4)(nn.LayerNorm()(obs))


def test_a_foreign_network_is_exported_as_stablehlo_only(tmp_path):
    env = Still(VECTOR, Discrete(4))
    policy = trpo_jax.policy_from_flax(Sharp(), env.action_space)
    agent = trpo_jax.make_trpo(env, SMALL, policy=policy)
    state = state_of(agent)
    for format in ("onnx", "numpy"):
        with pytest.raises(ValueError, match=f"format='{format}'.*format='stablehlo'"):
            trpo_jax.export_policy(agent, state, tmp_path / "policy", format)
    assert not list(tmp_path.iterdir())
    file = trpo_jax.export_policy(agent, state, tmp_path / "policy", "stablehlo")
    obs = observations(VECTOR)
    wanted = modes(agent, state, obs)
    np.testing.assert_array_equal(run(file, "stablehlo", {"obs": obs}), wanted)


def test_bad_input_is_refused_before_anything_is_written(plain, tmp_path):
    agent, state = plain
    several = state.replace(key=jax.random.split(state.key))
    other = state.replace(actor=state.actor.replace(obs=np.zeros((2, 4, 7))))
    for bad, words in (
        ((agent, state, tmp_path / "policy", "pickle"), "format='pickle'.*onnx, stablehlo, numpy"),
        ((agent, state, tmp_path, "numpy"), "path=.*a file"),
        ((agent, state, 3, "numpy"), "path='3'.*a file"),
        ((agent, several, tmp_path / "policy", "numpy"), r"state.key has shape \(2,\)"),
        ((agent, state.policy_params, tmp_path / "policy", "numpy"), "state=.*TrainState"),
        ((agent, other, tmp_path / "policy", "numpy"), r"obs has shape \(2, 4, 7\)"),
        ((None, state, tmp_path / "policy", "numpy"), "agent=None"),
    ):
        with pytest.raises(ValueError, match=words):
            trpo_jax.export_policy(*bad)
    assert not list(tmp_path.iterdir())
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(ValueError, match="cannot be written"):
        trpo_jax.export_policy(agent, state, blocked / "policy", "numpy")


def test_without_onnx_the_extra_is_named(plain, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "trpo_jax.experiments.export.onnx_file", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"needs onnx.*trpo-jax\[export\]"):
        trpo_jax.export_policy(*plain, tmp_path / "policy", "onnx")
