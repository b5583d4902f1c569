"""Sums that add up, the Fréchet distance against closed forms, and the jackknife's coverage."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from pndm.evaluation import statistics
from pndm.evaluation.statistics import BLOCKS, Statistics


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(mean: torch.Tensor, covariance: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(mean=mean, covariance=covariance)


def standard(d: int) -> SimpleNamespace:
    return moments(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))


def rotation(d: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(normal(d, d, seed)).Q


def assert_equal(a: Statistics, b: Statistics, tolerance: float = 1e-9) -> None:
    assert a.n == b.n
    for x, y in ((a.mean, b.mean), (a.scatter, b.scatter)):
        assert (x - y).abs().max() <= tolerance * y.abs().max()


def test_mean_and_covariance_are_numpys():
    x = normal(100, 7)
    s = Statistics.of(x.float())
    assert s.mean.dtype == s.covariance.dtype == torch.float64
    x = x.float().double().numpy()
    np.testing.assert_allclose(s.mean, x.mean(0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(s.covariance, np.cov(x, rowvar=False), rtol=1e-12, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(
    cuts=some.lists(some.integers(1, 199), max_size=30),
    order=some.randoms(use_true_random=False),
    offset=some.sampled_from([0.0, 1.0, 1e5]),
)
def test_any_division_merged_in_any_order_is_the_whole(cuts, order, offset):
    x = normal(200, 5) + offset  # an offset of 1e5 would cost Σxxᵀ ten digits
    edges = [0, *sorted(set(cuts)), 200]
    parts = [Statistics.of(x[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    order.shuffle(parts)
    assert_equal(statistics.total(parts), Statistics.of(x))


def test_taking_a_part_away_undoes_adding_it():
    a, b = Statistics.of(normal(90, 5) + 3), Statistics.of(normal(10, 5, 1))
    assert_equal(a + b - b, a)
    with pytest.raises(ValueError, match="cannot subtract 10 from 10"):
        b - b


def test_arrays_and_files_round_trip(tmp_path):
    s = Statistics.of(normal(30, 4))
    assert_equal(Statistics.from_arrays(s.arrays()), s, 0)
    s.save(tmp_path / "new" / "sums.npz")
    assert_equal(Statistics.load(tmp_path / "new" / "sums.npz"), s, 0)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["sums.npz"]


@pytest.mark.parametrize("chunk", [1, 7, 40, 100])
def test_a_stream_of_parts_is_their_whole(chunk, monkeypatch):
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    x = normal(50, 4) + 100
    assert_equal(Statistics.stream(x.split(3)), Statistics.of(x))
    with pytest.raises(ValueError, match="N ≥ 1"):
        Statistics.stream([])


def test_what_falls_as_one_over_n_is_extrapolated(monkeypatch):
    parts = statistics.blocks(normal(997, 3))
    monkeypatch.setattr(statistics, "frechet_to", lambda *_: lambda s: 3 + 50 / s.n)
    assert statistics.extrapolate(parts, standard(3)) == pytest.approx(3, rel=1e-9)


def test_the_bias_of_few_images_is_extrapolated_away():
    parts, exact = statistics.blocks(normal(2000, 8)), standard(8)
    biased = statistics.frechet_distance(statistics.total(parts), exact)
    assert abs(statistics.extrapolate(parts, exact)) < 0.3 * biased


def test_a_singular_reference_has_its_distance():
    few, many = Statistics.of(normal(5, 9)), Statistics.of(normal(60, 9, 2))
    value = statistics.frechet_distance(many, few)
    assert value == pytest.approx(statistics.frechet_distance(few, many), rel=1e-6)


def test_the_eigenproblems_are_of_the_device_and_are_32(monkeypatch):
    """All of an estimate's; on "meta", which has no numbers, there is nothing to compute."""
    blocks, reference = statistics.blocks(normal(200, 6)), Statistics.of(normal(300, 6, 1))
    plain, devices = torch.linalg.eigvalsh, []
    expected = statistics.distance(blocks, reference), statistics.extrapolate(blocks, reference)

    def eigvalsh(matrix):
        assert matrix.dtype == torch.float64
        devices.append(matrix.device.type)
        return plain(matrix)

    monkeypatch.setattr(torch.linalg, "eigvalsh", eigvalsh)
    found = (
        statistics.distance(blocks, reference, "cpu"),
        statistics.extrapolate(blocks, reference, torch.device("cpu")),
    )
    assert found == expected and devices == ["cpu"] * 32
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        statistics.distance(blocks, reference, "meta")
    assert devices[32:] == ["meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_a_gpu_gives_the_same_distances():
    blocks, reference = statistics.blocks(normal(2000, 64)), Statistics.of(normal(3000, 64, 1))
    for estimate in (statistics.distance, statistics.extrapolate):
        one, other = (estimate(blocks, reference, device) for device in ("cuda", "cpu"))
        one, other = (np.array(getattr(e, "value", e)) for e in (one, other))
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_bad_features_and_files(tmp_path):
    with pytest.raises(ValueError, match="NaN"):
        Statistics.of(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(ValueError, match="N ≥ 1"):
        Statistics.of(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="3 and 4"):
        Statistics.of(normal(5, 3)) + Statistics.of(normal(5, 4))
    with pytest.raises(ValueError, match="one image"):
        _ = Statistics.of(normal(1, 3)).covariance
    with pytest.raises(TypeError, match="float64"):
        statistics.frechet_distance(moments(torch.zeros(2), torch.eye(2)), standard(2))
    (tmp_path / "bad.npz").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(ValueError, match="not an .npz"):
        Statistics.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("d", [1, 8, 64])
def test_frechet_distance_of_commuting_covariances(d):
    """With shared eigenvectors the trace is Σ(√λ_a − √λ_b)²."""
    q = rotation(d)
    a, b = normal(1, d, 1)[0].exp(), normal(1, d, 2)[0].exp()
    m = normal(1, d, 3)[0]
    expected = (m.square().sum() + (a.sqrt() - b.sqrt()).square().sum()).item()
    zero = torch.zeros_like(m)
    x, y = moments(m, q @ a.diag() @ q.T), moments(zero, q @ b.diag() @ q.T)
    assert statistics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)
    assert statistics.frechet_distance(y, x) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_is_a_symmetric_invariant_and_zero_on_equals():
    a, b = Statistics.of(normal(50, 9) @ normal(9, 9, 1)), Statistics.of(normal(60, 9, 2))
    value = statistics.frechet_distance(a, b)
    q = rotation(9, 3)
    turned = [moments(s.mean @ q, q.T @ s.covariance @ q) for s in (a, b)]
    assert statistics.frechet_distance(b, a) == pytest.approx(value, rel=1e-12)
    assert statistics.frechet_distance(*turned) == pytest.approx(value, rel=1e-12)
    assert statistics.frechet_distance(a, a) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_of_singular_covariances():
    """Two points: |μ_a − μ_b|²; a line against a plane: through the closed form."""
    zero, flat = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    one = torch.ones(3, dtype=torch.float64)
    assert statistics.frechet_distance(moments(one, flat), moments(zero, flat)) == 3
    line, plane = torch.diag(one), torch.diag(one)
    line[1, 1] = line[2, 2] = plane[2, 2] = 0
    result = statistics.frechet_distance(moments(zero, line), moments(zero, plane))
    assert result == pytest.approx(1, abs=1e-12)


def test_jackknife_removes_a_bias_of_order_one_over_n_exactly_even_in_uneven_blocks():
    parts = [Statistics.of(normal(n, 1, n)) for n in range(2, 2 + BLOCKS)]
    result = statistics.jackknife(lambda s: 7 + 3 / s.n, parts)
    assert result.bias_corrected == pytest.approx(7, rel=1e-12)


def test_jackknife_of_a_mean_is_its_classical_error():
    parts = statistics.blocks(normal(BLOCKS * 5, 1))
    means = torch.stack([part.mean for part in parts])
    result = statistics.jackknife(lambda s: s.mean.item(), parts)
    assert result.se == pytest.approx((means.std() / math.sqrt(BLOCKS)).item(), rel=1e-10)
    assert result.value == pytest.approx(result.bias_corrected, rel=1e-10)
    assert result.high - result.low == pytest.approx(2 * 2.0930240544 * result.se, rel=1e-9)


def test_the_interval_is_narrower_for_a_pair_from_the_same_seeds():
    x = normal(400, 4)
    a, b = statistics.blocks(1.2 * x), statistics.blocks(1.3 * x)
    single = statistics.distance(b, standard(4))
    pair = statistics.difference(a, b, standard(4))
    to = statistics.frechet_to(standard(4))
    assert pair.value == to(statistics.total(a)) - to(statistics.total(b))
    assert pair.high < 0 and pair.se < single.se


def test_jackknife_refuses_what_it_cannot_pair():
    parts = statistics.blocks(normal(100, 2))
    with pytest.raises(ValueError, match="20 blocks, not 19"):
        statistics.distance(parts[1:], standard(2))
    with pytest.raises(ValueError, match="same sizes"):
        statistics.difference(parts, statistics.blocks(normal(101, 2)), standard(2))
    with pytest.raises(ValueError, match="as many images, not 19"):
        statistics.blocks(normal(19, 2))


def coverage(simulations: int, d: int, n: int, seed: int) -> tuple[float, float]:
    """How often the interval holds the true distance of N(0, 1.2²), and the true difference.

    The second generator is the first one seen through a small perturbation, as two solvers are
    that start from the same noise. The reference is exact.
    """
    generator = torch.Generator().manual_seed(seed)
    reference, scale, other = standard(d), 1.2, 1.15
    truth = d * (scale - 1) ** 2
    wobble = 0.1
    truth_other = d * (math.hypot(other, wobble) - 1) ** 2
    single = paired = 0
    for _ in range(simulations):
        x, y = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
        a, b = statistics.blocks(scale * x), statistics.blocks(other * x + wobble * y)
        result = statistics.distance(a, reference)
        single += result.low <= truth <= result.high
        result = statistics.difference(a, b, reference)
        paired += result.low <= truth - truth_other <= result.high
    return single / simulations, paired / simulations


@pytest.mark.slow
def test_coverage_in_a_few_simulations():
    single, paired = coverage(250, d=4, n=200, seed=0)
    assert single >= 0.90 and paired >= 0.92


@pytest.mark.slow
def test_coverage():
    single, paired = coverage(1000, d=16, n=600, seed=0)
    assert single >= 0.90 and paired >= 0.93


def test_empty_parts_and_any_floating_type_are_read():
    features = torch.randn(statistics.CHUNK, 4)
    for part in (features, features[:10]):
        result = Statistics.stream([torch.empty(0, 4), part, torch.empty(0, 4)])
        assert result.n == len(part)
    rough = features[:100].bfloat16()
    torch.testing.assert_close(Statistics.of(rough).mean, rough.double().mean(0))


def test_nothing_to_reckon_with_is_one_line(tmp_path):
    small, large = (Statistics.of(torch.randn(9, d)) for d in (2, 3))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for call, message in (
        (lambda: statistics.total([]), "no statistics to add up"),
        (lambda: statistics.extrapolate([small], small), "at least two blocks, not 1"),
        (lambda: statistics.jackknife(lambda: 0.0), "not none"),
        (lambda: statistics.frechet_distance(small, large), "2 and 3 numbers differ"),
        (lambda: Statistics.load(tmp_path / "other.npz"), "mean, n, scatter missing"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
