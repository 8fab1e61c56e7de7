"""The files of a release agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import trpo_jax

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_every_file_names_the_same_version_and_license():
    assert PROJECT["version"] == CITATION["version"] == trpo_jax.__version__
    assert f"## {trpo_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["license"] == CITATION["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_the_picture_of_the_house_has_every_storey_in_order():
    from test_storeys import STOREYS

    (picture,) = re.findall(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    drawn = re.findall(r"^   (\w+)  ", picture, re.MULTILINE)
    packages = [name for name in STOREYS if not name.startswith("__")]
    assert sorted(drawn) == sorted(packages)
    order = [name for name in drawn if name not in ("spaces", "config")]
    assert order == [name for name in reversed(packages) if name not in ("spaces", "config")]


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_the_issue_templates_are_what_github_reads(file):
    content = yaml.safe_load(file.read_text())
    if file.stem == "config":
        assert content == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} == set(content)
    ids = [field["id"] for field in content["body"]]
    assert len(set(ids)) == len(ids)
    assert all(field["attributes"]["label"] for field in content["body"])


def test_paths_in_the_table_of_contributing_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:policies|envs|learner|experiments|cli)/[\w/.]*)`", text)
    assert len(paths) > 8
    for path in paths:
        assert (ROOT / "trpo_jax" / path).exists(), path


def test_the_hooks_of_pre_commit_are_tools_of_the_dev_extra():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    extras = PROJECT["optional-dependencies"]
    tools = {re.match(r"[\w-]+", word).group() for word in (*extras["dev"], *extras["test"])}
    assert {hook["entry"].split()[0] for hook in hooks} <= tools
