"""Files that survive a kill: atomic replacement, JSON lines, and a lock per directory."""

import contextlib
import fcntl
import json
import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LOCK = ".lock"


def require_path(name: str, path: Any) -> Path:
    """A directory's path as a `Path`. Raises `ValueError` if `name` is none."""
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"{name}={path!r} must be the path of a directory")
    return Path(path)


def create_directory(path: Path) -> Path:
    """Create a directory. Raises `ValueError` if that fails or it is not empty."""
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"out={path} exists and is not an empty directory; choose another one")
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"out={path} cannot be written: {error.strerror}") from None
    return path


def write_text(file: Path, text: str) -> None:
    """Replace a file atomically: it holds the old or the new content, never a mixture."""
    temporary = file.with_name(f".{file.name}.new")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)


def read_lines(file: Path, *names: str) -> list[dict[str, Any]]:
    """The records in a file of JSON lines, without a last line that a kill cut short.

    Raises `ValueError` if any other line is not a record with these names.
    """
    if not file.is_file():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]
    return [read_line(file, number, line, *names) for number, line in enumerate(lines, start=1)]


def read_line(file: Path, number: int, line: bytes, *names: str) -> dict[str, Any]:
    """The record in a complete line of such a file. Raises `ValueError` if it has none."""
    with contextlib.suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and all(name in record for name in names):
            return record
    text = line.decode(errors="replace").strip()[:40]
    raise ValueError(
        f"{file} is damaged: line {number} is not what was written ({text!r}); restore a copy "
        f"of the file, or delete that line: sed -i {number}d {shlex.quote(str(file))}"
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a run directory for this process. The lock ends with the process, however it ends."""
    with (path / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"run={path} is in use by another process; wait until it ends"
            ) from None
        yield


def is_locked(path: Path) -> bool:
    """Whether a process is training in this directory."""
    if not (path / _LOCK).is_file():
        return False
    with (path / _LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def to_json(content: Any, indent: int | None = None) -> str:
    """As JSON, with null for NaN and ±∞."""
    return json.dumps(_with_nulls(content), indent=indent, allow_nan=False)


def _with_nulls(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _with_nulls(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_nulls(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
