"""Random numbers keyed by an image's seed, independent of the batch and of earlier calls."""

import hashlib
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from random import Random

import torch
from torch import Tensor

from pndm._errors import InputError


def initial_noise(seeds: Iterable[int], shape: Sequence[int]) -> Tensor:
    """x_T ~ N(0, 1) for each seed, [len(seeds), *shape] float32 on the CPU.

    Each image has its own generator, seeded with its seed. InputError for a negative
    seed.
    """
    return _stack([_normal(check_seed(seed), shape) for seed in seeds], shape)


def step_noise(seeds: Iterable[int], shape: Sequence[int]) -> Callable[[int], Tensor]:
    """z ~ N(0, 1) for row i of a plan, [len(seeds), *shape] float32, keyed by (seed, i).

    For the stochastic methods (`ddpm`, `ddim` with eta > 0). Rows may be drawn in any order. Two
    rows have the same numbers with probability 2⁻³².
    """
    seeds = [check_seed(seed) for seed in seeds]
    return lambda row: _stack(
        [_normal(derive_seed("step noise", seed, row) % 2**32, shape) for seed in seeds], shape
    )


def derive_seed(purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one purpose, independent of others: BLAKE2b of name and numbers."""
    text = "/".join([purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def check_seed(seed: int) -> int:
    """Return the seed as an int in torch's range; InputError otherwise."""
    seed = operator.index(seed)
    if not 0 <= seed < 2**63:
        raise InputError(f"seed {seed} must be between 0 and 2**63 - 1")
    return seed


def _stack(images: list[Tensor], shape: Sequence[int]) -> Tensor:
    """The images as one batch, which may be empty."""
    return (
        torch.stack(images)
        if images
        else torch.empty(0, *shape, dtype=torch.float32, device="cpu")
    )


def _normal(seed: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers from a seed of up to 63 bits.

    torch's CPU generator uses only the lowest 32 bits of a seed. Longer seeds go to Python's
    Mersenne Twister, whose uniform numbers the Box-Muller transform makes normal.
    """
    if seed < 2**32:
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")
    count = math.prod(shape)
    words = torch.frombuffer(bytearray(Random(seed).randbytes(16 * count)), dtype=torch.int64)
    uniform = (words >> 11).double() / 2**53 + 0.5  # of [0, 1)
    radius, angle = uniform.view(2, *shape).unbind()
    return ((-2 * (1 - radius).log()).sqrt() * (2 * math.pi * angle).cos()).float()
