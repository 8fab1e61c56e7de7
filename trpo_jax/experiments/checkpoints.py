"""Training states on disk, stored by orbax: atomic, verified when read, never pickled."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.experiments.quiet import quiet

_FORMAT = 2
"""Increased whenever earlier states can no longer be read."""


class OfAnotherKind(ValueError):
    """A checkpoint is whole, but not one of this agent or this version of trpo_jax."""


class Checkpoints:
    """The states of one run in a directory, each named by the number of updates done.

    A checkpoint is written whole or not at all: orbax writes it elsewhere and renames it. Each
    contains a digest of its state, so that damage is detected when it is read.
    """

    def __init__(self, directory: Path, keep: int | None = None):
        """`keep` is the number of newest checkpoints to keep; None keeps all."""
        self._directory = directory.resolve()
        self._keep = keep
        self._open_manager: Any = None

    def save(self, update: int, state: Any, note: dict[str, Any] | None = None) -> None:
        """Write a state, in the background.

        Raises `ValueError` if JAX could not represent it when reading, or if an earlier write
        failed.
        """
        import orbax.checkpoint as ocp

        stored = to_host(state)
        _require_types_of_jax(stored)
        meta = {"format": _FORMAT, "update": update, "digest": _digest(stored), **(note or {})}
        with self._explained(update):
            self._manager().save(
                update,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(stored), meta=ocp.args.JsonSave(meta)
                ),
                force=True,
            )

    def wait(self) -> None:
        """Wait until the last state is on disk. Raises `ValueError` if it could not be written."""
        if self._open_manager is not None:
            with self._explained(None):
                self._open_manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release the directory."""
        try:
            self.wait()
        finally:
            if self._open_manager is not None:
                self._open_manager.close()
                self._open_manager = None

    def updates(self) -> list[int]:
        """The numbers of updates for which there are checkpoints, in order."""
        if not self._directory.is_dir():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdigit())

    def note(self, update: int) -> dict[str, Any]:
        """What was noted beside a state, with its format, update and digest."""
        import orbax.checkpoint as ocp

        _require_content(self._directory / str(update))
        return self._read(update, "meta", ocp.args.JsonRestore())

    def restore(self, update: int, like: Any) -> Any:
        """Read a state; `like` has its structure, shapes and types.

        Raises `ValueError` if it is damaged, and `OfAnotherKind` if this agent or this version
        cannot have written it.
        """
        import orbax.checkpoint as ocp

        path = self._directory / str(update)
        template = jax.eval_shape(lambda state: jax.tree.map(_without_key, state), like)
        meta = self.note(update)
        if meta.get("format") != _FORMAT:
            raise OfAnotherKind(
                f"checkpoint={path} has format {meta.get('format')}, and this version of trpo_jax "
                f"reads {_FORMAT}; continue with the version that wrote it, named in config.json, "
                "or train anew with the settings in it"
            )
        _require_same_kind(path, template)
        stored = self._read(update, "state", ocp.args.StandardRestore(_as_numpy(template)))
        if _digest(stored) != meta.get("digest") or not _same_kind(stored, template):
            raise ValueError(f"checkpoint={path} is damaged: its content is not what was written")
        return from_host(stored, like)

    def restore_newest(self, like: Any, warn: Callable[[str], None]) -> tuple[int, Any] | None:
        """The newest readable state, with its number of updates; None if there are no states.

        Damaged ones are reported to `warn` and set aside. Raises `ValueError` if all are damaged,
        and `OfAnotherKind` at the first that is, which stays.
        """
        updates = self.updates()
        for update in reversed(updates):
            try:
                return update, self.restore(update, like)
            except OfAnotherKind:
                self.close()
                raise
            except ValueError as error:
                problem = error
            if update != updates[0]:
                warn(f"{problem}; going back to the previous one")
                self._set_aside(update)
        if updates:
            self.close()
            raise ValueError(f"{problem}; there is no other one to go back to")
        return None

    def drop_after(self, update: int) -> None:
        """Remove the states of later updates, which will be computed again."""
        for later in self.updates():
            if later > update:
                self._manager().delete(later)

    def _read(self, update: int, item: str, how: Any) -> Any:
        """Read one item of a checkpoint. Of several read at once, one failure aborts the others."""
        import orbax.checkpoint as ocp

        try:
            with quiet():
                return self._manager().restore(update, args=ocp.args.Composite(**{item: how}))[item]
        except Exception as error:  # orbax and tensorstore raise many types
            path = self._directory / str(update)
            raise ValueError(f"checkpoint={path} cannot be read: {_first_line(error)}") from None

    def _set_aside(self, update: int) -> None:
        self.close()
        path = self._directory / str(update)
        path.rename(path.with_name(f"damaged-{update}"))

    def _manager(self) -> Any:
        if self._open_manager is None:
            import orbax.checkpoint as ocp

            # One process has the whole state and writes it; orbax would wait for all of them.
            alone = ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(), active_processes={jax.process_index()}
            )
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                cleanup_tmp_directories=True,
                create=False,
                multiprocessing_options=alone,
            )
            self._directory.mkdir(parents=True, exist_ok=True)
            with quiet():
                self._open_manager = ocp.CheckpointManager(
                    self._directory, options=options, item_names=("state", "meta")
                )
        return self._open_manager

    @contextlib.contextmanager
    def _explained(self, update: int | None) -> Iterator[None]:
        try:
            with quiet():
                yield
        except Exception as error:
            what = "a checkpoint" if update is None else f"the checkpoint of update {update}"
            raise ValueError(
                f"{what} could not be written to {self._directory}: {_first_line(error)}; earlier "
                f"ones are untouched"
            ) from None


def to_host(state: Any) -> Any:
    """All leaves as NumPy arrays, and random keys as their data."""
    return jax.tree.map(lambda leaf: np.asarray(_without_key(leaf)), state)


def from_host(stored: Any, like: Any) -> Any:
    """The inverse of `to_host`; `like` says which leaves are random keys."""
    return jax.tree.map(_with_key, stored, like)


def with_keys(stored: Any, like: Any) -> Any:
    """The same, but only random keys become JAX arrays; all else stays on the host."""
    return jax.tree.map(
        lambda leaf, kind: _with_key(leaf, kind) if _is_key(kind) else leaf, stored, like
    )


def _require_types_of_jax(stored: Any) -> None:
    """Refuse types that JAX would narrow, such as int64: they would not read back as stored."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(stored)[0]:
        narrow = jax.dtypes.canonicalize_dtype(leaf.dtype)
        if narrow != leaf.dtype:
            raise ValueError(
                f"state{jax.tree_util.keystr(path)} is {leaf.dtype}, which JAX reads as {narrow}; "
                f"store it as {narrow}, or enable jax_enable_x64"
            )


def _require_content(path: Path) -> None:
    """Refuse empty files: on these orbax leaves tasks behind that end in a traceback."""
    for file in (*(path / "meta").rglob("*"), *(path / "state").rglob("*")):
        if file.is_file() and not file.stat().st_size:
            raise ValueError(f"checkpoint={path} is damaged: {file.relative_to(path)} is empty")


def _require_same_kind(path: Path, template: Any) -> None:
    """Raise `OfAnotherKind` if the state on disk has other leaves or shapes than a template.

    If these cannot be read, reading the whole state says why.
    """
    import orbax.checkpoint as ocp

    try:
        with quiet():
            metadata: Any = ocp.StandardCheckpointHandler().metadata(path / "state")
        stored = _shapes(getattr(metadata, "tree", metadata))
    except Exception:  # orbax and tensorstore raise many types
        return
    wanted = _shapes(ocp.tree.serialize_tree(template, keep_empty_nodes=True))
    for name in sorted(stored.keys() | wanted.keys()):
        there, here = (shapes.get(name, "missing") for shapes in (stored, wanted))
        if there != here:
            raise OfAnotherKind(
                f"checkpoint={path} is of another agent: {name} is {there} there and {here} in "
                "this one; pass the same env=, policy= and other parts as the run was trained with"
            )


def _shapes(tree: Any) -> dict[str, str]:
    """The shapes of the leaves by name, such as policy_params.params.bias."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{tuple(leaf.shape)}"
        for path, leaf in leaves
    }


def _digest(stored: Any) -> str:
    """SHA-256 of the names, types, shapes and bytes of all arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(stored)[0]:
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _same_kind(stored: Any, template: Any) -> bool:
    pairs = zip(jax.tree.leaves(stored), jax.tree.leaves(template), strict=True)
    return all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)


def _as_numpy(template: Any) -> Any:
    """A template of NumPy arrays: orbax restores into arrays of the kind that it is given."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_key(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _with_key(stored: Any, like: Any) -> Any:
    if not _is_key(like):
        return jnp.asarray(stored)
    return jax.random.wrap_key_data(jnp.asarray(stored), impl=jax.random.key_impl(like))


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
