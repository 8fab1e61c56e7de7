"""The site: pages of docs/, the notebooks with their outputs, a reference from docstrings.

sphinx-build -W --keep-going -c docs . build/site

The source is the whole repository, so that links between docs and notebooks are those that work on
GitHub too; links to other files lead to the repository.
"""

import dataclasses
import itertools
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = _PYPROJECT["tool"]["trpo-jax"]["repository"]

project = "trpo_jax"
version = release = _PYPROJECT["project"]["version"]
copyright = "the trpo_jax authors"
root_doc = "docs/index"
include_patterns = ["docs/*.md", "notebooks/*.ipynb"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]

html_theme = "furo"
html_title = f"trpo_jax {version}"
html_copy_source = False
html_show_sphinx = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # tests/documentation executes the notebooks

default_role = "code"  # docstrings have one backtick around names
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

_OUTSIDE = re.compile(
    r"\]\((?:\.\./)+((?:benchmarks|tests|trpo_jax|\.ci)/[^)]*|\w+\.(?:md|toml|cff))\)"
)
_CODE = re.compile(r"(`[^`]*`)")


def _link_outside(app, docname, source):
    """Relative links to what is no page lead to the repository."""
    source[0] = _OUTSIDE.sub(rf"]({REPOSITORY}/blob/main/\1)", source[0])


def _as_restructured_text(app, what, name, thing, options, lines):
    """Docstrings are plain text: backticks mark names, indented blocks are formulas or code."""
    paragraphs = itertools.groupby(lines, key=lambda line: line.startswith(" "))
    text = []
    for indented, block in paragraphs:
        block = list(block)
        text += ["", "::", "", *block, ""] if indented else _escaped("\n".join(block)).split("\n")
    if what == "class" and dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            if "help" in field.metadata:
                help_text = _escaped(field.metadata["help"])
                text += ["", f":param {field.name}: {help_text}; default `{field.default!r}`"]
    lines[:] = [*text, ""]


def _escaped(text):
    """The text without markup outside of backticks."""
    pieces = _CODE.split(text)
    return "".join(p if p[:1] == "`" else re.sub(r"([*|_\\])", r"\\\1", p) for p in pieces)


def _skip(app, what, name, thing, skip, options):
    """Leave out plumbing for trees."""
    return skip or name in ("tree_flatten_with_keys", "tree_unflatten")


def _start_page(app, error):
    """The root of the site leads to its first page."""
    if app.builder.format == "html" and not error:
        page = '<meta http-equiv="refresh" content="0; url=docs/index.html">\n'
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8")


def setup(app):
    """Register the hooks above."""
    app.connect("source-read", _link_outside)
    app.connect("autodoc-process-docstring", _as_restructured_text)
    app.connect("autodoc-skip-member", _skip)
    app.connect("build-finished", _start_page)
