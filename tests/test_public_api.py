"""The names that others rely on."""

import dataclasses
import inspect

import pytest

import trpo_jax

CONTRACT = {
    "TRPOConfig": """num_envs num_steps hidden_sizes activation cg_iterations curvature
        solver_dtype max_backtracks value_epochs value_minibatch_size value_target
        normalize_observations normalize_rewards normalize_advantages""",
    "HParams": """max_kl gamma gae_lambda cg_damping cg_tol backtrack_factor accept_ratio
        entropy_coef value_learning_rate""",
    "TrainState": "policy_params value_params key",
    "UpdateMetrics": """kl accepted step_fraction num_backtracks entropy explained_variance
        episode_return kl_per_dimension env_metrics env_metrics_last""",
    "EpisodeStats": "returns lengths metrics metrics_last",
    "Comparison": "difference interval verdict confidence",
    "Guard": "confidence margin share every",
    "CGResult": "x residual_norms num_iters breakdown",
    "LineSearchResult": "params accepted step_fraction num_backtracks kl improvement",
    "Trajectory": """obs next_obs action log_prob distribution reward terminated truncated""",
    "EnvStep": "obs reward terminated truncated metrics",
    "Agent": "init update train act evaluate",
}
BUILDING_BLOCKS = {
    "gae": (
        ["reward", "value", "next_value", "terminated", "truncated"],
        ["gamma", "gae_lambda"],
    ),
    "hvp": (["fn", "params", "vector"], []),
    "cg_solve": (["matvec", "b"], ["max_iters", "tol"]),
    "line_search": (["evaluate", "params", "full_step"], ["max_kl"]),
    "rollout": (["state"], []),
    "make_trpo": (["env", "config", "policy_step"], []),
}


def field_names(cls) -> set[str]:
    if dataclasses.is_dataclass(cls):
        return {field.name for field in dataclasses.fields(cls)}
    return set(cls._fields)


def test_all_is_sorted_and_without_duplicates():
    assert list(trpo_jax.__all__) == sorted(set(trpo_jax.__all__))


def test_dir_shows_what_is_public():
    public = {name for name in dir(trpo_jax) if not name.startswith("_")}
    assert set(trpo_jax.__all__) <= public
    for name in trpo_jax.__all__:
        assert getattr(trpo_jax, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="TRPOO"):
        _ = trpo_jax.TRPOO


@pytest.mark.parametrize("name", trpo_jax.__all__)
def test_every_public_name_is_documented(name):
    thing = getattr(trpo_jax, name)
    doc = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert doc, f"{name} has no docstring"
    assert not doc.startswith(f"{name}("), f"{name} has only a generated docstring"
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            if inspect.isfunction(value) and not member.startswith("_") and is_ours(value):
                assert value.__doc__, f"{name}.{member} has no docstring"


def is_ours(function) -> bool:
    return (
        function.__module__.startswith("trpo_jax")
        and function.__qualname__.count(".") == 1
        and "<locals>" not in function.__qualname__
    )


@pytest.mark.parametrize("name", CONTRACT)
def test_the_promised_fields_exist(name):
    promised = set(CONTRACT[name].split())
    assert promised <= field_names(getattr(trpo_jax, name))


@pytest.mark.parametrize("name", BUILDING_BLOCKS)
def test_the_promised_signatures_exist(name):
    positional, keyword_only = BUILDING_BLOCKS[name]
    parameters = inspect.signature(getattr(trpo_jax, name)).parameters
    assert list(parameters)[: len(positional)] == positional
    for keyword in keyword_only:
        assert parameters[keyword].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", ["TRPOConfig", "HParams"])
def test_settings_have_a_replace_that_validates(name):
    cls = getattr(trpo_jax, name)
    field = {"TRPOConfig": "num_envs", "HParams": "max_kl"}[name]
    assert getattr(cls().replace(**{field: 2}), field) == 2
    with pytest.raises(ValueError, match=field):
        cls().replace(**{field: -1})
    with pytest.raises(ValueError, match="no field 'nothing'"):
        cls().replace(nothing=1)


def test_settings_are_frozen_and_the_config_hashes():
    config = trpo_jax.TRPOConfig()
    assert hash(config) == hash(trpo_jax.TRPOConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_envs = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        trpo_jax.HParams().max_kl = 1.0


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert version("trpo-jax") == trpo_jax.__version__
