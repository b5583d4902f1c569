"""Feature extractors: from images to the features that FID compares.

FID is the Fréchet distance of two Gaussians fitted to features (Heusel et al. 2017). On
Inception features it is the field's FID; on those of our classifiers of digits and of clothes it
is called by their names and is comparable with nothing else. torch-fidelity's caches, which
identify data by name alone, are never used.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pndm import _files
from pndm._devices import copy_to
from pndm._download import Remote
from pndm._errors import InputError, MemoryLimit, MissingFile, lookup
from pndm._files import cache_dir
from pndm._memory import free_memory, is_out_of_memory, memory_for
from pndm._tf32 import tf32
from pndm.evaluation import classifier

CHUNK = 32
"""The batch size of references on a CPU: fixed, because float32 sums depend on it."""

EXTRACTION = 250
"""Images at once of which a run's features are extracted: 3.5 GB of Inception."""

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
INCEPTION_BYTES = 95_628_359
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

LABELS = {
    **{name: f"FID on {name} features, not Inception FID" for name in classifier.RECIPES},
    "inception": "FID",
    "inception_unverified": "not FID: Inception with unverified weights",
}
"""The name of the Fréchet distance, by extractor."""


class MissingReference(MissingFile):
    """A file that FID needs is missing; the message says what to do."""


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
            raise InputError(
                f"{self.name} features take {self.channels} channels, not {images.shape[1]}"
            )
        images = copy_to(images, self.device).expand(-1, self.channels, -1, -1)
        # TF32, cuDNN's default, would change the third digit of the features.
        with torch.no_grad(), tf32(False), _deterministic():
            (features,) = self.network(images)
        return features


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let cuDNN choose deterministic kernels only."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def extract_in_chunks(extractor: Extractor, images: Tensor) -> Tensor:
    """Return the features [B, D], on the CPU, of images uint8 [B, C, H, W].

    The chunk is halved after each out-of-memory error; MemoryLimit if one image does not fit.
    """
    chunk, parts, done = EXTRACTION, [], 0
    while done < len(images):
        part = None
        try:
            part = extractor(images[done : done + chunk])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if part is not None:
            parts.append(part)
            done += len(part)
        elif chunk == 1:
            raise MemoryLimit(
                f"{extractor.name} features of one image do not fit into the memory of "
                f"{extractor.device}: use fid=off, or another device"
            )
        else:
            free_memory(extractor.device)
            chunk //= 2
    return torch.cat(parts).cpu()


def load_extractor(
    name: str,
    device: torch.device | str = "cpu",
    path: Path | str | None = None,
    any_weights: bool = False,
) -> Extractor:
    """Load `digits` or `fashion` (64 and 128 features of our classifiers), or `inception` (2048).

    `path` is the Inception weight file, by default in PNDM_HOME or torch's cache: MissingReference
    if there is none, InputError if its hash is wrong, unless `any_weights` accepts a file of other
    weights, which is then named `inception_unverified`.
    """
    load = lookup(EXTRACTORS, name, "feature extractor")
    with memory_for(f"the network of {name} features", device):
        return load(torch.device(device), Path(path) if path else None, any_weights)


def _classifier(
    recipe: classifier.Recipe, device: torch.device, path: Path | None, any_weights: bool
) -> Extractor:
    if path is not None:
        raise InputError(
            f"the weights of the {recipe.name} features are in the package: omit path"
        )
    from torch_fidelity.utils import create_feature_extractor

    name, layers = register(recipe.name), [str(recipe.features)]
    network = create_feature_extractor(name, layers, cuda=False, verbose=False)
    sha256 = _files.sha256(recipe.weights)
    return Extractor(recipe.name, recipe.features, sha256, 1, network.to(device), device)


@cache
def register(name: str) -> str:
    """Register a classifier's features with torch-fidelity; return their name, with a hash."""
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    recipe = classifier.RECIPES[name]
    layer = str(recipe.features)

    class ClassifierFeatures(FeatureExtractorBase):
        """The standardised pre-activations of a `Classifier`, in float64."""

        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.classifier = classifier.load(recipe.name).double()

        @staticmethod
        def get_provided_features_list() -> tuple[str]:
            return (layer,)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return layer

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (self.classifier.features(images),)

    hashed = f"{name}-{_files.sha256(recipe.weights)[:8]}"
    register_feature_extractor(hashed, ClassifierFeatures)
    return hashed


def _inception(device: torch.device, path: Path | None, any_weights: bool) -> Extractor:
    path = path or inception_file()
    try:
        sha256 = _files.sha256(path)
    except FileNotFoundError:
        raise MissingReference(f"there is no Inception weight file {path}") from None
    verified = sha256 == INCEPTION_SHA256
    if not verified and not any_weights:
        raise InputError(
            f"{path} is not {INCEPTION}: its SHA-256 is {sha256[:8]}…, not 6726825d…; "
            f"fetch it again from {INCEPTION_URL}"
        )
    # torch-fidelity unpickles its file: an unverified one is first read with weights_only, and
    # torch-fidelity gets a copy of the tensors alone.
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
                raise InputError(f"{path} is not an Inception state dict: {reason}") from None
    name = "inception" if verified else "inception_unverified"
    return Extractor(name, 2048, sha256, 3, network, device)


def inception_remote() -> Remote:
    """The weights of Inception as torch-fidelity publishes them, and their place in PNDM_HOME."""
    path = cache_dir() / "weights" / INCEPTION
    checksum = f"sha256:{INCEPTION_SHA256}"
    return Remote("Inception", INCEPTION_URL, path, INCEPTION_BYTES, checksum)


def inception_file() -> Path:
    """The weight file in PNDM_HOME, or in torch-fidelity's download folder."""
    ours = inception_remote().path
    for path in (ours, Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION):
        if path.exists():
            return path
    raise MissingReference(
        f"no Inception weights: fetch {INCEPTION_URL} ({INCEPTION_BYTES:,} bytes) and put it at "
        f"{ours}"
    )


@lru_cache(maxsize=1)
def _known_inception(path: Path, device: torch.device) -> nn.Module:
    """The network of the verified file, cached for sweeps."""
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


DIMENSIONS = {
    **{name: recipe.features for name, recipe in classifier.RECIPES.items()},
    "inception": 2048,
}
"""The number of features, by extractor."""

EXTRACTORS: dict[str, Callable[..., Extractor]] = {
    **{name: partial(_classifier, recipe) for name, recipe in classifier.RECIPES.items()},
    "inception": _inception,
}
"""The feature extractors by their names in `conf/dataset`."""


def extract_features(
    data: Dataset[Tensor],
    extractor: Extractor,
    batch_size: int = 64,
    workers: int = 0,
    digest: Any = None,
    progress: bool = False,
) -> Iterator[Tensor]:
    """Yield the features [n, D], on the CPU, of a dataset of uint8 images, in order.

    On a CPU n ≤ CHUNK; a GPU takes EXTRACTION at once. Bit-identical for every `batch_size` and
    number of loader `workers`. `digest`, a hashlib object, is updated with the shape and the
    bytes of all images.
    """
    loader = DataLoader(data, batch_size=batch_size, num_workers=workers)
    count = len(data)  # type: ignore[arg-type]
    with tqdm(total=count, unit="image", desc="features", disable=not progress) as bar:
        for images in _regroup(loader, EXTRACTION if extractor.device.type == "cuda" else CHUNK):
            if digest is not None:
                if not bar.n:
                    digest.update(repr((count, *images.shape[1:])).encode())
                digest.update(images.contiguous().numpy())
            yield extract_in_chunks(extractor, images)
            bar.update(len(images))


def _regroup(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Regroup rows into batches of `size`."""
    pending: list[Tensor] = []
    for batch in batches:
        pending.append(batch)
        rows = torch.cat(pending)
        *full, rest = rows.split(size)
        yield from full
        pending = [rest]
    if pending:
        yield torch.cat(pending)
