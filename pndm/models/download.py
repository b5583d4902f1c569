"""Fetching weights: whole and verified in the folder of fetched files, or not there at all."""

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
    """The path of the weights, downloaded if they are not there; what is there is verified.

    The download goes to a hidden file next to its place, which the next call continues if it
    breaks off; it is renamed when its first bytes, its size and, where one is published, its
    hash are right. CheckpointError with the address and the place of the file otherwise. Of two
    that fetch the same at once the second waits, and finds it.
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
    """Download what is not there, verify it, and put it in its place."""
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
    """Download over HTTP to the end of `partial`, going on from where it stops."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "pndm", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        request = urllib.request.Request(weights.url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            total = receive(answer, weights, partial, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing follows: complete, or not a part of this file
            if error.headers.get("Content-Range") == f"bytes */{have}":
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
            f"run python -m pndm.models fetch {weights.name} again to go on"
        )


def receive(answer: HTTPResponse, weights: Weights, partial: Path, progress: bool) -> int | None:
    """Write what a server sends behind what there is; the size of the whole file, if told."""
    part = answer.headers.get("Content-Range", "")
    start = int(part.removeprefix("bytes ").partition("-")[0]) if answer.status == 206 else 0
    rest = answer.headers.get("Content-Length")
    total = None if rest is None else start + int(rest)
    chunk = answer.read(CHUNK)
    if not start:
        files.detect_file_type(
            chunk[:64], weights.page
        )  # before a page of HTML replaces half a download
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
    """Download from Google Drive, which asks questions that `gdown` knows to answer."""
    try:
        gdown = import_module("gdown")
    except ImportError:
        raise CheckpointError(
            f'{weights.name} lies on Google Drive: pip install "pndm[data]", or {by_hand(weights)}'
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
    """Drive's name of a file, looked up in the listing of its folder if the address is one."""
    if "/folders/" not in weights.url:
        return weights.url.rpartition("/")[2]
    name = Path(weights.file).name
    listing = gdown.download_folder(url=weights.url, skip_download=True, quiet=True) or []
    for entry in listing:
        if Path(entry.path).name == name:
            return entry.id
    raise CheckpointError(f"{weights.url} lists no {name}: {by_hand(weights)}")


def by_hand(weights: Weights) -> str:
    """What a person can do without this program."""
    return f"get {weights.page} with a browser and put it at {weights.path}"
