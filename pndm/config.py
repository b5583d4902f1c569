"""The command line: typed configurations, composed by Hydra and checked before anything runs.

Nothing here imports torch, so that a typo is answered at once.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

CONF = Path(__file__).resolve().parent.parent / "conf"


@dataclass
class Dataset:
    """conf/dataset: what is sampled, and which weights were trained on it by schedule."""

    name: str = MISSING
    flip: bool = False
    models: dict[str, str] = field(default_factory=dict)


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


@dataclass
class Train:
    """conf/train.yaml: `python -m pndm.train`."""

    dataset: Dataset = field(default_factory=Dataset)
    schedule: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    architecture: str = MISSING
    seed: int = 0
    holdout: bool = False
    device: str = "auto"
    workers: int = 0
    output: str = MISSING
    overrides: list[str] = field(default_factory=list)


ConfigStore.instance().store(group="_schema", name="train", node=Train, package="_global_")


def compose_train(arguments: list[str]) -> Train:
    """The configuration of `python -m pndm.train` with these overrides."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", arguments)
    train: Train = OmegaConf.to_object(cfg)  # type: ignore[assignment]
    return dataclasses.replace(train, overrides=arguments, device=device(train.device))


def device(name: str) -> str:
    """`auto` means CUDA where there is one, and the CPU otherwise."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def schedule(settings: dict[str, Any], convention: str = "aligned"):
    """The schedule that `conf/schedule` describes, in a convention."""
    from pndm.schedules import SCHEDULES

    settings = dict(settings)
    name = settings.pop("name")
    if name != "vp":
        settings["convention"] = convention
    return SCHEDULES[name](**settings)
