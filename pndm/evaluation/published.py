"""Files of statistics as others publish them: their names of mean, covariance and features."""

import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pndm._errors import InputError, MissingFile
from pndm.evaluation import statistics
from pndm.evaluation.statistics import Statistics

MOMENTS = (("mu", "sigma"), ("m", "s"), ("mean", "cov"), ("mean", "covariance"), ("mean", "sigma"))
"""Names of mean and covariance: of most, of older codes, and of others."""

FEATURES = ("pool_3", "pool3", "features", "feats", "activations", "act")
"""Names of the features of all images, [N, D]: score-SDE's and others'."""


def load_moments(path: Path, n: int) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] in a file, float64; InputError that says what it holds.

    Features are taken too, of as many images as n says.
    """
    arrays = load_published(path)
    names = next((pair for pair in MOMENTS if set(pair) <= arrays.keys()), None)
    if names is not None:
        return moments(path, arrays, names)
    name = next((name for name in FEATURES if name in arrays), None)
    if name is None:
        held = ", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items())
        raise InputError(
            f"{path} has no mu and sigma but {held or 'nothing'}: give an .npz with mu and sigma, "
            f"or with features as {FEATURES[0]}"
        )
    features = numbers(path, name, arrays[name])
    features = features.flatten(1) if features.ndim == 4 else features
    if features.ndim != 2 or len(features) < 2:
        raise InputError(f"{path}: {name} {list(features.shape)} are no features [N, D]")
    if len(features) != n:
        raise InputError(f"{path} holds the features of {len(features)} images, not of n={n}")
    whole = Statistics.of(features)
    return whole.mean, whole.covariance


def moments(
    path: Path, arrays: dict[str, np.ndarray], names: tuple[str, str]
) -> tuple[Tensor, Tensor]:
    """The mean [D] and covariance [D, D] of these names, float64; InputError if they are none."""
    mean, covariance = (numbers(path, name, arrays[name]) for name in names)
    if mean.ndim == 2 and 1 in mean.shape:
        mean = mean.flatten()
    if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        raise InputError(
            f"{path}: {names[0]} {list(mean.shape)} and {names[1]} {list(covariance.shape)} "
            "are no mean [D] and covariance [D, D]"
        )
    if not mean.isfinite().all() or not covariance.isfinite().all():
        raise InputError(f"{path}: {names[0]} or {names[1]} contain NaN or infinity")
    is_symmetric = torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6)
    if not is_symmetric or (covariance.diagonal() < 0).any():
        raise InputError(
            f"{path}: {names[1]} is no covariance, which is symmetric and not negative"
        )
    return mean, covariance


def load_published(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz; InputError with the cure for a pickle, as EDM2 publishes."""
    try:
        with path.open("rb") as file:
            begin = file.read(2)
    except FileNotFoundError:
        raise MissingFile(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name an .npz") from None
    cure = (
        "which can run code and is not opened: where you trust it, load it yourself and "
        "numpy.savez('stats.npz', mu=mu, sigma=sigma)"
    )
    if begin[:1] == b"\x80":
        raise InputError(f"{path} is a pickle, {cure}")
    if begin == b"\x93N":
        raise InputError(f"{path} is one array: numpy.savez('stats.npz', pool_3=…) of features")
    if begin == b"PK":
        with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else nullcontext() as archive:
            if archive and any(name.endswith("data.pkl") for name in archive.namelist()):
                raise InputError(f"{path} is a pickle of torch.save, {cure}")
    return statistics.load_arrays(path)


def numbers(path: Path, name: str, array: np.ndarray) -> Tensor:
    """An array of any numbers as float64; InputError where it holds none."""
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name} must be numbers, not {array.dtype}")
    return torch.from_numpy(array.astype(np.float64))
