"""Reference statistics: the features' mean and covariance of a dataset's real images."""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pndm import _files
from pndm._errors import InputError, file_errors, lookup
from pndm._files import cache_dir, make_folder, partial_path
from pndm.data import datasets
from pndm.evaluation import classifier, published, statistics
from pndm.evaluation.features import (
    Extractor,
    MissingReference,
    extract_features,
    inception_file,
    load_extractor,
)
from pndm.evaluation.statistics import Statistics

PUBLISHED = {
    "edm": "EDM's Inception port",
    "ttur": "TTUR's TensorFlow Inception",
    "pytorch_fid": "pytorch-fid's Inception port",
    "clean_fid": "clean-fid's Inception port",
    "score_sde": "score-SDE's TensorFlow Inception",
    "adm": "ADM's TensorFlow Inception",
}
"""Publishers of statistics files, and what their features come from."""


SHIPPED = Path(__file__).parent / "references"
"""The reference statistics that come with the package."""


class ReferenceMismatch(InputError):
    """Reference statistics of other data, preprocessing or features than asked for."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Mean [D] and covariance [D, D] of a dataset's features, float64, and what they are of."""

    mean: Tensor
    covariance: Tensor
    n: int
    dataset: str
    split: str
    preprocessing: str
    extractor: str
    extractor_sha256: str
    images_sha256: str
    source: str = "pndm"

    @property
    def labels(self) -> dict[str, Any]:
        """Every field but the numbers."""
        fields = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in fields if name not in ("mean", "covariance")}

    @property
    def label(self) -> str:
        """A short name with a hash of all labels: equal for equal references on every machine."""
        digest = hashlib.sha256(json.dumps(self.labels, sort_keys=True).encode()).hexdigest()
        return f"{self.dataset} {self.split}, n={self.n}, {self.source}, {digest[:12]}"

    def save(self, path: Path) -> None:
        """Write an .npz of plain arrays, whole or not at all."""
        numbers = {"mean": self.mean.numpy(), "covariance": self.covariance.numpy()}
        labels = {name: np.array(value) for name, value in self.labels.items()}
        statistics.save_arrays(path, numbers | labels)

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """The inverse of `save`; InputError where the file is something else."""
        arrays = statistics.load_arrays(path)
        wanted = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise InputError(
                f"{path} has no {', '.join(missing)}: make it with `python -m pndm.evaluation "
                f"reference`, or `import` a file of others"
            )
        mean, covariance = published.moments(path, arrays, ("mean", "covariance"))
        labels: dict[str, Any] = {name: arrays[name].tolist() for name in wanted[2:]}
        n, *texts = labels.values()
        if type(n) is not int or n < 2 or not all(isinstance(text, str) for text in texts):
            raise InputError(
                f"{path}: n must be a number of images, and other labels text: make it again"
            )
        return cls(mean, covariance, **labels)


def compute_reference(
    dataset: str,
    extractor: Extractor,
    root: Path | None = None,
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = False,
    keep: Path | None = None,
    part: datasets.Part = "all",
) -> Reference:
    """The reference of a dataset, streaming: memory does not grow with the number of images.

    With part `test` it is of the images that the publisher set apart.
    `keep` is where the features themselves go, for `reference_features`: an .npy of [N, D].
    """
    data = datasets.source(dataset)(part, root)
    digest = hashlib.sha256()
    found = extract_features(data, extractor, batch_size, workers, digest, progress)
    if keep is not None:
        found = tee_to_npy(found, (len(data), extractor.dimension), keep)  # type: ignore[arg-type]
    if not len(data):  # type: ignore[arg-type]
        raise InputError(f"{dataset} holds no images")
    whole = Statistics.stream(found)
    return Reference(
        whole.mean,
        whole.covariance,
        whole.n,
        images_sha256=digest.hexdigest(),
        **_expected(dataset, extractor, root, part),
    )


def tee_to_npy(chunks: Iterable[Tensor], shape: tuple[int, int], path: Path) -> Iterator[Tensor]:
    """The same chunks, written to an .npy as they pass: whole or not at all."""
    make_folder(path.parent)
    partial = partial_path(path)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    try:
        with file_errors(), partial.open("wb") as file:  # not a map: a full disk kills its writer
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in chunks:
                file.write(chunk.numpy().astype("<f4", copy=False).tobytes())
                yield chunk
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _expected(
    dataset: str, extractor: Extractor, root: Path | None, part: datasets.Part = "all"
) -> dict[str, str]:
    """The labels that follow from a dataset and an extractor."""
    source = datasets.source(dataset)
    return {
        "dataset": source.label(dataset, root),
        "split": "test" if part == "test" else source.split,
        "preprocessing": source.preprocessing,
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
    }


def evaluation_hash(
    dataset: str, extractor: str, root: Path | str | None = None, features: bool = True
) -> list[str | None]:
    """What an FID is measured by, as it is here now: hashes of extractor and reference, or None.

    And of the kept `features`, where KID or precision and recall are measured too.

    A run so named is another one when what was missing is there, or was made again.
    """
    if extractor in classifier.RECIPES:
        weights: str | None = _files.sha256(classifier.RECIPES[extractor].weights)
    else:
        try:
            weights = _files.sha256(inception_file())
        except MissingReference:
            weights = None
    if (dataset, extractor) == ("digits", "digits"):
        return [weights, "computed"]
    place = Path(root) if root else None
    statistics = reference_path(dataset, extractor, place)
    kept = features_path(dataset, extractor, place) if features else None
    return [weights, *(_files.sha256(p) if p and p.exists() else None for p in (statistics, kept))]


def reference_path(
    dataset: str, extractor: str, root: Path | None = None, part: datasets.Part = "all"
) -> Path:
    """Where the reference of a dataset is: PNDM_HOME/references/cifar10_inception.npz.

    Or in the package, where it is one of those that come with it.
    """
    test = "_test" if part == "test" else ""
    file = f"{datasets.source(dataset).label(dataset, root)}{test}_{extractor}.npz"
    shipped = SHIPPED / file
    with file_errors():
        return shipped if shipped.exists() else cache_dir() / "references" / file


def load_reference(
    dataset: str,
    extractor: Extractor,
    path: Path | str | None = None,
    override: bool = False,
    root: Path | str | None = None,
) -> Reference:
    """The reference to judge samples of a dataset by.

    Digits with digits features are computed at once; everything else is read from `path`, by
    default `reference_path`: MissingReference where there is none, ReferenceMismatch where it is
    of other data, preprocessing or features, which `override` turns into a warning. `root` is the
    directory of the dataset `folder`.
    """
    if path is None and (dataset, extractor.name) == ("digits", "digits"):
        return _digits_reference(extractor.sha256)
    root = Path(root) if root else None
    path = Path(path) if path else reference_path(dataset, extractor.name, root)
    try:
        found = Reference.load(path)
    except FileNotFoundError:
        words = f"{dataset} --extractor {extractor.name}" + (f" --root {root}" if root else "")
        raise MissingReference(
            f"no reference statistics {path}: make them with `python -m pndm.evaluation "
            f"reference {words}`"
        ) from None
    if found.mean.shape != (extractor.dimension,):
        raise ReferenceMismatch(
            f"{path} has {len(found.mean)} features, {extractor.name} has {extractor.dimension}"
        )
    wrong = [
        f"{name} is {found.labels[name] or 'unknown'!r}, not {value!r}"
        for name, value in _expected(dataset, extractor, root).items()
        if found.labels[name] != value
    ]
    if wrong and not override:
        raise ReferenceMismatch(
            f"{path}: {'; '.join(wrong)}: make it again, or pass override=True"
        )
    if wrong:
        warnings.warn(f"{path} is used although {'; '.join(wrong)}", stacklevel=2)
    return found


@cache
def _digits_reference(sha256: str) -> Reference:
    """The reference of digits by the classifier of this hash, made once in a process."""
    return compute_reference("digits", load_extractor("digits"))


def features_path(dataset: str, extractor: str, root: Path | None = None) -> Path:
    """Where the features of a reference are kept: PNDM_HOME/references/cifar10_inception.npy."""
    name = reference_path(dataset, extractor, root).with_suffix(".npy").name
    return cache_dir() / "references" / name


def reference_features(
    dataset: str, extractor: Extractor, root: Path | str | None = None
) -> Tensor:
    """The features [N, D] of a dataset's images, which KID and precision and recall need.

    Of digits they are computed, of others read: MissingReference where they were not kept,
    ReferenceMismatch where they are not those of the reference.
    """
    if (dataset, extractor.name) == ("digits", "digits"):
        return torch.cat(list(extract_features(datasets.digits(), extractor)))
    path = features_path(dataset, extractor.name, Path(root) if root else None)
    try:
        found = torch.from_numpy(np.load(path, mmap_mode="c"))
    except FileNotFoundError:
        words = f"{dataset} --extractor {extractor.name}" + (f" --root {root}" if root else "")
        raise MissingReference(
            f"no features {path}: keep them with `python -m pndm.evaluation reference {words} "
            "--keep-features`"
        ) from None
    reference = load_reference(dataset, extractor, root=root)
    is_whole = found.shape == (reference.n, extractor.dimension)
    if not is_whole or not found.double().mean(0).allclose(reference.mean, atol=1e-3):
        raise ReferenceMismatch(
            f"{path} holds other features than those of the reference: delete it, and keep them "
            "again"
        )
    return found


def import_reference(path: Path, dataset: str, source: str, n: int) -> Reference:
    """The statistics, or the features of all images, that others published, labelled as theirs.

    Their features come from another implementation than ours: `reference` uses them only with
    `override`. n is the number of images that they say they took.
    """
    publisher = lookup(PUBLISHED, source, "publisher of statistics")
    mean, covariance = published.load_moments(path, n)
    return Reference(
        mean,
        covariance,
        n,
        dataset,
        split=f"as {source}",
        preprocessing=f"as {source}",
        extractor=publisher,
        extractor_sha256="",
        images_sha256="",
        source=f"{source} file {_files.sha256(path)[:12]}",
    )
