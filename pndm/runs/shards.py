"""Shards: the finished parts of a run, each an .npz written atomically."""

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
"""Images per shard: the most that is lost when a run is killed."""

DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError),
    *(NotImplementedError, RuntimeError),  # from a header with a flipped bit
)
"""The exceptions that reading a damaged .npz raises."""


@dataclass(frozen=True)
class Shards:
    """The shards of a run: `samples` images of a seed set, SHARD images per shard."""

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
    """Numbered shards in a folder: 00000.npz holds arrays, and `place`, its expected location.

    The archive's checksums detect damage, `place` a shard that was moved or copied.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, index: int) -> Path:
        """The path of shard `index`."""
        return self.folder / f"{index:05d}.npz"

    def save(self, index: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a shard atomically."""
        make_folder(self.folder)
        content = {"place": np.array(self._place(index)), **arrays}

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **content)

        write_atomic(self.path(index), write)

    def load(self, index: int) -> dict[str, np.ndarray] | None:
        """Return a shard's arrays; None if it is missing, damaged, or in the wrong place."""
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
