"""Networks: safe initialisation, nearly uniform first policies, images, inactive units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax
from trpo_jax.policies.defaults import default_critic
from trpo_jax.policies.networks import (
    MINATAR,
    NATURE,
    Body,
    CategoricalHead,
    GaussianHead,
    MultiCategoricalHead,
    idle_sides,
    make_critic,
    make_policy,
    share_of_idle,
)

MLP = Body(((3,),), (16, 16), "tanh")
CNN = Body(((10, 10, 4),), (16,), "relu", MINATAR)
ATARI = Body(((45, 37, 2),), (16,), "relu", NATURE)
HEADS = {
    "categorical": CategoricalHead(4),
    "multi_categorical": MultiCategoricalHead((2, 3)),
    "gaussian": GaussianHead(2, -0.5),
}
OBS = jnp.zeros(3)


def test_batched_initialisation_never_deadlocks():
    """jaxlib 0.10 hangs within a few hundred calls if `init` runs batched LAPACK."""
    policy, critic = make_policy(MLP, HEADS["gaussian"]), make_critic(MLP)
    init = jax.jit(jax.vmap(lambda key: (policy.init(key, OBS), critic.init(key, OBS))))
    text = init.lower(jax.random.split(jax.random.key(0), 8)).as_text().lower()
    assert "lapack" not in text
    assert "custom_call" not in text
    for i in range(300):
        jax.block_until_ready(init(jax.random.split(jax.random.key(i), 8)))


def test_batched_initialisation_equals_single_ones_and_keys_matter():
    policy = make_policy(MLP, HEADS["categorical"])
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(policy.init, in_axes=(0, None)))(keys, OBS)
    alone = policy.init(keys[1], OBS)
    for many, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(many[1], one, rtol=1e-6)
        if one.ndim > 1:
            assert not np.allclose(many[0], many[1])


def test_kernels_have_the_deviation_of_variance_scaling():
    body = Body(((50,),), (400,), "relu")
    params = make_critic(body).init(jax.random.key(0), jnp.zeros(50))
    kernel = params["params"]["body"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / 50), rtol=0.03)
    assert abs(np.mean(kernel)) < 0.01


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("head", HEADS)
def test_the_first_policy_hardly_depends_on_the_observation(head, seed):
    policy = make_policy(MLP, HEADS[head])
    params = policy.init(jax.random.key(seed), OBS)
    obs = jnp.asarray(np.random.default_rng(seed).normal(size=(20, 3)), jnp.float32)
    distribution = policy.apply(params, obs)
    if head == "gaussian":
        assert np.abs(distribution.mean).max() < 0.05
        np.testing.assert_array_equal(distribution.log_std, -0.5)
        return
    largest = {"categorical": np.log(4), "multi_categorical": np.log(2) + np.log(3)}[head]
    np.testing.assert_allclose(distribution.entropy(), largest, atol=1e-3)
    assert np.ptp(distribution.logits) > 0  # nearly, not exactly


@pytest.mark.parametrize("head", HEADS)
def test_a_policy_is_the_network_that_it_says(head):
    """Forward pass in NumPy."""
    policy = make_policy(MLP, HEADS[head])
    params = jax.tree.map(lambda x: x + 0.1, policy.init(jax.random.key(0), OBS))
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    layers = jax.tree.map(lambda x: np.asarray(x, np.float64), params)["params"]
    x = obs
    hidden = []
    for name in ("Dense_0", "Dense_1"):
        x = np.tanh(x @ layers["body"][name]["kernel"] + layers["body"][name]["bias"])
        hidden.append(x)
    out = x @ layers["head"]["Dense_0"]["kernel"] + layers["head"]["Dense_0"]["bias"]
    distribution, units = policy.apply_with_units(params, obs)
    np.testing.assert_allclose(jax.tree.leaves(distribution)[0], out, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(units, hidden, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    if head == "gaussian":
        np.testing.assert_allclose(distribution.log_std, np.full((5, 2), -0.4), rtol=1e-6)


@pytest.mark.parametrize("body", [CNN, ATARI], ids=["cnn", "nature"])
def test_convolutions_are_those_of_jax(body):
    """Kernels in the layout that `lax.conv` takes; pixels beyond the last square do not count."""
    (shape,) = body.obs_shapes
    policy = make_policy(body, HEADS["categorical"])
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    params = policy.init(jax.random.key(0), images[0])
    params = jax.tree.map(lambda leaf: leaf + 0.01, params)
    _, units = policy.apply_with_units(params, images)
    x = jnp.asarray(images, jnp.float32) / 255
    for index, (channels, side, stride) in enumerate(body.convolutions):
        layer = params["params"]["body"][f"Dense_{index}"]
        squares, inputs = side // stride, x.shape[-1]
        kernel = layer["kernel"].reshape(squares, squares, stride, stride, inputs, channels)
        kernel = kernel.swapaxes(1, 2).reshape(side, side, inputs, channels)
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jnp.maximum(x + layer["bias"], 0)
        np.testing.assert_allclose(units[index], x, rtol=1e-4, atol=1e-5)
    assert len(units) == len(body.convolutions) + 1


def test_numbers_beside_an_image_join_after_the_convolutions():
    shapes = {"image": (5, 4, 2), "numbers": (3,)}
    config = trpo_jax.TRPOConfig(network="cnn", activation="relu", hidden_sizes=(6,))
    critic = default_critic(shapes, config)
    rng = np.random.default_rng(0)
    obs = {name: rng.normal(size=(7, *shape)).astype(np.float32) for name, shape in shapes.items()}
    params = critic.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], obs))
    layers = params["params"]["body"]
    alone = make_policy(Body((shapes["image"],), (), "relu", MINATAR), CategoricalHead(2))
    its_params = alone.init(jax.random.key(0), obs["image"][0])
    its_params["params"]["body"] = {"Dense_0": layers["Dense_0"]}
    _, (features,) = alone.apply_with_units(its_params, obs["image"])
    joined = np.concatenate([np.asarray(features).reshape(7, -1), obs["numbers"]], axis=1)
    hidden = np.maximum(joined @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"], 0)
    last = params["params"]["Dense_0"]
    expected = hidden @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(critic.apply(params, obs), expected[:, 0], rtol=1e-4, atol=1e-5)


class Brightness(trpo_jax.Environment):
    """uint8 images 36 × 36 × 2, bright or dark; pays for the action that names which."""

    name = "brightness"
    obs_shape = (36, 36, 2)
    action_space = trpo_jax.Discrete(2)
    max_episode_steps = 4

    def show(self, key):
        bright = jax.random.bernoulli(key).astype(jnp.int32)
        noise = jax.random.randint(key, self.obs_shape, 0, 50)
        return bright, jnp.asarray(noise + 200 * bright, jnp.uint8)

    def reset(self, key):
        bright, image = self.show(key)
        return (bright, jnp.int32(0)), image

    def step(self, key, state, action):
        (bright, time), (later, image) = state, self.show(key)
        over = time + 1 >= self.max_episode_steps
        reward = jnp.float32(action == bright)
        return (later, time + 1), trpo_jax.EnvStep(image, reward, jnp.bool_(False), over)


def test_the_network_of_atari_trains():
    config = trpo_jax.TRPOConfig(
        num_envs=4, num_steps=8, hidden_sizes=(8,), network="nature", activation="relu",
        cg_iterations=3, value_epochs=1,
    )  # fmt: skip
    agent = trpo_jax.make_trpo(Brightness(), config)
    _, metrics = jax.jit(agent.update)(agent.init(jax.random.key(0)), trpo_jax.HParams())
    assert metrics.accepted
    assert 0 < metrics.kl <= 0.01 * 1.01
    assert metrics.on_policy_gap < 1e-4


def test_images_too_small_for_their_convolutions_are_refused():
    class Smaller(Brightness):
        obs_shape = (36, 35, 2)

    config = trpo_jax.TRPOConfig(network="nature")
    with pytest.raises(ValueError, match=r"network='nature' needs images of at least 36 × 36"):
        trpo_jax.make_trpo(Smaller(), config)
    with pytest.raises(ValueError, match=r"network='nature' needs observations \[height"):
        trpo_jax.make_trpo(trpo_jax.make_env("CartPole-v1"), config)


@pytest.mark.parametrize("body", [MLP, CNN, ATARI], ids=["mlp", "cnn", "nature"])
def test_leading_axes(body):
    policy, critic = make_policy(body, HEADS["categorical"]), make_critic(body)
    (shape,) = body.obs_shapes
    obs = np.random.default_rng(0).normal(size=(2, 3, *shape)).astype(np.float32)
    params = policy.init(jax.random.key(0), obs[0, 0])
    value_params = critic.init(jax.random.key(1), obs[0, 0])
    logits = policy.apply(params, obs).logits
    values = critic.apply(value_params, obs)
    assert logits.shape == (2, 3, 4)
    assert values.shape == (2, 3)
    np.testing.assert_allclose(
        policy.apply(params, obs[1, 2]).logits, logits[1, 2], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        critic.apply(value_params, obs[1, 2]), values[1, 2], rtol=1e-4, atol=1e-6
    )
    _, units = policy.apply_with_units(params, obs.reshape(6, *shape))
    assert all(layer.shape[0] == 6 for layer in units)
    assert len(units) == len(body.convolutions) + len(body.hidden_sizes)


def layer(*columns):
    return [jnp.asarray(columns, jnp.float32).T]


def idle_share(activation, units, weight):
    return share_of_idle(idle_sides(activation, units, weight))


def test_dead_relu_units():
    units = layer([0, 0, 0], [0, 1, 0], [0, 0, 0], [2, 3, 4])
    np.testing.assert_allclose(idle_share("relu", units, jnp.ones(3)), [0.5])


def test_saturated_tanh_units():
    high, low, mixed, alive = [0.999] * 3, [-0.999] * 3, [0.999, -0.999, 0.999], [0, 0.5, 0.999]
    units = layer(high, low, mixed, alive)
    np.testing.assert_allclose(idle_share("tanh", units, jnp.ones(3)), [0.5])


def test_inactive_units_are_counted_per_layer_and_channel_and_over_weighted_examples_only():
    units = layer([0, 0, 5], [1, 0, 0])
    np.testing.assert_allclose(idle_share("relu", units, jnp.ones(3)), [0])
    np.testing.assert_allclose(idle_share("relu", units, jnp.array([1.0, 1, 0])), [0.5])
    image = jnp.zeros((3, 4, 4, 2)).at[1, 2, 2, 0].set(1.0)
    fractions = idle_share("relu", [image, *units], jnp.ones(3))
    np.testing.assert_allclose(fractions, [0.5, 0])


def test_dead_units_of_a_real_network_are_found():
    policy = make_policy(Body(((3,),), (8, 4), "relu"), HEADS["categorical"])
    params = policy.init(jax.random.key(0), OBS)
    bias = params["params"]["body"]["Dense_1"]["bias"].at[:2].set(-1e3)
    params["params"]["body"]["Dense_1"]["bias"] = bias
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(200, 3)), jnp.float32)
    _, units = policy.apply_with_units(params, obs)
    assert idle_share("relu", units, jnp.ones(200))[1] >= 0.5
