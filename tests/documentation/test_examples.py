"""The examples of docs/extending.md run as they stand, and do what the text says."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trpo_jax

TEXT = Path(__file__).parents[2].joinpath("docs", "extending.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
EXAMPLES = {
    section.partition("\n")[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in SECTIONS
}
HEADINGS = [
    "Network: a linen module with two heads",
    "Network: an nnx module",
    "Distribution: Beta",
    "Preconditioner: a diagonal",
    "Acceptance rule: a price on the KL",
    "Policy step: a plain function",
    "Value fit: one damped Gauss–Newton step",
    "Environment: an action mask and a privileged critic",
    "Environment: what it measures",
]


def test_every_section_has_one_example_of_at_most_thirty_lines():
    assert list(EXAMPLES) == HEADINGS
    for heading, blocks in EXAMPLES.items():
        assert len(blocks) == 1, heading
        lines = blocks[0].strip().splitlines()
        assert len(lines) <= 30, (heading, len(lines))
        assert max(map(len, lines)) <= 100, heading
    assert TEXT.count("```python") == len(HEADINGS)


@functools.cache
def _run(heading):
    """What an example leaves behind."""
    names = {"__name__": "example"}
    exec(compile(EXAMPLES[heading][0], f"docs/extending.md: {heading}", "exec"), names)
    return names


@pytest.mark.parametrize("heading", HEADINGS[:2])
def test_a_foreign_module_solves_cartpole(heading):
    names = _run(heading)
    assert names["stats"].returns.mean() >= 195
    assert (names["history"].on_policy_gap < 1e-4).all()
    assert (names["history"].kl <= names["hparams"].max_kl).all()
    assert names["history"].accepted.mean() > 0.9


def test_the_first_two_networks_are_the_users():
    """Orthogonal kernels of the user's initialiser, other numbers for each head."""
    names = _run(HEADINGS[0])
    params = names["agent"].init(jax.random.key(3))
    kernel = np.asarray(params.policy_params["params"]["hidden_1"]["kernel"], np.float64)
    np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(64), atol=1e-4)
    assert "value" not in params.policy_params["params"]


def test_a_beta_policy_drives_the_car_up_the_hill():
    names = _run(HEADINGS[2])
    assert names["stats"].returns.mean() > 80
    assert (names["history"].on_policy_gap < 1e-3).all()
    assert names["history"].accepted.mean() > 0.9


def test_the_diagonal_changes_the_road_and_not_the_solution():
    names = _run(HEADINGS[3])
    plain = names["trpo_jax"].make_trpo(names["env"], names["config"])
    solved = trpo_jax.HParams(cg_tol=1e-6)  # else both stop somewhere near the solution
    (_, usual), (_, history) = (
        agent.train(agent.init(jax.random.key(0)), solved, num_updates=3)
        for agent in (plain, names["agent"])
    )
    assert history.accepted.all()
    assert not history.cg_breakdown.any()
    assert not np.array_equal(history.cg_residual_norms[0], usual.cg_residual_norms[0])
    np.testing.assert_allclose(history.step_norm[0], usual.step_norm[0], rtol=1e-3)
    np.testing.assert_allclose(history.kl[0], usual.kl[0], rtol=1e-3)


def test_the_price_on_the_kl_is_paid():
    names = _run(HEADINGS[4])
    history = names["history"]
    assert history.accepted.any()
    assert (~history.accepted | (history.improvement > 2 * history.kl)).all()
    rule = names["worth_its_kl"]
    assert not rule(jnp.float32(0.01), jnp.float32(0.01), 1.0)
    assert rule(jnp.float32(0.03), jnp.float32(0.01), 1.0)


def test_the_plain_step_keeps_to_the_region_and_reports_it():
    history = _run(HEADINGS[5])["history"]
    assert history.accepted.any()
    assert (history.kl <= 0.01).all()
    assert (history.kl[history.accepted] > 0).all()
    assert history.cg_iterations is None  # it has no conjugate gradients


def test_the_own_fit_lowers_the_loss():
    history = _run(HEADINGS[6])["history"]
    assert (history.value_loss < 0.7 * history.value_loss_before).all()


def test_the_corridor_is_walked_without_running_into_walls():
    names = _run(HEADINGS[7])
    assert names["action"] == 1
    history = names["history"]
    assert history.episode_return[-1] > history.episode_return[0]
    cells = names["agent"].rollout(names["state"])[1].next_obs.policy[..., 0]
    assert ((cells > -1e-6) & (cells < 1 + 1e-6)).all()
    params = names["state"].value_params["params"]["body"]["Dense_0"]["kernel"]
    assert params.shape[0] == 3  # the critic sees the door


def test_the_goal_is_reached_and_the_effort_is_measured():
    names = _run(HEADINGS[8])
    assert names["succeeded"].shape == (10,)
    assert names["succeeded"][0] < 0.5 < 0.9 < names["succeeded"][-1]
    np.testing.assert_array_equal(names["stats"].metrics_last["success"], np.ones(8))
    terms = (names["stats"].metrics[f"reward/{term}"] for term in ("progress", "effort"))
    total = sum(terms) * names["stats"].lengths
    np.testing.assert_allclose(total, names["stats"].returns, rtol=1e-5)
    assert names["effort"].shape == (8,)
    assert (names["effort"] < 0).all()
