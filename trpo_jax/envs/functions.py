"""Functions that a user names as "package.module:name"."""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator


def import_function(path: str, argument: str) -> Callable:
    """The user's function "package.module:name"."""
    module_name, _, name = path.partition(":")
    plain = _without_folders(module_name)
    if plain != module_name:
        raise ValueError(
            f"{argument}={path!r} does not begin with the name of a module; write {plain}:{name}, "
            "which is looked for in the working directory and in PYTHONPATH"
        )
    try:
        with _working_directory_importable():
            module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{argument}={path!r}: {module_name} cannot be imported: {_text(error)}"
        ) from None
    except Exception as error:  # of the module's own code
        raise ValueError(
            f"{argument}={path!r}: {module_name} cannot be imported: {one_line(error)}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{argument}={path!r}: {module_name} has no function {name!r}")
    return function


def _without_folders(module_name: str) -> str:
    """The module that is meant by a path such as "./folder/module.py", or by ".module"."""
    if "/" in module_name or module_name.endswith(".py"):
        outside = module_name.startswith(("/", "~", ".."))
        path = os.path.basename(module_name) if outside else os.path.normpath(module_name)
        return path.removesuffix(".py").replace("/", ".")
    return module_name.lstrip(".")


def one_line(error: Exception) -> str:
    """The type and the text of an error, without line breaks."""
    return f"{type(error).__name__}: {_text(error)}"


def _text(error: Exception) -> str:
    return " ".join(str(error).split())


@contextlib.contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Import from the working directory, as `python -m` does and a console script does not."""
    here = os.getcwd()
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)
