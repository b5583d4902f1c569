"""Random numbers keyed by an image's seed, independent of the batch and of earlier calls."""

import hashlib
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from pndm._errors import InputError


def initial_noise(seeds: Iterable[int], shape: Sequence[int]) -> Tensor:
    """x_T ~ N(0, 1) for each seed, [len(seeds), *shape] float32 on the CPU.

    Seed s·2³² + i, image i of seed set s, seeds torch's CPU generator with h(s) + i modulo 2³²,
    where h is a hash and h(0) = 0. So the images of a set have numbers of their own, and two sets
    of n images share some with a probability of n/2³¹. InputError for a negative seed or one of
    2⁶³ or more.
    """
    return _stack([_draw(_short_seed(check_seed(seed)), shape) for seed in seeds], shape)


def step_noise(seeds: Iterable[int], shape: Sequence[int]) -> Callable[[int], Tensor]:
    """z ~ N(0, 1) for row i of a plan, [len(seeds), *shape] float32, keyed by (seed, i).

    For the stochastic methods (`ddpm`, `ddim` with eta > 0). Rows may be drawn in any order. Two
    rows have the same numbers with probability 2⁻³².
    """
    seeds = [check_seed(seed) for seed in seeds]
    return lambda row: _stack(
        [_draw(derive_seed("step noise", seed, row) % 2**32, shape) for seed in seeds], shape
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


def _short_seed(seed: int) -> int:
    """The 32 bits for torch's CPU generator, which takes no more; short seeds are themselves."""
    seed_set, image = divmod(seed, 2**32)
    return (_first_seed(seed_set) + image) % 2**32


@lru_cache
def _first_seed(seed_set: int) -> int:
    """Where the short seeds of a seed set begin."""
    return derive_seed("seed set", seed_set) % 2**32 if seed_set else 0


def _draw(seed: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers of torch's CPU generator."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")


def _stack(images: list[Tensor], shape: Sequence[int]) -> Tensor:
    """The images as one batch, which may be empty."""
    return (
        torch.stack(images)
        if images
        else torch.empty(0, *shape, dtype=torch.float32, device="cpu")
    )
