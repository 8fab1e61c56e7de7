"""Parse arguments. A mistake becomes a one-line `ValueError`."""

import ast
import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
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


@_registry.primitive_rule
def _optional_whole_number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """`int | None`: tyro itself accepts only `None`, and has a long error message."""
    if info.type != int | None:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT|none",
        instance_from_str=lambda words: _whole_number_or_none(words[0]),
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: [str(value).lower()],
    )


@_registry.primitive_rule
def _optional_number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """`float | None`, alike."""
    if info.type != float | None:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|none",
        instance_from_str=lambda words: _number_or_none(words[0]),
        is_instance=lambda value: value is None or isinstance(value, int | float),
        str_from_instance=lambda value: [str(value).lower()],
    )


def _number_or_none(word: str) -> float | None:
    if word.lower() == "none":
        return None
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{word!r} is neither a number nor none") from None


def _whole_number_or_none(word: str) -> int | None:
    if word.lower() == "none":
        return None
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"{word!r} is neither a whole number nor none") from None


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
                kind, args=_todays_options(argv), prog=prog, default=default, registry=_registry
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(_one_line(errors.getvalue())) from None


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
