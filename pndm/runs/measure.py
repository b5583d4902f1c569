"""Metrics of a run's images: FID, and optionally KID, precision and recall."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from pndm._memory import free_memory, is_out_of_memory
from pndm.config.schema import Run
from pndm.evaluation import metrics
from pndm.evaluation.features import Extractor, MissingReference, load_extractor
from pndm.evaluation.reference import (
    Reference,
    ReferenceMismatch,
    load_reference,
    reference_features,
)
from pndm.evaluation.statistics import BLOCKS, Statistics
from pndm.runs.job import Job

MIN_SAMPLES = {"fid": 2, "kid": 2, "prc": 4}
"""The minimum number of images of each metric."""


@dataclass(frozen=True, eq=False)
class Evaluator:
    """A feature extractor and the reference statistics to compare with."""

    extractor: Extractor
    reference: Reference


@dataclass(frozen=True)
class Skipped:
    """The reason why a run has no evaluator."""

    reason: str


def load_evaluator(cfg: Run, device: torch.device) -> Evaluator | Skipped:
    """Return the evaluator of a run, or the reason why there is none."""
    if cfg.fid == "off":
        return Skipped("fid=off")
    data = cfg.dataset
    try:
        extractor = load_extractor(data.extractor, device)
        return Evaluator(extractor, load_reference(data.name, extractor, root=data.root))
    except MissingReference as error:
        return Skipped(str(error))


def measure(job: Job, evaluator: Evaluator | Skipped) -> dict[str, Any]:
    """Compute the entries `fid`, `kid` and `prc` of a record, or the reasons for skipping them."""
    cfg = job.cfg
    if isinstance(evaluator, Skipped):
        others = [name for name in ("kid", "prc") if getattr(cfg, name) != "off"]
        skipped = {name: skip(name, evaluator.reason) for name in others}
        return {"fid": skipped_fid(cfg, evaluator.reason), **skipped}
    if cfg.samples < MIN_SAMPLES["fid"]:
        fid = skipped_fid(cfg, "one image has no covariance: raise samples")
    else:
        fid = compute_fid(blocks(job, evaluator.extractor), evaluator)
    return {"fid": fid, **extra_metrics(job, evaluator.extractor)}


def compute_fid(samples: list[Statistics], evaluator: Evaluator) -> dict[str, Any]:
    """FID with its uncertainty, on the extractor's device, or on the CPU where memory is short."""
    device = evaluator.extractor.device
    try:
        return metrics.fid(samples, evaluator.reference, device)
    except RuntimeError as error:
        if device.type == "cpu" or not is_out_of_memory(error):
            raise
    free_memory(device)
    return metrics.fid(samples, evaluator.reference)


def extra_metrics(job: Job, extractor: Extractor) -> dict[str, Any]:
    """Compute KID, precision and recall if enabled, or the reasons for skipping them."""
    cfg = job.cfg
    functions: dict[str, Callable[..., dict[str, Any]]]
    functions = {"kid": metrics.kid, "prc": metrics.precision_recall}
    results: dict[str, Any] = {}
    for name, function in functions.items():
        if getattr(cfg, name) == "off":
            continue
        if cfg.samples < MIN_SAMPLES[name]:
            results[name] = skip(
                name, f"it takes {MIN_SAMPLES[name]} images at least: raise samples"
            )
            continue
        try:
            real = reference_features(cfg.dataset.name, extractor, cfg.dataset.root)
        except (MissingReference, ReferenceMismatch) as error:
            results[name] = skip(name, str(error))
            continue
        generated = torch.cat([*shard_features(job, extractor, 0, cfg.samples)])
        results[name] = function(generated, real)
    return results


def skip(name: str, reason: str) -> dict[str, str]:
    """Print why a metric is skipped; return its entry of the record."""
    print(f"{name} is skipped: {reason}")
    return {"reason": reason}


def skipped_fid(cfg: Run, reason: str) -> dict[str, Any]:
    """The record's entry for a skipped FID, with the reason."""
    empty = {"value": None, "extractor": cfg.dataset.extractor, "se": None, "reference": None}
    return {**empty, "reason": reason}


def blocks(job: Job, extractor: Extractor) -> list[Statistics]:
    """Feature statistics of equal blocks of the run, streamed from its shards."""
    samples = job.cfg.samples
    count = min(BLOCKS, samples // 2)
    edges = [samples * i // count for i in range(count + 1)]
    return [Statistics.stream(shard_features(job, extractor, *e)) for e in pairwise(edges)]


def shard_features(job: Job, extractor: Extractor, start: int, end: int) -> Iterator[torch.Tensor]:
    """Yield the features of images start … end−1, shard by shard."""
    for shard in range(len(job.shards)):
        first, after = job.shards.first(shard), job.shards.first(shard + 1)
        if first < end and start < after:
            rows = (job.features(extractor).load(shard) or {})["features"]
            yield torch.from_numpy(rows[max(start - first, 0) : end - first])
