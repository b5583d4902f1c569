"""What a file of weights is, told by its first bytes, and whether it is the one that was meant."""

import hashlib
from pathlib import Path
from typing import Literal

from pndm.models.registry import CheckpointError, Weights

Kind = Literal["zip", "pickle", "safetensors"]


def kind(head: bytes, name: str) -> Kind:
    """The kind of a file from its first 64 bytes; CheckpointError for what is no weights file."""
    start = head.lstrip().lower()
    if head.startswith(b"PK\x03\x04"):
        return "zip"  # what torch.save writes, and an archive of a diffusers folder
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"  # what torch.save wrote before torch 1.6
    if head[8:9] == b"{":
        return "safetensors"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise CheckpointError(
            f"{name} is a web page, not weights (a quota or login page of the host?): "
            "try later, or get the file with a browser"
        )
    if not head:
        raise CheckpointError(f"{name} is empty: get it again")
    raise CheckpointError(
        f"{name} is no weights file: it begins with {head[:8]!r}, not as torch, safetensors or zip"
    )


def read_kind(path: Path) -> Kind:
    """The kind of the file at `path`."""
    with path.open("rb") as file:
        return kind(file.read(64), str(path))


def digest(path: Path, algorithm: str) -> str:
    """The hash of a file as lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def verify(path: Path, weights: Weights, shown: str | None = None) -> None:
    """Check that the file at `path` may be these weights: its first bytes, and its published MD5.

    CheckpointError tells what `shown`, or the path, is instead.
    """
    with path.open("rb") as file:
        kind(file.read(64), shown or str(path))
    if weights.md5 is None:
        return
    found = digest(path, "md5")
    if found != weights.md5:
        cure = f"delete it and run python -m pndm.models fetch {weights.name}"
        raise CheckpointError(
            f"{shown or path} is not {weights.name}: its MD5 is {found}, not {weights.md5}"
            + ("" if shown else f"; {cure}")
        )
