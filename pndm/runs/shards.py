"""Shards: the finished parts of a run, each an .npz written once and whole."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pndm._files import make_folder, write_atomic
from pndm.config.schema import IMAGES_PER_SEED

SHARD = 500
"""Images per shard: what is lost at most when a run is killed."""

DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError),
    *(NotImplementedError, RuntimeError),  # of a header in which a bit was flipped
)
"""What reading a damaged .npz raises."""


@dataclass(frozen=True)
class Shards:
    """Which shards there are: `samples` images of a seed set, in parts of SHARD images."""

    samples: int
    seed: int = 0

    def __len__(self) -> int:
        return -(-self.samples // SHARD)

    def first(self, shard: int) -> int:
        """The index of a shard's first image."""
        return shard * SHARD

    def seeds(self, shard: int) -> range:
        """The seeds of a shard's images."""
        start = self.seed * IMAGES_PER_SEED
        end = min(self.first(shard + 1), self.samples)
        return range(start + self.first(shard), start + end)


class Store:
    """Numbered shards in a folder: 00000.npz holds arrays, and `place`, where it belongs.

    The archive's checksums show damage, `place` a shard that was moved or copied elsewhere.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, index: int) -> Path:
        """Where shard `index` is or will be."""
        return self.folder / f"{index:05d}.npz"

    def save(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a shard, whole or not at all."""
        make_folder(self.folder)
        content = {"place": np.array(self._place(index)), **arrays}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **content)

        write_atomic(self.path(index), write)

    def load(self, index: int) -> dict[str, np.ndarray] | None:
        """A shard's arrays; None where it is missing, damaged, or in another's place."""
        try:
            content = self.path(index).read_bytes()
        except FileNotFoundError:
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = dict(file)
            place = arrays.pop("place").item()
        except DAMAGE:
            return None
        return arrays if place == self._place(index) else None

    def _place(self, index: int) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}/{index}"
