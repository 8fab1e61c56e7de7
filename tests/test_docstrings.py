"""Every public name says what it promises: fields, parameters, shapes, errors, sources."""

import ast
import dataclasses
import inspect
import re
import textwrap

import pytest

import trpo_jax

PUBLIC = {name: getattr(trpo_jax, name) for name in trpo_jax.__all__ if name != "__version__"}
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
FROM_THE_LITERATURE = [
    "adapted_scale",
    "cg_solve",
    "constrained_optimum",
    "constrained_step",
    "cpo_step",
    "fit_value",
    "fit_value_lbfgs",
    "gae",
    "gauss_newton_product",
    "hvp",
    "lagrangian_step",
    "line_search",
    "make_objective",
    "natural_direction",
    "natural_step",
    "trust_region_step",
]
SHAPE = re.compile(r"\[[^\]]*\]|\b(float32|int32|uint32|bools?|scalars?|leaves|shaped)\b", re.I)


def tree_of(thing) -> ast.ClassDef | ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    assert isinstance(tree, ast.ClassDef | ast.FunctionDef)
    return tree


def fields_of(cls) -> dict[str, tuple[str, str]]:
    """Annotation and docstring of each field that the class itself declares."""
    body = tree_of(cls).body
    found = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = after.value.value if _is_text(after) else ""
            found[node.target.id] = (ast.unparse(node.annotation), text)
    return found


def _is_text(node) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def own_parameters(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def test_nothing_public_is_left_out():
    assert set(CLASSES) | set(FUNCTIONS) == set(PUBLIC)
    assert len(CLASSES) > 40
    assert len(FUNCTIONS) > 30


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_is_documented(name):
    cls = CLASSES[name]
    if name in ("TRPOConfig", "HParams"):
        helps = {field.name: field.metadata.get("help") for field in dataclasses.fields(cls)}
        assert all(helps.values()), helps
        return
    missing = [field for field, (_, text) in fields_of(cls).items() if not text]
    assert not missing


@pytest.mark.parametrize("name", CLASSES)
def test_every_array_has_a_shape(name):
    """In the docstring of its field, or for all of them in that of the class."""
    cls = CLASSES[name]
    for field, (annotation, text) in fields_of(cls).items():
        if "jax.Array" in annotation and "Callable" not in annotation:
            assert SHAPE.search(text) or SHAPE.search(cls.__doc__), field


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_named(name):
    """In its own docstring, or in that of a public function to which it refers."""
    named = words_of(FUNCTIONS[name])
    for reference in re.findall(r"`(\w+)`", FUNCTIONS[name].__doc__):
        named |= words_of(FUNCTIONS[reference]) if reference in FUNCTIONS else set()
    missing = [each for each in own_parameters(FUNCTIONS[name]) if each not in named]
    assert not missing


def words_of(function) -> set[str]:
    return set(re.findall(r"[a-z]\w*", function.__doc__, re.ASCII))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_named(name):
    function = FUNCTIONS[name]
    raises = [
        node
        for node in ast.walk(tree_of(function))
        if (isinstance(node, ast.Raise) and "ValueError" in ast.unparse(node))
        or (isinstance(node, ast.Call) and re.search(r"\brequire_\w+$", ast.unparse(node.func)))
    ]
    assert not raises or "ValueError" in function.__doc__


@pytest.mark.parametrize("name", FROM_THE_LITERATURE)
def test_what_comes_from_the_literature_says_from_where(name):
    assert re.search(r"[A-Z]\w+( & [A-Z]\w+| et al\.)? (19|20)\d\d", FUNCTIONS[name].__doc__)
