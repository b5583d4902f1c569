"""The files of the datasets as their publishers offer them, and their way to this machine."""

import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pndm._download import Remote, download
from pndm._errors import InputError, file_errors, one_line
from pndm._files import file_lock
from pndm.data.celeba import FOLDERS, LISTINGS
from pndm.data.databases import MissingData
from pndm.data.datasets import DEBIAN, FASHION_URL, data_root

UNASKED = 5 * 10**9
"""Bytes up to which a run fetches images that nobody asked for by name."""


@dataclass(frozen=True)
class Piece:
    """A file of a dataset: `remote` (its path in the folder of the datasets), and what it gives.

    An archive is unpacked in `unpack`, relative to the folder of the datasets. `places` are where
    its content may be: one of them is enough.
    """

    remote: Remote
    places: tuple[Path, ...]
    unpack: Path | None = None

    @property
    def present(self) -> bool:
        """Whether somebody put its content, or a part of it, where the loader looks."""
        return any(place.exists() for place in self.places)


def cifar10(root: Path) -> list[Piece]:
    """One archive of 50,000 training and 10,000 test images."""
    from torchvision.datasets import CIFAR10

    checksum = f"md5:{CIFAR10.tgz_md5}"
    archive = Remote(CIFAR10.filename, CIFAR10.url, root / CIFAR10.filename, 170498071, checksum)
    return [Piece(archive, (root / CIFAR10.base_folder,), root)]


def fashion_mnist(root: Path) -> list[Piece]:
    """Four files of torchvision's: images and labels, of training and test."""
    from torchvision.datasets import FashionMNIST

    raw, pieces = root / "FashionMNIST" / "raw", []
    sizes = {"train-images": 26421880, "train-labels": 29515, "t10k-images": 4422102}
    for file, md5 in FashionMNIST.resources:
        size = sizes.get(file.partition("-idx")[0], 5148)
        remote = Remote(file, f"{FASHION_URL}{file}", raw / file, size, f"md5:{md5}")
        folders = (raw, root, DEBIAN)
        names = (file, file.removesuffix(".gz"))
        pieces.append(Piece(remote, tuple(f / n for f in folders for n in names)))
    return pieces


def celeba(root: Path) -> list[Piece]:
    """The archive of aligned faces, and the listing of the splits."""
    from torchvision.datasets import CelebA

    folder, wanted = root / "celeba", {file: (key, md5) for key, md5, file in CelebA.file_list}

    def remote(file: str, size: int) -> Remote:
        key, md5 = wanted[file]
        url = f"https://drive.google.com/file/d/{key}"
        return Remote(file, url, folder / file, size, f"md5:{md5}")

    images, listing = remote("img_align_celeba.zip", 1443490838), remote(LISTINGS[0], 2836386)
    return [
        Piece(listing, tuple(folder / name for name in LISTINGS)),
        Piece(images, tuple(folder / name for name in FOLDERS), folder),
    ]


def lsun(name: str, size: int) -> Callable[[Path], list[Piece]]:
    """One zip with a database of JPEGs."""

    def pieces(root: Path) -> list[Piece]:
        url, path = f"http://dl.yf.io/lsun/scenes/{name}.zip", root / f"{name}.zip"
        return [Piece(Remote(f"{name}.zip", url, path, size), (root / name,), root)]

    return pieces


PUBLISHED = {
    "cifar10": cifar10,
    "fashion_mnist": fashion_mnist,
    "celeba": celeba,
    "lsun_bedroom": lsun("bedroom_train_lmdb", 45_900_000_000),
    "lsun_church": lsun("church_outdoor_train_lmdb", 2_430_000_000),
}
"""The pieces of the datasets that are published, below a folder. Sizes of LSUN are rounded."""

LICENCES = {
    "cifar10": "no licence stated; cite Krizhevsky 2009",
    "fashion_mnist": "MIT",
    "celeba": "non-commercial research only",
    "lsun_bedroom": "research only",
    "lsun_church": "research only",
}
"""What the publishers ask of users."""


def pieces(dataset: str) -> list[Piece]:
    """The published files of a dataset in `data_root()`; none where nobody publishes it."""
    return PUBLISHED[dataset](data_root()) if dataset in PUBLISHED else []


def fetch(dataset: str, progress: bool = True) -> Path:
    """Fetch and unpack what is missing of a dataset's images; return the folder of the datasets.

    A folder of images appears when it is complete, under its final name. Of two processes the
    second waits for the first. DownloadError, FileError, or MissingData for a dataset that nobody
    publishes.
    """
    if dataset not in PUBLISHED:
        raise MissingData(f"{dataset} is not published: there are {', '.join(PUBLISHED)}")
    for piece in pieces(dataset):
        path = piece.remote.path
        with file_lock(path.parent / f".{path.name}", wait=True):
            if not piece.present:
                again = f"python -m pndm.data fetch {dataset}"
                kept = path.exists()
                download(replace(piece.remote, again=again), progress)
                if piece.unpack is not None:
                    unpack(path, piece.unpack, again)
                    if not kept:
                        path.unlink()
    return data_root()


class NotAsked(InputError):
    """A download that nobody asked for, and that is large."""


def missing_bytes(dataset: str) -> int:
    """What is to be downloaded of a dataset."""
    return sum(piece.remote.size or 0 for piece in pieces(dataset) if not piece.present)


def fetch_unasked(dataset: str, progress: bool = True) -> None:
    """Fetch a dataset that is published, missing and not large; NotAsked if it is large."""
    if (size := missing_bytes(dataset)) > UNASKED:
        raise NotAsked(
            f"the images of {dataset} are {size / 1e9:.1f} GB, which are not fetched unasked: "
            f"python -m pndm.data fetch {dataset}"
        )
    if size:
        fetch(dataset, progress)


def unpack(archive: Path, folder: Path, again: str) -> None:
    """Unpack an archive beside its place, then move its folders in: whole or not at all."""
    from torchvision.datasets.utils import extract_archive

    with (
        file_errors(),
        tempfile.TemporaryDirectory(prefix=f".{archive.name}-", dir=folder) as scratch,
    ):
        print(f"unpacking {archive}", flush=True)
        try:
            extract_archive(str(archive), scratch)
        except (EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, tarfile.TarError) as error:
            raise InputError(
                f"{archive} cannot be unpacked ({one_line(error)}): delete it and run {again}"
            ) from None
        for path in Path(scratch).iterdir():
            if not (folder / path.name).exists():
                shutil.move(path, folder / path.name)
