"""Random numbers keyed by an image's seed, independent of the batch and of earlier calls."""

import hashlib
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pndm._errors import InputError


def initial_noise(seeds: Iterable[int], shape: Sequence[int]) -> Tensor:
    """x_T ~ N(0, 1) for each seed, [len(seeds), *shape] float32 on the CPU.

    Each image has numbers of its own. Seeds below 2³² seed torch's CPU generator; the others are
    places on Philox's streams. InputError for a negative seed or one of 2⁶³ or more.
    """
    seeds = [check_seed(seed) for seed in seeds]
    if min(seeds, default=0) >= 2**32:
        return _long(seeds, shape)
    return _stack([_short(s, shape) if s < 2**32 else _long([s], shape)[0] for s in seeds], shape)


def step_noise(seeds: Iterable[int], shape: Sequence[int]) -> Callable[[int], Tensor]:
    """z ~ N(0, 1) for row i of a plan, [len(seeds), *shape] float32, keyed by (seed, i).

    For the stochastic methods (`ddpm`, `ddim` with eta > 0). Rows may be drawn in any order. Two
    rows have the same numbers with probability 2⁻³².
    """
    seeds = [check_seed(seed) for seed in seeds]
    return lambda row: _stack(
        [_short(derive_seed("step noise", seed, row) % 2**32, shape) for seed in seeds], shape
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


def _long(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal numbers [len(seeds), *shape] by Philox4x64-10, a counter-based generator.

    The upper 32 bits of a seed are the key, the lower ones say where on its stream the image
    begins, so consecutive images are read at once. Two by two, the halves of the stream's words
    become a Box-Muller pair: an image holds the cosines of all its pairs, then their sines.
    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011), section 3.3.
    """
    count = math.prod(shape)
    blocks = -(-count // 8)  # of Philox: four words of 64 bits
    normal = torch.empty(len(seeds), 2, 4 * blocks, dtype=torch.float32, device="cpu")
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, count))
    for start in range(0, len(seeds), at_once):
        part = seeds[start : start + at_once]
        words = np.concatenate([_words(run, blocks) for run in _runs(part)])
        # A signed integer of 32 bits, times 2⁻³¹, is uniform in [−1, 1].
        halves = torch.from_numpy(words.view(np.int32)).float().mul_(2**-31)
        radius, angle = halves.view(len(part), -1).chunk(2, dim=1)
        radius.abs_().add_(2**-32).log_().mul_(-2).sqrt_()
        angle.mul_(math.pi)
        cosines, sines = normal[start : start + at_once].unbind(1)
        torch.mul(radius, angle.cos(), out=cosines)
        torch.mul(radius, angle.sin(), out=sines)
    return normal.flatten(1)[:, :count].reshape(len(seeds), *shape)


def _words(seeds: Sequence[int], blocks: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The words of consecutive seeds, `blocks` of four for each."""
    key, image = divmod(seeds[0], 2**32)
    generator = np.random.Philox(key=key, counter=image * blocks)
    return np.asarray(generator.random_raw(4 * blocks * len(seeds)))


def _runs(seeds: Sequence[int]) -> Iterator[Sequence[int]]:
    """The seeds cut where they are not consecutive or the upper 32 bits change."""
    first = 0
    for i in range(1, len(seeds) + 1):
        if i == len(seeds) or seeds[i] != seeds[i - 1] + 1 or seeds[i] % 2**32 == 0:
            yield seeds[first:i]
            first = i


_NUMBERS_AT_ONCE = 2**17
"""They stay in the CPU's cache."""


def _short(seed: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers of torch's CPU generator, which takes 32 bits of a seed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")


def _stack(images: list[Tensor], shape: Sequence[int]) -> Tensor:
    """The images as one batch, which may be empty."""
    return (
        torch.stack(images)
        if images
        else torch.empty(0, *shape, dtype=torch.float32, device="cpu")
    )
