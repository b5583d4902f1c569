"""The datasets as map-style sets of uint8 [C, H, W] images, preprocessed as in the paper.

Nothing is downloaded here: if files are missing, the error says which and where to put them.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pndm._errors import InputError, file_errors, lookup
from pndm._files import cache_dir, expand_user
from pndm.data import decode
from pndm.data.celeba import crop_face, training_files
from pndm.data.databases import Lmdb, MissingData
from pndm.data.decode import BadImage, open_image, rgb
from pndm.data.folders import SUFFIXES, image_files
from pndm.data.idx import read_idx

__all__ = ["DATASETS", "SUFFIXES", "BadImage", "MissingData", "Source", "source"]

Part = Literal["all", "train", "holdout", "test"]
"""All images to train on, a fixed random tenth of them (`holdout`) or the other nine (`train`);
and those that the publisher set apart (`test`), where there are any."""


class TensorImages(Dataset[Tensor]):
    """Images held in memory as one uint8 tensor [N, C, H, W]."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


class ImageFiles(Dataset[Tensor]):
    """Images decoded on access: `read` returns the file or the bytes of a key."""

    def __init__(
        self,
        keys: Sequence[Any],
        read: Callable[[Any], Any],
        prepare: Callable[[Image.Image], Image.Image],
    ) -> None:
        self.keys, self.read, self.prepare = keys, read, prepare

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Tensor:
        key = self.keys[index]
        with open_image(self.read(key), key) as image:
            pixels = np.array(self.prepare(rgb(image, key)))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def data_root() -> Path:
    """PNDM_DATA, the folder of the datasets; by default `data` in PNDM_HOME."""
    return expand_user(os.environ.get("PNDM_DATA") or cache_dir() / "data")


def indices(count: int, part: Part) -> Tensor:
    """Return the ascending indices of a part of `count` images; InputError for an unknown part."""
    order = torch.randperm(count, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    tenth = -(-count // 10)
    parts = {"all": order, "train": order[tenth:], "holdout": order[:tenth]}
    if part not in parts:
        raise InputError(f"no part {part!r} of a dataset: there are {', '.join(parts)}")
    return parts[part].sort().values


def digits(part: Part = "all", root: Path | None = None) -> TensorImages:
    """scikit-learn's 1,797 real handwritten digits, 8×8 grey; its 17 levels spread over 0…255.

    `holdout` is a fixed random tenth (180 images), `train` the other nine. `root` is
    ignored: the images come with scikit-learn.
    """
    from sklearn.datasets import load_digits

    levels = load_digits().images
    images = torch.from_numpy(np.rint(levels * (255 / 16)).astype(np.uint8))[:, None]
    return TensorImages(images[indices(len(images), part)])


def digit_labels(part: Part = "all") -> Tensor:
    """The labels 0…9 of the images of `digits(part)`, [N] int64."""
    from sklearn.datasets import load_digits

    labels = torch.from_numpy(load_digits().target).long()
    return labels[indices(len(labels), part)]


CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


def cifar10(part: Part = "all", root: Path | None = None) -> TensorImages:
    """The 50,000 training images of CIFAR-10, 32×32."""
    from torchvision.datasets import CIFAR10

    root = root or data_root()
    try:
        pixels = CIFAR10(root, train=True, download=False).data
    except RuntimeError:
        raise MissingData(
            f"cifar10 is missing or damaged: fetch {CIFAR10_URL} and unpack it in {root}, "
            f"which gives {root / 'cifar-10-batches-py'}"
        ) from None
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return TensorImages(images[indices(len(images), part)])


FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""


def fashion_mnist(part: Part = "all", root: Path | None = None) -> TensorImages:
    """The 60,000 training images of Fashion-MNIST, 28×28 grey; `test` are its other 10,000."""
    images = _idx("images-idx3-ubyte", part, root, (28, 28))[:, None]
    return TensorImages(images if part == "test" else images[indices(len(images), part)])


def fashion_labels(part: Part = "all", root: Path | None = None) -> Tensor:
    """The classes 0…9 of the images of `fashion_mnist(part, root)`, [N] int64."""
    labels = _idx("labels-idx1-ubyte", part, root, ()).long()
    return labels if part == "test" else labels[indices(len(labels), part)]


def _idx(kind: str, part: Part, root: Path | None, size: tuple[int, ...]) -> Tensor:
    """The uint8 tensor [N, *size] in the file of Fashion-MNIST of this kind, packed or not.

    In `root` or `data_root()` it may lie in torchvision's FashionMNIST/raw too.
    """
    name = f"{'t10k' if part == 'test' else 'train'}-{kind}"
    place = root or data_root()
    folders = [place / "FashionMNIST" / "raw", place] + ([] if root else [DEBIAN])
    for path in (folder / file for folder in folders for file in (name, f"{name}.gz")):
        if path.is_file():
            return read_idx(path, size)
    raise MissingData(
        f"fashion_mnist is missing: install Debian's dataset-fashion-mnist, or fetch {name}.gz "
        f"and the other three from {FASHION_URL} into {folders[0]}"
    )


def celeba(part: Part = "all", root: Path | None = None) -> ImageFiles:
    """The 162,770 training images of aligned CelebA, cropped to 128×128 and resized to 64×64."""
    files = training_files((root or data_root()) / "celeba")
    return ImageFiles([files[i] for i in indices(len(files), part)], str, crop_face)


def lsun_bedroom(part: Part = "all", root: Path | None = None) -> ImageFiles:
    """The 3,033,042 training images of LSUN bedrooms, 256×256."""
    return _lsun("bedroom_train_lmdb", part, root)


def lsun_church(part: Part = "all", root: Path | None = None) -> ImageFiles:
    """The 126,227 training images of LSUN outdoor churches, 256×256."""
    return _lsun("church_outdoor_train_lmdb", part, root)


def _lsun(name: str, part: Part, root: Path | None) -> ImageFiles:
    place = (root or data_root()) / name
    folder = next((d for d in (place, place / name) if (d / "data.mdb").exists()), None)
    if folder is None:
        raise MissingData(
            f"{place} is missing: fetch http://dl.yf.io/lsun/scenes/{name}.zip "
            f"and unpack it in {place.parent}"
        )
    scenes = Lmdb(folder)
    keys = scenes.keys()
    if not keys:
        raise BadImage(f"{folder} holds no images: get it again")
    return ImageFiles([keys[i] for i in indices(len(keys), part)], scenes, resize_and_crop)


def resize_and_crop(image: Image.Image) -> Image.Image:
    """Resize the shorter side to 256, bilinear, and crop the central 256×256."""
    from torchvision.transforms import functional

    return functional.center_crop(functional.resize(image, 256), 256)


def folder(part: Part = "all", root: Path | None = None) -> ImageFiles:
    """All images below a directory, in the order of their paths, unprocessed; of one size."""
    root = expand_user(root or data_root() / "folder")
    if not root.is_dir():
        raise MissingData(f"there is no directory {root}: give one with images as root")
    files = image_files(root)
    if len(files) < 2:
        raise BadImage(f"{root} has {len(files)} images, but a dataset needs at least two")
    first = _size(files[0])
    for path in files[1:]:
        if (size := _size(path)) != first:
            raise BadImage(
                f"{path} has {size[0]}×{size[1]} pixels, {files[0].name} has "
                f"{first[0]}×{first[1]}: resize all to one size"
            )
    return ImageFiles([files[i] for i in indices(len(files), part)], str, unchanged)


def unchanged(image: Image.Image) -> Image.Image:
    """Return the image unprocessed."""
    return image


def _size(path: Path) -> tuple[int, int]:
    """Width and height, read from a file's header."""
    with open_image(path, path) as image:
        return decode.size(image, path)


@dataclass(frozen=True)
class Source:
    """The loader of a dataset, and the description in its reference statistics."""

    load: Callable[..., Dataset[Tensor]]
    split: str
    preprocessing: str
    nameless: bool = False

    def __call__(self, part: Part = "all", root: Path | None = None) -> Dataset[Tensor]:
        """Load the images of a part, from `root` or `data_root()`."""
        with file_errors():
            return self.load(part=part, root=root)

    def label(self, name: str, root: Path | None) -> str:
        """The dataset's name; for `folder` also the directory's name and a hash of its path."""
        if not self.nameless or root is None:
            return name
        path_hash = hashlib.sha256(str(root.resolve()).encode()).hexdigest()
        return f"{name}-{root.resolve().name}-{path_hash[:8]}"


LSUN = "Resize(256) bilinear, CenterCrop(256)"

DATASETS = {
    "digits": Source(digits, "all", "levels × 255/16"),
    "fashion_mnist": Source(fashion_mnist, "train", "none"),
    "cifar10": Source(cifar10, "train", "none"),
    "celeba": Source(celeba, "train", "rows 57…184, columns 25…152, Resize(64) bilinear"),
    "lsun_bedroom": Source(lsun_bedroom, "train", LSUN),
    "lsun_church": Source(lsun_church, "train", LSUN),
    "folder": Source(folder, "all", "none", nameless=True),
}
"""The datasets by their names in `conf/dataset`. No images are flipped."""


def source(name: str) -> Source:
    """Return a dataset by name; InputError that lists the names."""
    return lookup(DATASETS, name, "dataset")
