"""What a run leaves behind: files written whole or not at all, hashes, and what made them."""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

PACKAGES = ("torch", "torchvision", "torch-fidelity", "hydra-core", "wandb", "numpy")
"""Packages whose versions go into every record."""


def atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: whole or not at all."""
    partial = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def home() -> Path:
    """PNDM_HOME, the folder of everything fetched or computed once; by default ~/.cache/pndm."""
    return Path(os.environ.get("PNDM_HOME") or "~/.cache/pndm").expanduser()


@contextlib.contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process holds the lock at `path` for the length of the block.

    The system frees it when its process ends, also by kill -9, so that none is ever stale.
    With `wait` it is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path.with_suffix(".lock"))
    try:
        held.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        held.release()


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically; ValueError for NaN or infinity, which JSON cannot hold."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    atomic(path, lambda partial: partial.write_text(text))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as lower-case hexadecimal; read once while it stays the same."""
    now = path.stat()
    return _sha256(path, (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns))


@lru_cache(maxsize=64)
def _sha256(path: Path, state: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit() -> str | None:
    """The commit of the code, "-dirty" where tracked files differ from it; None without git."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


PAPER = (
    *("schedules", "clocks", "grids", "transfer", "gradient", "multistep", "solvers"),
    *("prediction", "plans", "sampling", "noise"),
)
SAMPLING = (*PAPER, "flow", "images", "inference", "streams", "worker", "models")
"""Modules that determine an image, its configuration and weights given."""

MEASURING = ("datasets", "classifier", "evaluation", "statistics", "experiment")
"""Modules that determine an FID, the images given."""


@cache
def code(modules: tuple[str, ...] = SAMPLING + MEASURING) -> str:
    """A hash of the source of these modules: runs of different code never share a folder."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        if name.parts[0].removesuffix(".py") in modules:
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def machine() -> str:
    """The processor, its cores and vectors, and the graphics card where torch sees one."""
    import torch

    name = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    name += f", {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name()}"
    return name


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that a number may depend on."""
    found = {"python": platform.python_version()}
    for package in ("pndm", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            from pndm import __version__

            found[package] = __version__ if package == "pndm" else "missing"
    return found
