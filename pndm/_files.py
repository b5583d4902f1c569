"""Files: written whole or not at all, locked between processes, hashed once."""

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pndm._errors import FileError, InputError, file_errors


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file next to `path`, then rename it: whole or not at all.

    FileError where the file system refuses: no space, no permission.
    """
    partial = partial_path(path)
    with file_errors():
        try:
            write(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """The file next to `path` that this process fills before it is renamed."""
    return path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.partial")


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write bytes atomically.

    Writers of torch and safetensors raise errors of their own where the disk is full, which
    `write_atomic` does not know: let them write to memory, and this to the disk.
    """
    write_atomic(path, lambda partial: partial.write_bytes(content))


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically; ValueError for NaN or infinity, which JSON cannot hold."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomic(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def make_folder(path: Path) -> Path:
    """The folder, made with its parents where it is missing; FileError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cure = "set PNDM_HOME to" if path.is_relative_to(cache_dir()) else "name"
        reason = error.strerror or type(error).__name__
        raise FileError(
            f"the folder {path} cannot be made ({reason}): {cure} one that can be written to"
        ) from error
    return path


def expand_user(path: str | Path) -> Path:
    """A path with ~ replaced by the user's home; InputError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: no home is known for ~ here, write the whole path") from None


def cache_dir() -> Path:
    """PNDM_HOME, the folder of everything fetched or computed once; by default ~/.cache/pndm.

    A user without a home has it in the folder of temporary files.
    """
    if home := os.environ.get("PNDM_HOME"):
        return expand_user(home)
    try:
        return expand_user("~/.cache/pndm")
    except InputError:
        return Path(tempfile.gettempdir()) / f"pndm-{os.getuid()}"


@contextlib.contextmanager
def file_lock(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process holds the lock at `path` for the length of the block.

    The system frees it when its process ends, also by kill -9, so that none is ever stale.
    With `wait` it is waited for.
    """
    make_folder(path.parent)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    with file_errors():
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            pass
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextlib.contextmanager
def sole_process(path: Path) -> Iterator[None]:
    """Hold the lock at `path` for the length of the block; FileError if another process has it."""
    with file_lock(path) as locked:
        if not locked:
            raise FileError(f"{path.parent} is locked by another process: wait for it")
        yield


def sha256(path: Path) -> str:
    """The SHA-256 of a file in lower-case hexadecimal; read once while the file stays the same."""
    key = file_state(path)
    if key not in _hashes:
        with file_errors(), path.open("rb") as file:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]


def read_bytes(path: Path) -> bytes:
    """The content of a file, whose SHA-256 is then known without another reading."""
    key = file_state(path)
    with file_errors():
        content = path.read_bytes()
    _hashes[key] = hashlib.sha256(content).hexdigest()
    return content


def file_state(path: Path) -> tuple[Any, ...]:
    """What changes when a file does: its path, inode, size and times."""
    with file_errors():
        now = path.stat()
    return (path, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)


_hashes: dict[tuple[Any, ...], str] = {}
"""The hashes of files already read in this process, by path and state."""
