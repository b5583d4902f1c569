"""The settings of `run.py`, `pndm.train` and `pndm.fit` as typed dataclasses, and their YAML."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pndm._errors import InputError

CLASSIFIER_IMAGES = {"digits": (1, 8, 8), "fashion": (1, 28, 28)}
"""The images (C, H, W) that the features of our own classifiers are of."""

EXTRACTORS = (*CLASSIFIER_IMAGES, "inception")
"""The features that FID is computed from (`pndm.evaluation`)."""

IMAGES_PER_SEED = 2**32
"""Images of a seed set: image i of seed set s is drawn from the seed s·2³² + i."""

MAX_SEED = 2**63 // IMAGES_PER_SEED - 1
"""Seed sets whose images' seeds have 63 bits."""

SWITCH_VALUES = {
    **dict.fromkeys(
        ("fid", "kid", "prc"), {"auto": "auto", "true": "auto", "off": "off", "false": "off"}
    ),
    "fetch": {"auto": "auto", "true": "auto", "only": "only", "off": "off", "false": "off"},
    "compile": {"auto": "auto", "max": "max", "off": "off", "false": "off"},
    "save_images": {"npz": "npz", "true": "npz", "png": "png", "false": "false", "off": "false"},
}
"""Settings that may be written as words or as booleans."""


class ConfigError(InputError):
    """A command line that cannot be run; its message is one line and names the cure."""


@dataclass
class Dataset:
    """conf/dataset: what is sampled, how it is evaluated, and the weights for each schedule."""

    name: str = MISSING
    samples: int = MISSING
    batch_size: int = MISSING
    extractor: str = MISSING
    flip: bool = False
    root: str | None = None
    models: dict[str, str] = field(default_factory=dict)


@dataclass
class Model:
    """conf/model: weights by name, or a checkpoint of one's own with its architecture."""

    name: str = MISSING
    checkpoint: str | None = None
    architecture: str | None = None
    format: str = "auto"
    prediction: Any = "noise"


@dataclass
class Wandb:
    """The mirror on Weights & Biases; None is what its environment says, else the default."""

    mode: str | None = None
    project: str | None = None
    entity: str | None = None


@dataclass
class Method:
    """A solver on a network, its schedule and a grid."""

    solver: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    dataset: Dataset = field(default_factory=Dataset)
    model: Model = field(default_factory=Model)
    steps: int = MISSING
    grid: Any = MISSING
    convention: str = MISSING


@dataclass
class Run(Method):
    """conf/config.yaml: `python run.py`."""

    plan: str | None = None
    override: bool = False
    samples: int = MISSING
    seed: int = MISSING
    batch_size: int = MISSING
    device: str = MISSING
    precision: str = MISSING
    compile: Any = "auto"
    processes: Any = MISSING
    fetch: Any = "auto"
    fid: Any = MISSING
    kid: Any = MISSING
    prc: Any = MISSING
    save_images: Any = MISSING
    overwrite: bool = MISSING
    progress: bool = MISSING
    outputs: str = MISSING
    wandb: Wandb = field(default_factory=Wandb)


@dataclass
class Recipe:
    """conf/recipe: how a network is trained."""

    iterations: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    warmup: int = MISSING
    decay: bool = MISSING
    ema: float = MISSING
    log_every: int = MISSING
    checkpoint_every: int = MISSING
    half: bool = False


@dataclass
class Train:
    """conf/train.yaml: `python -m pndm.train`."""

    dataset: Dataset = field(default_factory=Dataset)
    schedule: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    architecture: str = MISSING
    seed: int = MISSING
    holdout: bool = MISSING
    finish: bool = MISSING
    device: str = MISSING
    precision: str = "fp32"
    compile: str = "off"
    processes: Any = 1
    workers: int = MISSING
    output: str = MISSING


@dataclass
class Rates:
    """The learning rates of what `python -m pndm.fit` learns."""

    times: float = MISSING
    weights: float = MISSING
    clock: float = MISSING


@dataclass
class Fit(Method):
    """conf/fit.yaml: `python -m pndm.fit`."""

    learn: Any = MISSING
    moments: float = MISSING
    huber: float = MISSING
    radius: float = MISSING
    images: int = MISSING
    validation: int = MISSING
    iterations: int = MISSING
    batch_size: int = MISSING
    lr: Rates = field(default_factory=Rates)
    teacher: int = MISSING
    validate_every: int = MISSING
    recompute: bool = MISSING
    seed: int = MISSING
    device: str = MISSING
    progress: bool = MISSING
    output: str = MISSING


def to_yaml(run: Run) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))


def from_yaml(path: Path) -> Run:
    """The configuration that `to_yaml` wrote."""
    return typed(OmegaConf.merge(OmegaConf.structured(Run), OmegaConf.load(path)))


def typed(cfg: Any) -> Any:
    """A composed configuration as its dataclass; ConfigError for a value of another type."""
    try:
        return OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from None
