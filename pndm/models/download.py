"""Downloading weights: atomic and verified."""

import os
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pndm._files import cache_dir, file_lock, make_folder, read_bytes
from pndm.models import files
from pndm.models.registry import CheckpointError, Weights

CHUNK = 1 << 18
TIMEOUT = 60  # seconds without a byte


def fetch(weights: Weights, progress: bool = True) -> Path:
    """Return the path of the weights, downloaded if missing; an existing file is verified.

    The download goes to a hidden file next to the target, which the next call resumes if it is
    interrupted; it is renamed when its first bytes, its size and, if published, its hash are
    right. CheckpointError with the address and the path of the file otherwise. Of two processes
    that fetch the same file at once the second waits for the first.
    """
    path = weights.path
    with file_lock(cache_dir() / "locks" / path.name, wait=True):
        if weights.present or not weights.url:
            cure = f"; delete it and run python -m pndm.models fetch {weights.name}"
            files.verify(read_bytes(weights.require()), weights, str(path), cure)
        else:
            fetch_missing(weights, path, progress)
    return path


def fetch_missing(weights: Weights, path: Path, progress: bool) -> None:
    """Download a missing file, verify it, and move it to its path."""
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.partial")
    download = from_drive if weights.url.startswith("https://drive.google.com/") else from_web
    download(weights, partial, progress)
    try:
        files.verify(partial.read_bytes(), weights, weights.page)
    except CheckpointError:
        partial.unlink()
        raise
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def from_web(weights: Weights, partial: Path, progress: bool) -> None:
    """Download over HTTP, appending to `partial`."""
    offset = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "pndm", **({"Range": f"bytes={offset}-"} if offset else {})}
    try:
        request = urllib.request.Request(weights.url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            total = receive(answer, weights, partial, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:  # no more bytes: complete, or another file
            if error.headers.get("Content-Range") == f"bytes */{offset}":
                return
            partial.unlink()
            return from_web(weights, partial, progress)
        raise CheckpointError(f"{weights.url} answers {error.code}: {by_hand(weights)}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise CheckpointError(
            f"cannot fetch {weights.url} ({reason}): {by_hand(weights)}"
        ) from None
    size = partial.stat().st_size
    if total is not None and size > total:
        partial.unlink()
    if total is not None and size != total:
        raise CheckpointError(
            f"{weights.url} broke off after {size} of {total} bytes: "
            f"run python -m pndm.models fetch {weights.name} again to resume"
        )


def receive(answer: HTTPResponse, weights: Weights, partial: Path, progress: bool) -> int | None:
    """Append a server's response to `partial`; return the size of the whole file, if known."""
    part = answer.headers.get("Content-Range", "")
    start = int(part.removeprefix("bytes ").partition("-")[0]) if answer.status == 206 else 0
    rest = answer.headers.get("Content-Length")
    total = None if rest is None else start + int(rest)
    chunk = answer.read(CHUNK)
    if not start:
        files.detect_file_type(
            chunk[:64], weights.page
        )  # before an HTML page overwrites a partial download
    with (
        partial.open("ab" if start else "wb") as file,
        tqdm(
            desc=weights.name,
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            disable=not progress,
        ) as bar,
    ):
        while chunk:
            bar.update(file.write(chunk))
            chunk = answer.read(CHUNK)
    return total


def from_drive(weights: Weights, partial: Path, progress: bool) -> None:
    """Download from Google Drive with `gdown`, which handles its confirmation pages."""
    try:
        gdown = import_module("gdown")
    except ImportError:
        raise CheckpointError(
            f'{weights.name} is on Google Drive: pip install "pndm[data]", or {by_hand(weights)}'
        ) from None
    try:
        key = file_id(gdown, weights)
        gdown.download(id=key, output=str(partial), quiet=not progress, resume=True)
    except CheckpointError:
        raise
    except Exception as error:  # gdown raises its own errors and those of what it builds on
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"cannot fetch {weights.url} ({reason}): {by_hand(weights)}"
        ) from None
    if not partial.exists():
        raise CheckpointError(f"{weights.url} sent nothing: {by_hand(weights)}")


def file_id(gdown: Any, weights: Weights) -> str:
    """The Drive ID of a file, looked up in the folder listing if the address is a folder."""
    if "/folders/" not in weights.url:
        return weights.url.rpartition("/")[2]
    name = Path(weights.file).name
    listing = gdown.download_folder(url=weights.url, skip_download=True, quiet=True) or []
    for entry in listing:
        if Path(entry.path).name == name:
            return entry.id
    raise CheckpointError(f"{weights.url} lists no {name}: {by_hand(weights)}")


def by_hand(weights: Weights) -> str:
    """Instructions for a manual download."""
    return f"get {weights.page} with a browser and put it at {weights.path}"
