"""Noise: an image's numbers depend on its seed alone."""

import itertools
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


def test_seed_sets_are_ranges_of_torchs_seeds():
    """Those of a set follow each other from a place of its own; set 0 begins at 0."""
    for seed_set in (0, 1, 2, 10**6, 2**31 - 1):
        first = 0 if seed_set == 0 else derive_seed("seed set", seed_set)
        for image in (0, 1, 49_999, 2**32 - 1):
            generator = torch.Generator().manual_seed((first + image) % 2**32)
            x = initial_noise([seed_set * 2**32 + image], SHAPE)[0]
            assert torch.equal(x, torch.randn(SHAPE, generator=generator))


def test_the_first_seed_sets_share_no_image():
    """Of 50,000 images each: their short seeds are disjoint."""
    starts = sorted([0, *(derive_seed("seed set", s) % 2**32 for s in range(1, 100))])
    assert min(b - a for a, b in itertools.pairwise([*starts, starts[0] + 2**32])) > 50_000


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
