"""FID and its relatives: feature extractors, reference statistics, and the numbers for a record.

    python -m pndm.evaluation reference dataset=cifar10 workers=8
    python -m pndm.evaluation import dataset=cifar10 source=edm file=cifar10-32x32.npz n=50000
    python -m pndm.evaluation floor

FID is the Fréchet distance of two Gaussians fitted to features (Heusel et al. 2017). On
Inception features it is the field's FID; on the digits classifier's it is called digits features
and is comparable with nothing else. The value in a record is torch-fidelity's, checked against
`statistics.frechet_distance`. Its caches, which know data by name alone, are never used.
"""

import dataclasses
import difflib
import hashlib
import inspect
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pndm import classifier, config, datasets, records, statistics
from pndm.statistics import Statistics

CHUNK = 32
"""Images that a network sees at once here: fixed, because float32 sums depend on it."""

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

LABELS = {
    "digits": "FID on digits features, not Inception FID",
    "inception": "FID",
    "inception_unverified": "not FID: Inception with unverified weights",
}
"""What a Fréchet distance may be called, by extractor."""

FOREIGN = {
    "edm": "EDM's Inception port",
    "ttur": "TTUR's TensorFlow Inception",
    "pytorch_fid": "pytorch-fid's Inception port",
}
"""Publishers of statistics files with `mu` and `sigma`, and what their features come from."""


class MissingReference(FileNotFoundError):
    """A file that FID needs is not there; the message says what to do, in one line."""


class ReferenceMismatch(ValueError):
    """Reference statistics of other data, preprocessing or features than asked for."""


@dataclass(frozen=True, eq=False)
class Extractor:
    """Images uint8 [B, C, H, W] to features [B, dimension] on `device`, in full precision."""

    name: str
    dimension: int
    sha256: str
    channels: int
    network: nn.Module
    device: torch.device

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(
                f"features are of uint8 images [B, C, H, W] (see images.to_uint8), "
                f"not {images.dtype} {list(images.shape)}"
            )
        if images.shape[1] not in (1, self.channels):
            raise ValueError(
                f"{self.name} features take {self.channels} channels, not {images.shape[1]}"
            )
        images = images.to(self.device).expand(-1, self.channels, -1, -1)
        # TF32, cuDNN's default, would change features in the third digit.
        with (
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            (features,) = self.network(images)
        return features


def extractor(
    name: str,
    device: torch.device | str = "cpu",
    path: Path | str | None = None,
    any_weights: bool = False,
) -> Extractor:
    """`digits` (64 features of our own classifier) or `inception` (2048, torch-fidelity's port).

    `path` is the Inception weight file, by default in PNDM_HOME or torch's cache: MissingReference
    where there is none, ValueError where its hash is wrong, unless `any_weights` says that a file
    of other weights is wanted, which is then named `inception_unverified`.
    """
    make = _pick(EXTRACTORS, name, "feature extractor")
    return make(torch.device(device), Path(path) if path else None, any_weights)


def _pick(table: dict[str, Any], name: str, what: str) -> Any:
    """An entry by its name; ValueError with the nearest of the names there are."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(table)}"
    raise ValueError(f"no {what} {name!r}: {hint}")


def _digits(device: torch.device, path: Path | None, any_weights: bool) -> Extractor:
    if path is not None:
        raise ValueError("the digits features have their weights in the package: leave path out")
    from torch_fidelity.utils import create_feature_extractor

    name = register_digits()
    network = create_feature_extractor(name, ["64"], cuda=False, verbose=False)
    sha256 = records.sha256(classifier.WEIGHTS)
    return Extractor("digits", 64, sha256, 1, network.to(device), device)


@cache
def register_digits() -> str:
    """Make the digits features known to torch-fidelity; the name, which contains their hash."""
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class DigitsFeatures(FeatureExtractorBase):
        """The 64 standardised pre-activations of `pndm.classifier`, in float64."""

        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.classifier = classifier.load().double()

        @staticmethod
        def get_provided_features_list() -> tuple[str]:
            return ("64",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "64"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (self.classifier.features(images),)

    name = f"digits-{records.sha256(classifier.WEIGHTS)[:8]}"
    register_feature_extractor(name, DigitsFeatures)
    return name


def _inception(device: torch.device, path: Path | None, any_weights: bool) -> Extractor:
    path = path or _inception_file()
    try:
        sha256 = records.sha256(path)
    except FileNotFoundError:
        raise MissingReference(f"there is no Inception weight file {path}") from None
    verified = sha256 == INCEPTION_SHA256
    if not verified and not any_weights:
        raise ValueError(
            f"{path} is not {INCEPTION}: its SHA-256 is {sha256[:8]}…, not 6726825d…; "
            f"fetch it again from {INCEPTION_URL}"
        )
    # torch-fidelity unpickles what it is given: a file that is not the known one is read with
    # weights_only first, and what it sees is a copy of the tensors alone.
    if verified:
        network = _known_inception(path, device)
    else:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "weights.pth"
            try:
                torch.save(torch.load(path, weights_only=True, map_location="cpu"), copy)
                network = _fidelity_inception(copy).to(device)
            except Exception as error:
                reason = str(error).strip().splitlines()[0]
                raise ValueError(f"{path} is not an Inception state dict: {reason}") from None
    name = "inception" if verified else "inception_unverified"
    return Extractor(name, 2048, sha256, 3, network, device)


def _inception_file() -> Path:
    """The weight file in PNDM_HOME, or where torch-fidelity itself would have put it."""
    ours = records.home() / "weights" / INCEPTION
    for path in (ours, Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION):
        if path.exists():
            return path
    raise MissingReference(
        f"no Inception weights: fetch {INCEPTION_URL} (95,628,359 bytes) and put it at {ours}"
    )


@lru_cache(maxsize=1)
def _known_inception(path: Path, device: torch.device) -> nn.Module:
    """The network of the one file that is trusted; a sweep loads it once."""
    return _fidelity_inception(path).to(device)


def _fidelity_inception(path: Path) -> nn.Module:
    from torch_fidelity.utils import create_feature_extractor

    return create_feature_extractor(
        "inception-v3-compat",
        ["2048"],
        cuda=False,
        feature_extractor_weights_path=str(path),
        verbose=False,
    )


EXTRACTORS = {"digits": _digits, "inception": _inception}
"""The feature extractors by the names that `conf/dataset` gives them."""


def features(
    data: Dataset[Tensor],
    extractor: Extractor,
    batch_size: int = 64,
    workers: int = 0,
    digest: Any = None,
    progress: bool = False,
) -> Iterator[Tensor]:
    """The features [≤ CHUNK, D] of a dataset of uint8 images, in its order.

    The same to the bit for every `batch_size` and number of `workers`, which load. `digest`, a
    hashlib object, is fed the shape and the bytes of all images.
    """
    loader = DataLoader(data, batch_size=batch_size, num_workers=workers)
    count = len(data)  # type: ignore[arg-type]
    with tqdm(total=count, unit="image", desc="features", disable=not progress) as bar:
        for images in _regroup(loader, CHUNK):
            if digest is not None:
                if not bar.n:
                    digest.update(repr((count, *images.shape[1:])).encode())
                digest.update(images.contiguous().numpy())
            yield extractor(images).cpu()
            bar.update(len(images))


def _regroup(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same rows in batches of `size`."""
    held: list[Tensor] = []
    for batch in batches:
        held.append(batch)
        rows = torch.cat(held)
        *full, rest = rows.split(size)
        yield from full
        held = [rest]
    if held:
        yield torch.cat(held)


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
        """The inverse of `save`; ValueError where the file is something else."""
        arrays = statistics.load_arrays(path)
        wanted = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise ValueError(
                f"{path} has no {', '.join(missing)}: make it with `python -m pndm.evaluation "
                f"reference`, or `import` a file of others"
            )
        values: dict[str, Any] = {name: arrays[name].item() for name in wanted[2:]}
        values |= {name: torch.from_numpy(arrays[name]) for name in wanted[:2]}
        return cls(**values)


def compute_reference(
    dataset: str,
    extractor: Extractor,
    root: Path | None = None,
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = False,
    keep: Path | None = None,
) -> Reference:
    """The reference of a dataset, streaming: memory does not grow with the number of images.

    `keep` is where the features themselves go, for `reference_features`: an .npy of [N, D].
    """
    source = datasets.source(dataset)
    data = source(root=root)
    digest = hashlib.sha256()
    found = features(data, extractor, batch_size, workers, digest, progress)
    if keep is not None:
        found = _kept(found, (len(data), extractor.dimension), keep)  # type: ignore[arg-type]
    if not len(data):  # type: ignore[arg-type]
        raise ValueError(f"{dataset} holds no images")
    whole = Statistics.stream(found)
    return Reference(
        whole.mean,
        whole.covariance,
        whole.n,
        images_sha256=digest.hexdigest(),
        **_expected(dataset, extractor, root),
    )


def _kept(chunks: Iterable[Tensor], shape: tuple[int, int], path: Path) -> Iterator[Tensor]:
    """The same chunks, written to an .npy as they pass: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, at = path.with_name(f".{path.name}.partial"), 0
    try:
        rows = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
        for chunk in chunks:
            rows[at : at + len(chunk)] = chunk
            at += len(chunk)
            yield chunk
        rows.flush()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _expected(dataset: str, extractor: Extractor, root: Path | None) -> dict[str, str]:
    """The labels that follow from a dataset and an extractor."""
    source = datasets.source(dataset)
    return {
        "dataset": source.label(dataset, root),
        "split": source.split,
        "preprocessing": source.preprocessing,
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
    }


def fingerprint(dataset: str, extractor: str, root: Path | str | None = None) -> list[str | None]:
    """What an FID is measured by, as it is here now: hashes of extractor and reference, or None.

    A run so named is another one when what was missing is there, or was made again.
    """
    if extractor == "digits":
        weights: str | None = records.sha256(classifier.WEIGHTS)
    else:
        try:
            weights = records.sha256(_inception_file())
        except MissingReference:
            weights = None
    if (dataset, extractor) == ("digits", "digits"):
        return [weights, "computed"]
    place = Path(root) if root else None
    kept = (path(dataset, extractor, place) for path in (reference_path, features_path))
    return [weights, *(records.sha256(p) if p.exists() else None for p in kept)]


def reference_path(dataset: str, extractor: str, root: Path | None = None) -> Path:
    """Where the reference of a dataset is kept: PNDM_HOME/references/cifar10_inception.npz."""
    name = datasets.source(dataset).label(dataset, root)
    return records.home() / "references" / f"{name}_{extractor}.npz"


def reference(
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
        words = f"dataset={dataset} extractor={extractor.name}" + (f" root={root}" if root else "")
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
        raise ReferenceMismatch(f"{path}: {'; '.join(wrong)}: make it again, or override this")
    if wrong:
        warnings.warn(f"{path} is used although {'; '.join(wrong)}", stacklevel=2)
    return found


@cache
def _digits_reference(sha256: str) -> Reference:
    """The reference of digits by the classifier of this hash, made once in a process."""
    return compute_reference("digits", extractor("digits"))


def features_path(dataset: str, extractor: str, root: Path | None = None) -> Path:
    """Where the features of a reference are kept: PNDM_HOME/references/cifar10_inception.npy."""
    return reference_path(dataset, extractor, root).with_suffix(".npy")


def reference_features(
    dataset: str, extractor: Extractor, root: Path | str | None = None
) -> Tensor:
    """The features [N, D] of a dataset's images, which KID and precision and recall need.

    Of digits they are computed, of others read: MissingReference where they were not kept.
    """
    if (dataset, extractor.name) == ("digits", "digits"):
        return torch.cat(list(features(datasets.digits(), extractor)))
    path = features_path(dataset, extractor.name, Path(root) if root else None)
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c"))
    except FileNotFoundError:
        words = f"dataset={dataset} extractor={extractor.name}" + (f" root={root}" if root else "")
        raise MissingReference(
            f"no features {path}: keep them with `python -m pndm.evaluation reference {words} "
            "keep_features=true`"
        ) from None


def import_reference(path: Path, dataset: str, source: str, n: int) -> Reference:
    """The statistics `mu` and `sigma` that others published, labelled as theirs.

    Their features come from another implementation than ours: `reference` uses them only with
    `override`. n is the number of images that they say they took.
    """
    publisher = _pick(FOREIGN, source, "publisher of statistics")
    arrays = statistics.load_arrays(path)
    if not {"mu", "sigma"} <= arrays.keys():
        raise ValueError(f"{path} has no mu and sigma but {', '.join(arrays) or 'nothing'}")
    if not all(arrays[k].dtype.kind in "fiu" for k in ("mu", "sigma")):
        raise ValueError(f"{path}: mu and sigma must be numbers")
    mean, covariance = (torch.from_numpy(arrays[k]).double() for k in ("mu", "sigma"))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{path}: mu {list(mean.shape)} and sigma {list(covariance.shape)}")
    if not mean.isfinite().all() or not covariance.isfinite().all():
        raise ValueError(f"{path}: mu or sigma contain NaN or infinity")
    spread = covariance.diagonal()
    if not torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6) or spread.min() < 0:
        raise ValueError(f"{path}: sigma is no covariance, which is symmetric and not negative")
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
        source=f"{source} file {records.sha256(path)[:12]}",
    )


def fid(blocks: Sequence[Statistics], reference: Reference) -> dict[str, Any]:
    """The Fréchet distance of samples to a reference, as a record holds it.

    `value` is biased by the number n of images, as every published FID is. From BLOCKS blocks come
    also the jackknife's `bias_corrected` value, its standard error `se` and its 95 % interval
    `low` … `high`, and `infinity`, the value extrapolated to n → ∞; they are None for any other
    number of blocks. Warns where n ≤ D.
    """
    whole = statistics.total(blocks)
    dimension = len(reference.mean)
    if len(whole.mean) != dimension:
        raise ValueError(f"{len(whole.mean)} features against a reference of {dimension}")
    for n, what in ((whole.n, "samples"), (reference.n, "reference images")):
        if n <= dimension:
            warnings.warn(
                f"{n} {what} for {dimension} features: the covariance is singular and the "
                f"distance mostly bias",
                stacklevel=2,
            )
    value = checked_distance(whole, reference)
    names = ("bias_corrected", "se", "low", "high", "infinity")
    interval: dict[str, float | None] = dict.fromkeys(names)
    if len(blocks) == statistics.BLOCKS:
        estimate = statistics.distance(blocks, reference)
        interval = {name: getattr(estimate, name) for name in names[:-1]}
        interval["infinity"] = statistics.extrapolate(blocks, reference)
    return {
        "value": value,
        **interval,
        "n": whole.n,
        "metric": LABELS.get(reference.extractor, f"FID on {reference.extractor}"),
        "extractor": reference.extractor,
        "reference": reference.label,
    }


def checked_distance(a: Statistics, b: Reference | Statistics) -> float:
    """torch-fidelity's Fréchet distance; ArithmeticError unless ours agrees to 1e-6 of it.

    Where both covariances are singular the eigenvalues that should be 0 come with an error of √ε
    each, which is allowed for.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    ours = statistics.frechet_distance(a, b)
    pair = [{"mu": m.mean.numpy(), "sigma": m.covariance.numpy()} for m in (a, b)]
    theirs = fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]
    traces = [m.covariance.trace().item() for m in (a, b)]
    error = abs(ours - theirs) - 1e-6 * abs(ours) - 1e-9 * sum(traces)
    if error > 0:
        ranks = [torch.linalg.matrix_rank(m.covariance, hermitian=True).item() for m in (a, b)]
        error -= (len(a.mean) - min(ranks)) * (np.finfo(float).eps * traces[0] * traces[1]) ** 0.5
    if not error <= 0:
        raise ArithmeticError(
            f"two ways to the Fréchet distance disagree: {ours!r} and torch-fidelity's {theirs!r}"
        )
    return theirs


def kid(
    generated: Tensor, real: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Kernel distance (Bińkowski et al. 2018) of features [N, D] and [M, D]: mean and sd.

    Over random subsets, of fewer images than `subset_size` where there are no more.
    """
    subset_size = min(subset_size, len(generated), len(real))
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    found = kid_features_to_metric(
        generated.double(),
        real.double(),
        kid_subsets=subsets,
        kid_subset_size=subset_size,
        rng_seed=seed,
        verbose=False,
    )
    numbers = {"value": found[KEY_METRIC_KID_MEAN], "sd": found[KEY_METRIC_KID_STD]}
    return {**numbers, "subsets": subsets, "subset_size": subset_size, "seed": seed}


def precision_recall(generated: Tensor, real: Tensor, neighbours: int = 3) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019) of features [N, D] against [M, D]."""
    from torch_fidelity.metric_prc import (
        KEY_METRIC_PRECISION,
        KEY_METRIC_RECALL,
        prc_features_to_metric,
    )

    found = prc_features_to_metric(
        generated.double(), real.double(), prc_neighborhood=neighbours, verbose=False
    )
    numbers = {"precision": found[KEY_METRIC_PRECISION], "recall": found[KEY_METRIC_RECALL]}
    return {**numbers, "neighbours": neighbours}


def floor(real: Tensor, seeds: Iterable[int] = range(10)) -> dict[str, Any]:
    """What perfect samples score: the distance between two random halves of real features [N, D].

    `value` and `sd` over random halvings, `n` in each half. `perfect` is the same at N samples
    against N reference images, the bias being proportional to 1/n + 1/n_reference.
    """
    n = len(real) // 2
    values = []
    for seed in seeds:
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
        a, b = (Statistics.of(real[half]) for half in (order[:n], order[n:]))
        values.append(checked_distance(a, b))
    value = float(np.mean(values))
    scale = (2 / len(real)) / (1 / n + 1 / (len(real) - n))
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"value": value, "sd": sd, "n": n, "perfect": value * scale, "n_perfect": len(real)}


def nearest_neighbours(images: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [N] and index [N] of the image in `data` [M, C, H, W] nearest to each of `images`
    [N, C, H, W]: Euclidean in pixels, uint8 on a scale from 0 to 1."""
    for batch in (images, data):
        if batch.dtype != torch.uint8:
            raise TypeError(f"neighbours are of uint8 images, not {batch.dtype}")
    a, b = (batch.flatten(1).double() / 255 for batch in (images, data))
    nearest = [
        # not by the inner product: it would lose the distances near 0
        torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        for part in a.split(256)
    ]
    return torch.cat([n.values for n in nearest]), torch.cat([n.indices for n in nearest])


def command_reference(
    dataset: str,
    extractor: str = "inception",
    root: str = "",
    weights: str = "",
    any_weights: bool = False,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "auto",
    output: str = "",
    keep_features: bool = False,
) -> None:
    """Compute the reference statistics of a dataset and keep them, and the features if asked."""
    config.check_device(device)
    device = config.device(device)
    make = _pick(EXTRACTORS, extractor, "feature extractor")
    chosen = make(torch.device(device), Path(weights) if weights else None, any_weights)
    place = Path(root) if root else None
    keep = features_path(dataset, chosen.name, place) if keep_features else None
    made = compute_reference(dataset, chosen, place, batch_size, workers, True, keep)
    _keep(made, Path(output) if output else reference_path(dataset, chosen.name, place))


def command_import(file: str, dataset: str, source: str, n: int, output: str = "") -> None:
    """Keep the statistics that others published, labelled as theirs."""
    datasets.source(dataset)  # refuses a name that it does not know
    made = import_reference(Path(file), dataset, source, n)
    usual = records.home() / "references" / f"{dataset}_{source}.npz"
    _keep(made, Path(output) if output else usual)


def command_floor(seeds: int = 10) -> None:
    """Print the distance between random halves of the digits."""
    found = torch.cat(list(features(datasets.digits(), extractor("digits"))))
    print(json.dumps({"metric": LABELS["digits"], **floor(found, range(seeds))}, indent=2))


def _keep(made: Reference, path: Path) -> None:
    made.save(path)
    print(f"{made.label}\nreference: {path}")


COMMANDS: dict[str, Callable[..., None]] = {
    "reference": command_reference,
    "import": command_import,
    "floor": command_floor,
}


def parse(command: Callable[..., None], words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words as the arguments of a command; ValueError naming the cure."""
    parameters = inspect.signature(command).parameters
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in parameters or not equals:
            near = difflib.get_close_matches(key, parameters, 1, 0)
            raise ValueError(f"{word!r} is not understood: did you mean {near[0]}=…?")
        try:
            found[key] = PARSERS[parameters[key].annotation](value)
        except (ValueError, KeyError):
            raise ValueError(
                f"{key}={value} must be {KINDS[parameters[key].annotation]}"
            ) from None
        if key in LEAST and found[key] < LEAST[key]:
            raise ValueError(f"{key} must be {LEAST[key]} or more, not {value}")
    missing = [k for k, p in parameters.items() if p.default is p.empty and k not in found]
    if missing:
        raise ValueError(f"{missing[0]}=… is missing")
    return found


PARSERS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    bool: {"true": True, "false": False}.__getitem__,
}
LEAST = {"batch_size": 1, "workers": 0, "n": 2, "seeds": 1}
KINDS = {int: "a whole number", bool: "true or false"}


def main(words: Sequence[str]) -> None:
    """`python -m pndm.evaluation COMMAND key=value …`; SystemExit with one line if it cannot."""
    if {"-h", "--help"} & set(words):
        return print(__doc__)
    name, *rest = words or [""]
    try:
        command = _pick(COMMANDS, name, "command")
        command(**parse(command, rest))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
