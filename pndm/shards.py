"""Shards: the finished parts of a run, each written once, whole, and with its checksum."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pndm import records


class Store:
    """Numbered shards in a folder: 00000.shard is 32 bytes of SHA-256, then an .npz of arrays.

    The hash is of the shard's place too, so that one moved to another is as bad as a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, index: int) -> Path:
        """Where shard `index` is or will be."""
        return self.folder / f"{index:05d}.shard"

    def save(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a shard, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        content = buffer.getvalue()
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = self._digest(index, content)
        records.atomic(self.path(index), lambda path: path.write_bytes(digest + content))

    def load(self, index: int) -> dict[str, np.ndarray] | None:
        """A shard's arrays; None where it is missing or does not match its checksum."""
        try:
            content = self.path(index).read_bytes()
        except FileNotFoundError:
            return None
        if self._digest(index, content[32:]) != content[:32]:
            return None
        with np.load(io.BytesIO(content[32:])) as arrays:
            return dict(arrays)

    def _digest(self, index: int, content: bytes) -> bytes:
        place = f"{self.folder.parent.name}/{self.folder.name}/{index}"
        return hashlib.sha256(place.encode() + content).digest()
