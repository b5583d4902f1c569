"""Metrics: FID and its uncertainty, KID, precision and recall, nearest neighbours."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pndm._errors import InputError
from pndm.evaluation import statistics
from pndm.evaluation.features import LABELS
from pndm.evaluation.reference import Reference
from pndm.evaluation.statistics import Moments, Statistics

FEWEST_PER_FEATURE = 3
"""Images per feature from which the jackknife is used.

Below, the bias is not of order 1/n, and removing that order leaves more than a standard error: at
n = D the corrected distance of 64 features is 11 too low ± 1, at n = 3·D 0.5 ± 0.4.
"""


def fid(
    blocks: Sequence[Statistics], reference: Reference, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Compute the Fréchet distance of samples to a reference, as an entry of a record.

    `value` is biased by the number n of images, as every published FID is. With BLOCKS blocks of
    at least FEWEST_PER_FEATURE·D images in all there are also the jackknife's `bias_corrected`
    value, standard error `se` and 95 % interval `low` … `high`, and `infinity`, the value
    extrapolated to n → ∞; they take 32 eigenproblems of D × D, solved on `device`, and are None
    otherwise. Warns if there are fewer images.
    """
    whole = statistics.total(blocks)
    dimension = len(reference.mean)
    if len(whole.mean) != dimension:
        raise InputError(f"{len(whole.mean)} features against a reference of {dimension}")
    for n, what in ((whole.n, "samples"), (reference.n, "reference images")):
        if n < FEWEST_PER_FEATURE * dimension:
            warnings.warn(
                f"{n} {what} for {dimension} features: with fewer than "
                f"{FEWEST_PER_FEATURE * dimension} the distance is mostly bias",
                stacklevel=2,
            )
    value = distance(whole, reference)
    names = ("bias_corrected", "se", "low", "high", "infinity")
    interval: dict[str, float | None] = dict.fromkeys(names)
    if len(blocks) == statistics.BLOCKS and whole.n >= FEWEST_PER_FEATURE * dimension:
        estimate = statistics.distance(blocks, reference, device)
        interval = {name: getattr(estimate, name) for name in names[:-1]}
        interval["infinity"] = statistics.extrapolate(blocks, reference, device)
    return {
        "value": value,
        **interval,
        "n": whole.n,
        "metric": LABELS.get(reference.extractor, f"FID on {reference.extractor}"),
        "extractor": reference.extractor,
        "reference": reference.label,
    }


def distance(a: Moments, b: Moments) -> float:
    """torch-fidelity's Fréchet distance; `statistics.frechet_distance` is ours."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    pair = [{"mu": m.mean.numpy(), "sigma": m.covariance.numpy()} for m in (a, b)]
    return fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]


def kid(
    generated: Tensor, real: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Compute the kernel distance (Bińkowski et al. 2018) of features [N, D] and [M, D].

    Mean `value` and `sd` over random subsets of at most `subset_size` images.
    """
    subset_size = min(subset_size, len(generated), len(real))
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    results = kid_features_to_metric(
        generated.double(),
        real.double(),
        kid_subsets=subsets,
        kid_subset_size=subset_size,
        rng_seed=seed,
        verbose=False,
    )
    numbers = {"value": results[KEY_METRIC_KID_MEAN], "sd": results[KEY_METRIC_KID_STD]}
    return {**numbers, "subsets": subsets, "subset_size": subset_size, "seed": seed}


def precision_recall(generated: Tensor, real: Tensor, neighbours: int = 3) -> dict[str, float]:
    """Compute precision, recall (Kynkäänniemi et al. 2019) of features [N, D] against [M, D]."""
    from torch_fidelity.metric_prc import (
        KEY_METRIC_PRECISION,
        KEY_METRIC_RECALL,
        prc_features_to_metric,
    )

    results = prc_features_to_metric(
        generated.double(), real.double(), prc_neighborhood=neighbours, verbose=False
    )
    numbers = {"precision": results[KEY_METRIC_PRECISION], "recall": results[KEY_METRIC_RECALL]}
    return {**numbers, "neighbours": neighbours}


def split_half_fid(real: Tensor, seeds: Iterable[int] = range(10)) -> dict[str, Any]:
    """Estimate the FID of perfect samples: that of random halves of real features [N, D].

    `value` and `sd` over random halvings, `n` in each half. `perfect` is the same at N samples
    against N reference images, the bias being proportional to 1/n + 1/n_reference.
    """
    n = len(real) // 2
    values = []
    for seed in seeds:
        order = torch.randperm(len(real), generator=torch.Generator("cpu").manual_seed(seed))
        a, b = (Statistics.of(real[half]) for half in (order[:n], order[n:]))
        values.append(distance(a, b))
    value = float(np.mean(values))
    scale = (2 / len(real)) / (1 / n + 1 / (len(real) - n))
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"value": value, "sd": sd, "n": n, "perfect": value * scale, "n_perfect": len(real)}


def nearest_neighbours(images: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [N] and index [N] of the image in `data` [M, C, H, W] nearest to each of `images`
    [N, C, H, W]: Euclidean in pixels, uint8 on a scale from 0 to 1."""
    for batch in (images, data):
        if batch.dtype != torch.uint8:
            raise TypeError(f"neighbours are of uint8 images, not {batch.dtype}")
    a, b = (batch.flatten(1).double() / 255 for batch in (images, data))
    nearest = [
        # not by inner products, which are inaccurate for distances near 0
        torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        for part in a.split(256)
    ]
    return torch.cat([n.values for n in nearest]), torch.cat([n.indices for n in nearest])
