"""Random numbers keyed by an image's seed, independent of the batch and of earlier calls."""

import hashlib
import math
import operator
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from pndm._errors import InputError


def initial_noise(seeds: Iterable[int], shape: Sequence[int]) -> Tensor:
    """x_T ~ N(0, 1) for each seed, [len(seeds), *shape] float32 on the CPU.

    Each image has numbers of its own. Seeds below 2³² seed torch's CPU generator; longer ones are
    keys of Philox. InputError for a negative seed or one of 2⁶³ or more.
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


def philox(counters: Tensor, keys: Tensor) -> Tensor:
    """Philox4x32-10: four random words [4, B, n] for each key [2, B] and counter [4, n].

    Words are int64 numbers below 2³². Source: Salmon et al., Parallel random numbers: as easy
    as 1, 2, 3 (2011), section 3.3.
    """
    memory = counters.new_empty(3, 2, keys.shape[1], counters.shape[1])
    even, odd, _ = _philox(counters, _round_keys(keys), memory)
    return torch.stack([even[0], odd[0], even[1], odd[1]]) & _LOW


def _round_keys(keys: Tensor) -> Tensor:
    """The keys [10, 2, B, 1] of Philox's rounds."""
    rounds = torch.arange(10, device="cpu").view(-1, 1, 1)
    return ((keys + rounds * _KEY_STEPS) & _LOW).unsqueeze(-1)


def _philox(counters: Tensor, round_keys: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Words 0 and 2, words 1 and 3 (whose upper 32 bits are garbage), and spare memory.

    `memory` is [3, 2, B, n], and each of the three is [2, B, n] of it.
    """
    even, odd, spare = memory
    products = (counters[::2] * _MULTIPLIERS).flip(0)
    high = (products >> 32) ^ counters[1::2]
    torch.bitwise_xor(high.unsqueeze(1), round_keys[0], out=even).bitwise_and_(_LOW)
    odd.copy_(products.unsqueeze(1))
    for key in round_keys[1:]:
        torch.mul(even[0], _MULTIPLIERS[0, 0], out=spare[1])
        torch.mul(even[1], _MULTIPLIERS[1, 0], out=spare[0])
        torch.bitwise_right_shift(spare, _HALF, out=even)
        even.bitwise_xor_(odd).bitwise_xor_(key).bitwise_and_(_LOW)
        odd, spare = spare, odd
    return even, odd, spare


_MULTIPLIERS = torch.tensor([[0xD2511F53], [0xCD9E8D57]], dtype=torch.int64, device="cpu")
_KEY_STEPS = torch.tensor([[0x9E3779B9], [0xBB67AE85]], dtype=torch.int64, device="cpu")
_LOW = torch.tensor(2**32 - 1, dtype=torch.int64, device="cpu")
_HALF = torch.tensor(32, dtype=torch.int64, device="cpu")
_CHUNK = 2**15  # counters at a time: their 1.5 MB stay in the CPU's cache


def _long(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal numbers [len(seeds), *shape] by Philox, whose key is the seed.

    The counters 0, 1, … give four words each, for two Box-Muller pairs. An image holds the
    cosines of all pairs and then their sines.
    """
    count = math.prod(shape)
    blocks = -(-count // 4)
    seed = torch.tensor(seeds, dtype=torch.int64, device="cpu")
    keys = _round_keys(torch.stack([seed & _LOW, seed >> 32]))
    normal = torch.empty(len(seeds), 2, 2 * blocks, dtype=torch.float32, device="cpu")
    images = max(1, min(len(seeds), _CHUNK // max(1, blocks)))
    for start in range(0, blocks, _CHUNK):
        counters = torch.zeros(4, min(_CHUNK, blocks - start), dtype=torch.int64, device="cpu")
        counters[0] = torch.arange(start, start + counters.shape[1], device="cpu")
        memory = counters.new_empty(3, 2, images, counters.shape[1])
        columns = normal[..., 2 * start : 2 * (start + counters.shape[1])]
        for rows, key in zip(
            torch.split(columns, images), torch.split(keys, images, 2), strict=True
        ):
            _box_muller(*_philox(counters, key, memory[:, :, : len(rows)]), out=rows)
    return normal.flatten(1)[:, :count].reshape(len(seeds), *shape)


def _box_muller(even: Tensor, odd: Tensor, spare: Tensor, out: Tensor) -> None:
    """Overwrite out [B, 2, 2n] with normal numbers made of the words, and the rest with scraps."""
    radius, angle, cosine = (row.view(torch.float32) for row in (*spare, even[1]))
    radius.copy_(_pack(even))
    angle.copy_(_pack(odd))
    # A word as a signed integer, times 2⁻³¹, is uniform in [−1, 1].
    radius.abs_().mul_(2**-31).add_(2**-32).log_().mul_(-2).sqrt_()
    torch.cos(angle.mul_(math.pi * 2**-31), out=cosine)
    torch.mul(radius, cosine, out=out[:, 0])
    torch.mul(radius, angle.sin_(), out=out[:, 1])


def _pack(words: Tensor) -> Tensor:
    """Two rows of words [2, B, n] as signed integers [B, 2n] of 32 bits, in their memory."""
    low = words[1].bitwise_and_(_LOW)
    return words[0].bitwise_left_shift_(_HALF).bitwise_or_(low).view(torch.int32)


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
