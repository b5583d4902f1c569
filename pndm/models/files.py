"""Types of weight files, by their first bytes, and verification of their hash."""

import hashlib
from typing import Literal

from pndm.models.registry import CheckpointError, Weights

Kind = Literal["zip", "pickle", "safetensors"]


def detect_file_type(content: bytes, name: str) -> Kind:
    """Return the type of a file by its first 64 bytes; CheckpointError if it holds no weights."""
    head = content[:64]
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"PK\x03\x04"):
        return "zip"  # torch.save, or a zipped diffusers folder
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"  # torch.save before torch 1.6
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
        f"{name} is not a weights file: it begins with {head[:8]!r}, not as torch, safetensors "
        "or zip"
    )


def md5(content: bytes) -> str:
    """The MD5 of a file's content as lower-case hexadecimal, as publishers give it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def verify(content: bytes, weights: Weights, name: str, cure: str = "") -> None:
    """Verify the type of a file and, if published, its MD5.

    CheckpointError says what `name` is instead, and the `cure`.
    """
    detect_file_type(content, name)
    if weights.md5 is not None and (actual := md5(content)) != weights.md5:
        raise CheckpointError(
            f"{name} is not {weights.name}: its MD5 is {actual}, not {weights.md5}{cure}"
        )
