"""The registry of weights: their sources, and the setting of their training.

Does not import torch, so that configurations are validated without delay. The files are those
of Ho et al. 2020 (converted to torch by pesser/pytorch_diffusion), of Song et al. 2021
(ermongroup/ddim, yang-song/score_sde_pytorch), of Nichol & Dhariwal 2021
(openai/improved-diffusion), and of the paper's authors (luping-liu/PNDM).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pndm._errors import InputError, did_you_mean
from pndm._files import cache_dir
from pndm.models.architectures import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "WEIGHTS", "Architecture", "CheckpointError", "Weights", "find"]

Format = Literal["ddpm", "ermongroup", "diffusers", "iddpm", "score_sde", "pndm"]
"""The code that wrote a file, which determines its packing and keys."""

FORMATS: tuple[Format, ...] = get_args(Format)

HUB = "hf://"
"""The prefix of addresses on the Hugging Face hub."""


class CheckpointError(InputError):
    """Weights that cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Weights:
    """One file of weights.

    It comes from `url` (a file, or a folder of Google Drive that holds it; empty: it ships with
    this package) and is stored as `file`, publisher first, in the weights cache. `ema`
    says whether it holds the moving average of the training, as published results do; None
    where the publisher does not say. `schedule` with `timesteps` is what the network was
    trained on, and `variance` that of its authors' ancestral sampler. `md5` is None if none is
    published; `megabytes` is then an estimate from the number of parameters that it holds.
    """

    name: str
    architecture: str
    dataset: str
    format: Format
    url: str = ""
    file: str = ""
    ema: bool | None = True
    md5: str | None = None
    megabytes: int | None = None
    schedule: Literal["linear", "cosine", "vp"] = "linear"
    timesteps: int = 1000
    variance: Literal["small", "large", "learned"] | None = None

    @property
    def path(self) -> Path:
        """The path of the file, whether it exists or not."""
        if not self.url:
            return Path(__file__).parent / "weights" / f"{self.name}.safetensors"
        return cache_dir() / "weights" / self.file

    @property
    def present(self) -> bool:
        """Whether the file exists; `pndm.models.files.verify` checks its content."""
        return self.path.is_file()

    def require(self) -> Path:
        """Return the path of the file; CheckpointError with what to fetch if it is missing."""
        if self.present:
            return self.path
        if not self.url:
            raise CheckpointError(
                f"{self.path} is missing from this installation: train it with python -m "
                f"pndm.train dataset={self.dataset} schedule={self.schedule} and put it there"
            )
        where = f"{self.path.name} from {self.url}" if "/folders/" in self.url else self.url
        raise CheckpointError(
            f"the weights {self.name} are not here: run python -m pndm.models fetch {self.name}, "
            f"or get {where} and put it at {self.path}"
        )


def _heibox(key: str) -> str:
    return f"https://heibox.uni-heidelberg.de/f/{key}/?dl=1"


def _drive(kind: str, key: str) -> str:
    return f"https://drive.google.com/{kind}/{key}"


def _hub(repository: str) -> str:
    return f"https://huggingface.co/{repository}/resolve/main/diffusion_pytorch_model.bin"


_OPENAI = "https://openaipublic.blob.core.windows.net/diffusion/march-2021/"
_PRUNING = "https://github.com/VainF/Diff-Pruning/releases/download/v0.0.1/"
_AUTHORS = _drive("drive/folders", "1leEpziaPdYlshzB4QALY5pL7Snw8XM28")

_CIFAR10 = ("ddpm_cifar10", "cifar10")
_CELEBA = ("ddim_celeba", "celeba")
_BEDROOM = ("ddpm_lsun_bedroom", "lsun_bedroom")
_CHURCH = ("ddpm_lsun_church", "lsun_church")
_IDDPM = ("iddpm_cifar10", "cifar10")
_RELEASED = ("iddpm_cifar10_released", "cifar10")
_PF = ("pf_cifar10", "cifar10")
_PF_DEEP = ("pf_deep_cifar10", "cifar10")

# fmt: off
_ALL = (
    Weights("digits_linear", "digits_linear", "digits", "pndm"),
    Weights("digits_cosine", "digits_cosine", "digits", "pndm", schedule="cosine"),
    Weights("fashion_linear", "fashion_linear", "fashion_mnist", "pndm"),
    Weights("fashion_cosine", "fashion_cosine", "fashion_mnist", "pndm", schedule="cosine"),
    Weights("ddpm_cifar10", *_CIFAR10, "ddpm",
            _heibox("2e4f01e2d9ee49bab1d5"), "pesser/ema_cifar10-790000.ckpt", variance="large",
            md5="1fa350b952534ae442b1d5235cce5cd3", megabytes=143),
    Weights("ddpm_cifar10_nonema", *_CIFAR10, "ddpm",
            _heibox("869980b53bf5416c8a28"), "pesser/cifar10-790000.ckpt", variance="large",
            md5="82ed3067fd1002f5cf4c339fb80c4669", megabytes=143, ema=False),
    Weights("ddpm_lsun_bedroom", *_BEDROOM, "ddpm",
            _heibox("b95206528f384185889b"), "pesser/ema_lsun_bedroom-2388000.ckpt",
            variance="small", md5="1921fa46b66a3665e450e42f36c2720f", megabytes=455),
    Weights("ddpm_lsun_church", *_CHURCH, "ddpm",
            _heibox("44ccb50ef3c6436db52e"), "pesser/ema_lsun_church-4432000.ckpt",
            variance="small", md5="fdc68a23938c2397caba4a260bc2445f", megabytes=455),
    Weights("ddim_celeba", *_CELEBA, "ermongroup",
            _drive("file/d", "1R_H-fJYXSH79wfSKs9D-fuKQVan5L-GR"), "ermongroup/celeba.ckpt",
            variance="large", megabytes=1259),
    Weights("iddpm_cifar10", *_IDDPM, "iddpm",
            f"{_OPENAI}cifar10_uncond_50M_500K.pt", "openai/cifar10_uncond_50M_500K.pt",
            ema=None, schedule="cosine", timesteps=4000, variance="learned", megabytes=210),
    # The same file as used by the authors' code: on the cosine schedule of 1000 times, with time
    # j passed to the network unscaled. Training used j + 3/4 for that noise level.
    Weights("iddpm_cifar10_released", *_RELEASED, "iddpm",
            f"{_OPENAI}cifar10_uncond_50M_500K.pt", "openai/cifar10_uncond_50M_500K.pt",
            ema=None, schedule="cosine", variance="learned", megabytes=210),
    Weights("pf_cifar10", *_PF, "score_sde",
            _drive("drive/folders", "1RHNxW1qY-mTr0JMAE5t4V181Hi_aVWXK"),
            "score_sde/vp/cifar10_ddpm_continuous/checkpoint_8.pth", schedule="vp",
            megabytes=564),
    Weights("pf_cifar10_discrete", *_PF, "score_sde",
            _drive("drive/folders", "1zDKcy3xbsN3F4AfyB_DfY_1oho89iKcf"),
            "score_sde/vp/cifar10_ddpm/checkpoint_26.pth", variance="large", megabytes=564),
    Weights("pf_deep_cifar10", *_PF_DEEP, "score_sde",
            _drive("drive/folders", "1ZMLBiu9j7-rpdTQu8M2LlHAEQq4xRYrj"),
            "score_sde/vp/cifar10_ddpmpp_deep_continuous/checkpoint_8.pth", schedule="vp",
            megabytes=1706),
    Weights("ddpm_cifar10_pruning", *_CIFAR10, "diffusers",
            f"{_PRUNING}ddpm_ema_cifar10.zip", "vainf/ddpm_ema_cifar10.zip", variance="large",
            megabytes=143),
    Weights("ddpm_cifar10_nonema_hub", *_CIFAR10, "diffusers",
            _hub("google/ddpm-cifar10-32"), "google/ddpm-cifar10-32.bin", ema=False,
            variance="large", megabytes=143),
    Weights("ddpm_lsun_bedroom_hub", *_BEDROOM, "diffusers",
            _hub("google/ddpm-ema-bedroom-256"), "google/ddpm-ema-bedroom-256.bin",
            variance="small", megabytes=455),
    Weights("ddpm_lsun_church_hub", *_CHURCH, "diffusers",
            _hub("google/ddpm-ema-church-256"), "google/ddpm-ema-church-256.bin",
            variance="small", megabytes=455),
    Weights("ddpm_cifar10_authors", *_CIFAR10, "ddpm",
            _AUTHORS, "authors/ddim_cifar10.ckpt", ema=None, megabytes=143),
    Weights("ddim_celeba_authors", *_CELEBA, "ddpm",
            _AUTHORS, "authors/ddim_celeba.ckpt", ema=None, megabytes=315),
    Weights("ddpm_lsun_bedroom_authors", *_BEDROOM, "ddpm",
            _AUTHORS, "authors/ddim_lsun_bedroom.ckpt", ema=None, megabytes=455),
    Weights("ddpm_lsun_church_authors", *_CHURCH, "ddpm",
            _AUTHORS, "authors/ddim_lsun_church.ckpt", ema=None, megabytes=455),
    Weights("iddpm_cifar10_authors", *_RELEASED, "iddpm",
            _AUTHORS, "authors/iddpm_cifar10.ckpt", ema=None, schedule="cosine", megabytes=210),
    Weights("pf_cifar10_authors", *_PF, "score_sde",
            _AUTHORS, "authors/pf_cifar10.ckpt", ema=None, megabytes=141),
    Weights("pf_deep_cifar10_authors", *_PF_DEEP, "score_sde",
            _AUTHORS, "authors/pf_deep_cifar10.ckpt", ema=None, megabytes=427),
)
# fmt: on

WEIGHTS = {weights.name: weights for weights in _ALL}
"""All registered weights by name."""


def find(name: str) -> Weights:
    """Return the weights of that name, downloaded or not; CheckpointError if unknown."""
    if name in WEIGHTS:
        return WEIGHTS[name]
    hint = did_you_mean(name, WEIGHTS)
    raise CheckpointError(f"no weights are called {name}{hint}; there are {', '.join(WEIGHTS)}")
