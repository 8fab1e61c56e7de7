"""Links lead somewhere, tests that pages name exist, examples use public names only."""

import ast
import re
import sys
from pathlib import Path

import nbformat
import pytest

import trpo_jax

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

sys.path.insert(0, str(ROOT / "notebooks"))
import refresh  # noqa: E402


def cells(path: Path, kind: str) -> list[str]:
    notebook = nbformat.read(path, as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def text_of(path: Path) -> str:
    if path.suffix == ".ipynb":
        return "\n\n".join(cells(path, "markdown"))
    return path.read_text(encoding="utf-8")


def code_of(path: Path) -> list[str]:
    if path.suffix == ".ipynb":
        return cells(path, "code")[1:]  # the first one installs the library in Colab
    return re.findall(r"^```python\n(.*?)^```", text_of(path), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.stem)
def test_links_lead_to_files_and_headings(path):
    def anchor_of(heading):
        return re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-")

    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text_of(file), re.MULTILINE)
            assert anchor in map(anchor_of, headings)


def test_every_public_name_has_one_place_in_the_reference():
    named = re.findall(r"auto\w+:: trpo_jax\.(\w+)$", text_of(ROOT / "docs/reference.md"), re.M)
    assert sorted(named) == sorted(set(trpo_jax.__all__) - {"__version__"})


def test_the_tests_that_pages_name_exist():
    number = 0
    for page in PAGES:
        for file, test in re.findall(r"`(?:tests/)?(test_\w+\.py)(?:::(\w+))?`", text_of(page)):
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert not test or f"def {test}(" in source, (page.name, file, test)
            number += 1
    assert number > 25


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.stem)
def test_examples_use_public_names_only(path):
    for source in code_of(path):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "trpo_jax":
                assert node.attr in trpo_jax.__all__, node.attr
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trpo_jax"):
                assert node.module == "trpo_jax"
                assert {name.name for name in node.names} <= set(trpo_jax.__all__)
            elif isinstance(node, ast.Import):
                assert not any(name.name.startswith("trpo_jax.") for name in node.names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_as_refresh_writes_them(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source == refresh.badge(path.stem)
    assert refresh.REPOSITORY in notebook.cells[1].source
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is None for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)
    assert path.stat().st_size < 250_000
