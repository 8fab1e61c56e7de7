"""Parse arguments. A mistake becomes a one-line `ValueError`."""

import ast
import contextlib
import inspect
import io
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from trpo_jax.config import TRPOConfig
from trpo_jax.presets import DEFAULT, Preset, get_preset

Arguments = TypeVar("Arguments")


def preset_of(argv: Sequence[str]) -> Preset:
    """The preset of the environment that the command names, or the defaults if it has none."""
    presets = (get_preset(word) for word in argv)
    return next((preset for preset in presets if preset is not DEFAULT), DEFAULT)


def require_at_least(arguments: Any, name: str, smallest: int) -> None:
    """Raise `ValueError` unless an argument is None or at least `smallest`."""
    value = getattr(arguments, name)
    if value is not None and value < smallest:
        raise ValueError(f"{name}={value} must be a whole number >= {smallest}")


def require_once(argv: Sequence[str], names: Iterable[str]) -> None:
    """Raise `ValueError` if an option that takes several values is given twice.

    Only the last one would count, as for every option, and the other values would be lost.
    """
    options = [word.partition("=")[0].replace("_", "-") for word in argv if word[:2] == "--"]
    for name in names:
        option = f"--{name.replace('_', '-')}"
        if options.count(option) > 1:
            raise ValueError(
                f"{option} is given {options.count(option)} times; give it once, with all values"
            )


def whole_number(word: str) -> int:
    """Parse a whole number, such as 2000000 or 2e6."""
    with contextlib.suppress(ValueError):
        return int(word)
    with contextlib.suppress(ValueError):
        if float(word).is_integer():
            return int(float(word))
    raise ValueError(f"{word!r} is not a whole number, such as 200000 or 2e5")


TotalSteps = Annotated[
    int,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A number of steps, which may be written as 2e6."""

_registry = ConstructorRegistry()


def _word_or_none(kind: Callable[[str], Any], what: str) -> Callable[[list[str]], Any]:
    """Reads one word as `kind`, or "none" as None."""

    def read(words: list[str]) -> Any:
        if words[0].lower() == "none":
            return None
        try:
            return kind(words[0])
        except ValueError:
            raise ValueError(f"{words[0]!r} is neither {what} nor none") from None

    return read


def _sizes_or_none(words: list[str]) -> tuple[int, ...] | None:
    if [word.lower() for word in words] == ["none"]:
        return None
    try:
        return tuple(map(int, words))
    except ValueError:
        raise ValueError(f"{' '.join(words)!r} is neither whole numbers nor none") from None


_OPTIONAL: dict[Any, tuple[str, Any, Callable[[list[str]], Any]]] = {
    int | None: ("INT|none", 1, _word_or_none(int, "a whole number")),
    float | None: ("FLOAT|none", 1, _word_or_none(float, "a number")),
    str | None: ("WORD", 1, lambda words: words[0]),
    Path | None: ("PATH", 1, lambda words: Path(words[0])),
    tuple[int, ...] | None: ("INT …|none", "*", _sizes_or_none),
}
"""Types that may be None: how the help shows them, number of words, and how these are read. tyro
itself shows `{None}|INT`, accepts only `None`, and has a long error message."""


@_registry.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    if info.type not in _OPTIONAL:
        return None
    metavar, nargs, read = _OPTIONAL[info.type]
    return PrimitiveConstructorSpec(
        nargs=nargs,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: value is None or not isinstance(value, bool),
        str_from_instance=_as_words,
    )


def _as_words(value: Any) -> list[str]:
    if value is None:
        return ["none"]
    return [str(each) for each in value] if isinstance(value, tuple) else [str(value)]


def parse(
    kind: type[Arguments],
    argv: list[str],
    prog: str,
    default: Arguments | Any = tyro.MISSING_NONPROP,
) -> Arguments:
    """Parse with tyro. A mistake becomes a one-line `ValueError` instead of a box."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind,
                args=_todays_options(argv),
                prog=prog,
                description=_wrapped(kind.__doc__ or ""),
                default=default,
                registry=_registry,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(_one_line(errors.getvalue())) from None


def _wrapped(text: str) -> str:
    """Paragraphs wrapped to the terminal, which tyro prints as one line each.

    It joins lines unless they begin with something other than a letter: hence the indent.
    """
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        textwrap.fill(" ".join(each.split()), width, subsequent_indent=" ") for each in paragraphs
    )


_WIDEST = 100

_OLD_OPTIONS = {
    "--adapt-damping": ["--algorithm", "trpo_adaptive_damping"],
    "--no-adapt-damping": ["--algorithm", "trpo"],
    "--curvature-chunk-size": ["--chunk-size"],
}
"""Options of earlier versions that scripts may still use."""


def _todays_options(argv: Sequence[str]) -> list[str]:
    words: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        today = _OLD_OPTIONS.get(name.replace("_", "-"))
        words += [word] if today is None else [*today[:-1], today[-1] + equals + value]
    return words


def _one_line(box: str) -> str:
    """The message in tyro's error box, with the first option that it suggests."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    sections: list[list[str]] = [[]]
    for line in lines[1:]:
        if line and not line.strip("─"):
            sections.append([])
        elif line:
            sections[-1].append(line)
    message = " ".join(sections[0])
    for section in sections[1:]:
        if section and section[0].startswith("Perhaps you meant") and len(section) > 1:
            message += f"; did you mean {section[1].split()[0]}?"
    return message


def keywords_of(pairs: Sequence[str]) -> dict[str, Any]:
    """The keywords of --env-args."""
    return {name: _literal(text) for name, text in _pairs("env_args", pairs)}


def static_values_of(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """The values of --static, separated by commas; the numbers of a tuple by x."""
    tuples = {name for name, value in vars(TRPOConfig()).items() if isinstance(value, tuple)}
    values: dict[str, list[Any]] = {}
    for name, text in _pairs("static", pairs):
        if name in values:
            raise ValueError(f"static={name} is given twice; separate its values by commas")
        words = text.split(",")
        values[name] = [
            tuple(map(_literal, word.split("x"))) if name in tuples else _literal(word)
            for word in words
        ]
    return values


def _pairs(option: str, pairs: Sequence[str]) -> Iterator[tuple[str, str]]:
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"{option}={pair!r} is not of the form NAME=VALUE")
        yield name, text


def _literal(text: str) -> Any:
    """The text as a Python literal if it is one, else as a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
