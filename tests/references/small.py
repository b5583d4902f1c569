"""The families in small: the structure of the real networks, narrow enough for a test.

For each family whose reference is written here, the `Architecture` and the reference's own
settings; they say the same twice, in each side's words.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pndm.models.architectures import ARCHITECTURES, Architecture
from references.iddpm import iddpm
from references.parameters import Parameters
from references.score_sde import score_sde

# 16 pixels instead of 32, so attention at 8 (and 4) is where the real networks have it.
NARROW = {"image_size": 16, "channels": 16, "norm_groups": 4}
SETTINGS = {"channels": 16, "groups": 4}

ARCHITECTURE: dict[str, Architecture] = {
    "iddpm_cifar10": replace(ARCHITECTURES["iddpm_cifar10"], **NARROW, attention=(8, 4)),
    "pf_cifar10": replace(ARCHITECTURES["pf_cifar10"], **NARROW, attention=(8,)),
    "pf_deep_cifar10": replace(
        ARCHITECTURES["pf_deep_cifar10"], **NARROW, attention=(8,), blocks=3
    ),
}
REFERENCE = {
    "iddpm_cifar10": partial(iddpm, **SETTINGS),
    "pf_cifar10": partial(score_sde, **SETTINGS, biggan=False, attend=(8,)),
    "pf_deep_cifar10": partial(score_sde, **SETTINGS, biggan=True, attend=(8,), blocks=3),
}
REAL = {
    "iddpm_cifar10": iddpm,
    "pf_cifar10": partial(score_sde, biggan=False),
    "pf_deep_cifar10": partial(score_sde, biggan=True, blocks=8),
}

TIMES = (0.0, 3.25, 500.0, 999.0)
"""Times on the embedding's scale, fractional ones among them."""


def state(family: str) -> Parameters:
    """Every parameter of a small reference, random, under upstream's names."""
    p = Parameters()
    x, t = inputs(16)
    REFERENCE[family](p, x[:1], t[:1])
    return p


def inputs(size: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """x [4, channels, size, size] float64, written as a formula, and the times [4]."""
    grid = torch.arange(len(TIMES) * channels * size * size, dtype=torch.float64)
    x = 1.2 * torch.sin(0.7 * grid + 0.001 * grid**2)
    return x.reshape(len(TIMES), channels, size, size), torch.tensor(TIMES, dtype=torch.float64)
