"""The house's order: every storey imports from its own and from lower ones only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trpo_jax

ROOT = Path(trpo_jax.__file__).parent
STOREYS = [
    "common",
    "solver",
    "config",
    "spaces",
    "policies",
    "envs",
    "learner",
    "presets",
    "experiments",
    "cli",
    "__init__",
    "__main__",
]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
STUB = ROOT / "__init__.pyi"  # the façade imports lazily what its stub names


def storey(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(module: str, tree: ast.AST) -> set[str]:
    """Modules of the package that are imported anywhere in the file, also within functions."""
    found = set()
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if is_ours(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            if is_ours(base):
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    found.add(inner if inner in MODULES else base)
    return found


def is_ours(name: str) -> bool:
    return name == "trpo_jax" or name.startswith("trpo_jax.")


IMPORTS = {name: imports_of(name, ast.parse(path.read_text())) for name, path in MODULES.items()}
IMPORTS["trpo_jax"] |= imports_of("trpo_jax", ast.parse(STUB.read_text()))


def test_the_reader_reads():
    assert "trpo_jax.learner.trpo" in MODULES
    assert "trpo_jax.envs.base" in IMPORTS["trpo_jax.learner.trpo"]
    assert "trpo_jax.config" in IMPORTS["trpo_jax"]
    relative = ast.parse("def f():\n    from ..common import trees\n    from . import value")
    assert imports_of("trpo_jax.learner.trpo", relative) == {
        "trpo_jax.common.trees",
        "trpo_jax.learner.value",
    }


@pytest.mark.parametrize("module", MODULES)
def test_knowledge_flows_down(module):
    assert storey(module) in STOREYS, f"{module} belongs to no storey"
    height = STOREYS.index(storey(module))
    for imported in IMPORTS[module]:
        assert imported in MODULES, f"{module} imports {imported}, which does not exist"
        assert STOREYS.index(storey(imported)) <= height, f"{module} imports {imported} from above"


@pytest.mark.parametrize("module", [name for name in MODULES if storey(name) == "solver"])
def test_the_solver_knows_neither_settings_nor_reinforcement_learning(module):
    assert {storey(imported) for imported in IMPORTS[module]} <= {"common", "solver"}


def test_no_module_imports_itself_by_a_detour():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for imported in sorted(IMPORTS[module]):
                visit(imported, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_importing_the_library_is_light():
    heavy = ["brax", "gymnax", "matplotlib", "orbax", "tyro"]
    code = f"import sys, trpo_jax; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_naming_a_gymnax_environment_does_not_import_brax():
    code = (
        "import sys, trpo_jax; trpo_jax.make_env('CartPole-v1'); "
        "print([name for name in ('brax', 'mujoco') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
