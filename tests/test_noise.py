"""Noise: an image's numbers depend on its seed alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pndm
from pndm.noise import derive_seed, initial_noise, step_noise

SHAPE = (3, 4, 4)


def test_shape_and_type():
    x = pndm.initial_noise(seeds=range(5), shape=SHAPE)
    assert x.shape == (5, *SHAPE) and x.dtype == torch.float32 and x.device.type == "cpu"
    z = step_noise(range(5), SHAPE)(3)
    assert z.shape == (5, *SHAPE) and z.dtype == torch.float32 and z.device.type == "cpu"


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6), st.integers(0, 50))
def test_an_image_depends_on_its_seed_alone(seeds, row):
    together = initial_noise(seeds, SHAPE)
    noise = step_noise(seeds, SHAPE)(row)
    for i, seed in enumerate(seeds):
        assert torch.equal(together[i], initial_noise([seed], SHAPE)[0])
        assert torch.equal(noise[i], step_noise([seed], SHAPE)(row)[0])


def test_batches_are_bit_identical():
    whole = initial_noise(range(64), SHAPE)
    for size in (1, 7, 64):
        parts = [initial_noise(range(64)[i : i + size], SHAPE) for i in range(0, 64, size)]
        assert torch.equal(torch.cat(parts), whole)


def test_neither_reads_nor_moves_the_global_generator():
    torch.manual_seed(1)
    first, state = initial_noise([3], SHAPE), torch.get_rng_state()
    step_noise([3], SHAPE)(0)
    torch.manual_seed(2)
    assert torch.equal(initial_noise([3], SHAPE), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_may_come_in_any_order_and_differ():
    noise = step_noise([7, 8], SHAPE)
    rows = {i: noise(i) for i in (4, 0, 2)}
    assert all(torch.equal(step_noise([7, 8], SHAPE)(i), z) for i, z in rows.items())
    draws = [*rows[0], *rows[2], *rows[4], *initial_noise([7, 8], SHAPE)]
    flat = torch.stack(draws).flatten(1)
    assert len({tuple(row.tolist()) for row in flat}) == len(draws)


def test_seeds_of_every_integer_type():
    for seeds in (np.arange(3), torch.arange(3), (0, 1, 2), iter([0, 1, 2])):
        assert torch.equal(initial_noise(seeds, SHAPE), initial_noise(range(3), SHAPE))
    for seeds in (np.arange(3), torch.arange(3), (0, 1, 2), iter([0, 1, 2])):
        assert torch.equal(step_noise(seeds, SHAPE)(5), step_noise(range(3), SHAPE)(5))


def test_no_seeds_are_an_empty_batch():
    assert initial_noise([], SHAPE).shape == step_noise([], SHAPE)(3).shape == (0, *SHAPE)


def test_seeds_that_share_their_lowest_bits_differ():
    """torch's generator alone would not tell them apart."""
    seeds = [5, 2**32 + 5, 2**33 + 5, 2**62 + 5, 2**63 - 1, 2**32 - 1]
    x = initial_noise(seeds, (4096,))
    assert (torch.corrcoef(x) - torch.eye(len(seeds))).abs().max() < 5 / math.sqrt(4096)
    noise = torch.cat([step_noise([seed], (4096,))(0) for seed in seeds])
    assert (torch.corrcoef(noise) - torch.eye(len(seeds))).abs().max() < 5 / math.sqrt(4096)


def test_long_seeds_are_standard_normal_too():
    """Four moments at five deviations, and the distribution itself."""
    x = initial_noise([2**32 + i for i in range(64)], (4096,)).double()
    n = x.numel()
    assert abs(x.mean()) < 5 / math.sqrt(n) and abs(x.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 5 * math.sqrt(15 / n) and abs((x**4).mean() - 3) < 5 * math.sqrt(
        96 / n
    )
    ordered = x.flatten().sort().values
    below = torch.special.ndtr(ordered) - torch.arange(n) / n
    assert below.abs().max() < 2 / math.sqrt(n)  # Kolmogorov and Smirnov, p = 0.0007


def test_noise_is_standard_normal():
    """Mean 0, variance 1, no correlation of neighbouring seeds or rows, at five deviations."""
    size = 4096
    sets = [
        initial_noise(range(8), (size,)),
        torch.cat([step_noise([0], (size,))(i) for i in range(8)]),
    ]
    for x in sets:
        assert x.mean(1).abs().max() < 5 / math.sqrt(size)
        assert (x.var(1) - 1).abs().max() < 5 * math.sqrt(2 / size)
        assert (torch.corrcoef(x) - torch.eye(8)).abs().max() < 5 / math.sqrt(size)


def test_derived_seeds():
    seeds = {derive_seed(p, i, j) for p in ("a", "b") for i in range(30) for j in range(30)}
    assert len(seeds) == 1800 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed("a", 1, 23) != derive_seed("a", 12, 3)
    assert derive_seed("step noise", 0, 0) == derive_seed("step noise", 0, 0)


@pytest.mark.parametrize("seed", [-1, 2**63])
@pytest.mark.parametrize("make", [initial_noise, step_noise])
def test_seeds_outside_are_refused_in_one_line(make, seed):
    with pytest.raises(ValueError, match="between 0 and") as error:
        make([0, seed], SHAPE)
    assert "\n" not in str(error.value)


def test_numbers_of_short_seeds_are_fixed():
    """Records of seed set 0 rest on torch's generator."""
    x = initial_noise([0, 7, 2**32 - 1], (2, 2)).flatten(1)
    z = step_noise([0, 5 * 2**32 + 7], (2, 2))(3).flatten(1)
    close = {"rtol": 1e-6, "atol": 0.0}
    torch.testing.assert_close(
        x,
        torch.tensor(
            [
                [1.5409960747, -0.2934288979, -2.1787893772, 0.5684312582],
                [-0.1467950940, 0.7861412764, 0.9468216300, -1.1143440008],
                [1.2197630405, -0.3929794729, 1.0230751038, -0.3734211326],
            ]
        ),
        **close,
    )
    torch.testing.assert_close(
        z,
        torch.tensor(
            [
                [1.1697907448, -2.1575813293, -0.1144451499, -1.2578319311],
                [1.0155068636, -0.7510651350, -0.5859215856, -0.0796879380],
            ]
        ),
        **close,
    )


MASK = 2**64 - 1


def scalar_philox(counter, key):
    """Philox4x64-10 in Python's own integers, as the paper writes it."""
    c = [counter >> 64 * i & MASK for i in range(4)]
    k = [key & MASK, key >> 64]
    for _ in range(10):
        p, q = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [q >> 64 ^ c[1] ^ k[0], q & MASK, p >> 64 ^ c[3] ^ k[1], p & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (
            0,
            0,
            [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
        ),
        (
            2**256 - 1,
            2**128 - 1,
            [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
        ),
    ],
)
def test_the_reference_gives_the_known_answers(counter, key, words):
    """The vectors of philox4x64-10 in Random123's kat_vectors."""
    assert scalar_philox(counter, key) == words


@pytest.mark.parametrize("seed", [2**32, 5 * 2**32 + 7, 2**63 - 1])
@pytest.mark.parametrize("count", [1, 10, 24])
def test_long_seeds_are_places_on_philox_streams(seed, count):
    """The numbers, restated; NumPy's generator begins at the counter after the one it is given."""
    blocks = -(-count // 8)
    key, image = divmod(seed, 2**32)
    words = [scalar_philox(image * blocks + i + 1, key) for i in range(blocks)]
    halves = [half for block in words for w in block for half in (w % 2**32, w >> 32)]
    uniform = [((half + 2**31) % 2**32 - 2**31) / 2**31 for half in halves]
    pairs = list(zip(uniform[: 4 * blocks], uniform[4 * blocks :], strict=True))
    polar = [(math.sqrt(-2 * math.log(min(1, abs(r) + 2**-32))), a * math.pi) for r, a in pairs]
    expected = [r * math.cos(a) for r, a in polar] + [r * math.sin(a) for r, a in polar]
    torch.testing.assert_close(
        initial_noise([seed], (count,))[0], torch.tensor(expected[:count]), rtol=1e-5, atol=1e-6
    )


def test_the_batch_does_not_show_in_the_numbers(monkeypatch):
    """Neither what is drawn at once, nor runs of consecutive seeds, nor the end of a seed set."""
    seeds = [2**32 + 3, 2**32 + 4, 2**33 - 1, 2**33, 2**33 + 1, 7, 2**40 + 1, 2**40 + 1, 2**40]
    single = torch.cat([initial_noise([seed], (3, 30, 31)) for seed in seeds])
    for numbers in (1, 6000, 9000, 2**20):
        monkeypatch.setattr("pndm.noise._NUMBERS_AT_ONCE", numbers)
        assert torch.equal(initial_noise(seeds, (3, 30, 31)), single)


def test_short_and_long_seeds_share_a_batch():
    seeds = [3, 2**32 + 3, 4, 2**40]
    together = initial_noise(seeds, SHAPE)
    assert all(
        torch.equal(x, initial_noise([s], SHAPE)[0]) for x, s in zip(together, seeds, strict=True)
    )


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3)])
def test_any_shape(shape):
    for seed in (3, 2**32 + 3):
        assert initial_noise([seed], shape).shape == (1, *shape)
