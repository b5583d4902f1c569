"""(d) Feature statistics and their Fréchet distance, compared with torch-fidelity."""

from collections.abc import Iterator

import numpy as np
import torch
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)

from benchmarks.measure import Row, alternate
from pndm.evaluation.statistics import Statistics, frechet_distance

IMAGES, DIMENSION, SHARD = 50_000, 2048, 500


def measure(device: torch.device, pairs: int) -> Iterator[Row]:
    """Seconds for the statistics, for the distance, and for both."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(DIMENSION, DIMENSION, generator=generator) / DIMENSION**0.5
    a, b = (torch.randn(IMAGES, DIMENSION, generator=generator) @ mix for _ in range(2))
    b = 1.1 * b + 0.05

    def ours() -> Statistics:
        return Statistics.stream(a.split(SHARD))  # as they come while sampling

    def numpy() -> tuple[np.ndarray, np.ndarray]:
        rows = a.double().numpy()
        return rows.mean(axis=0), np.cov(rows, rowvar=False)

    ours_a, other = ours(), Statistics.of(b)
    fidelity, others = fid_features_to_statistics(a), fid_features_to_statistics(b)
    cases = (
        ("statistics, streamed in shards, and numpy's", ours, numpy, None),
        ("statistics", ours, lambda: fid_features_to_statistics(a), None),
        (
            "distance",
            lambda: frechet_distance(ours_a, other),
            lambda: fid_statistics_to_metric(fidelity, others, verbose=False),
            2.0,
        ),
        (
            "statistics and distance",
            lambda: frechet_distance(ours(), other),
            lambda: fid_statistics_to_metric(fid_features_to_statistics(a), others, verbose=False),
            1.3,
        ),
    )
    actual = frechet_distance(ours_a, other)
    expected = fid_statistics_to_metric(fidelity, others, verbose=False)[KEY_METRIC_FID]
    for case, run, another, aim in cases:
        own_time, other_time, ratio = alternate(run, another, pairs)
        yield Row(
            "Fréchet",
            f"{case}, {IMAGES:,} × {DIMENSION}",
            "s",
            own_time,
            other_time,
            ratio,
            f"{aim}×" if aim else "",
            ratio >= aim if aim else None,
            abs(actual - expected) / expected,
        )
