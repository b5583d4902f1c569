"""A worker: processes every shard of a run that no other process has claimed.

    python -m pndm.runs.worker SETTINGS

A claim is a lock that the system releases whenever its process ends, so the shards of a dead
worker are taken over.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pndm._devices import resolve_device, use_device
from pndm._files import file_lock
from pndm.config.schema import from_yaml
from pndm.evaluation.features import Extractor, extract_in_chunks
from pndm.runs.batches import Progress, sample_batches
from pndm.runs.job import Job
from pndm.runs.measure import Skipped, load_evaluator
from pndm.runs.shards import Store

PARENT_PID = "PNDM_PARENT"
"""Environment variable with the process ID of the parent."""


def process_shards(
    job: Job,
    extractor: Extractor | None,
    progress: Progress,
    proceed: Callable[[], bool] = lambda: True,
) -> None:
    """Process every missing shard that is unclaimed, then those that other processes abandoned.

    Any number of processes may do this at once. It stops before a shard once `proceed` returns
    False.
    """
    for wait in (False, True):
        for shard in range(len(job.shards)):
            if not proceed():
                return
            if is_complete(job, shard, extractor):
                continue
            with file_lock(job.shard_folder / "locks" / f"{shard:05d}", wait) as claimed:
                if not claimed or is_complete(job, shard, extractor):
                    continue
                sample_images(job, shard, progress)
                if extractor is not None:
                    extract_features(job, shard, extractor)


def incomplete_shards(job: Job, extractor: Extractor | None) -> list[int]:
    """The incomplete shards; damaged ones are deleted and reported."""
    return [shard for shard in range(len(job.shards)) if not is_complete(job, shard, extractor)]


def is_complete(job: Job, shard: int, extractor: Extractor | None) -> bool:
    """Whether a shard has all its images, and their features if there is an extractor."""
    count = len(job.shards.seeds(shard))
    if shard_length(job.images, shard, "nfe") < count:
        return False
    return extractor is None or shard_length(job.features(extractor), shard, "features") >= count


def shard_length(store: Store, shard: int, array: str) -> int:
    """The length of an array of a shard, 0 if the shard is missing or damaged."""
    arrays = store.load(shard)
    if arrays is None and store.path(shard).exists():
        print(f"damaged, computed again: {store.path(shard)}", flush=True)
        store.path(shard).unlink(missing_ok=True)
    return 0 if arrays is None else len(arrays[array])


def sample_images(job: Job, shard: int, progress: Progress) -> None:
    """Sample the missing images of a shard and save them."""
    old = job.images.load(shard)
    count = 0 if old is None else len(old["nfe"])
    seeds = job.shards.seeds(shard)[count:]
    if not seeds:
        return
    began = time.monotonic()
    whole = len(job.shards.seeds(0))
    batches = sample_batches(job.cfg, job.network, seeds, job.batch_size, progress, whole)
    pixels, nfe = (tensor.numpy() for tensor in batches)
    seconds = time.monotonic() - began
    if old is not None:
        pixels, nfe = np.concatenate([old["images"], pixels]), np.concatenate([old["nfe"], nfe])
        seconds += float(old["seconds"])
    timing = {"seconds": np.array(seconds), "compile": np.array(job.network.mode or "off")}
    job.images.save(shard, {"images": pixels, "nfe": nfe, **timing})


def extract_features(job: Job, shard: int, extractor: Extractor) -> None:
    """Extract the features of a shard's images and save them."""
    began = time.monotonic()
    pixels = torch.from_numpy(job.image_shard(shard)["images"])
    features = extract_in_chunks(extractor, pixels)
    seconds = np.array(time.monotonic() - began)
    job.features(extractor).save(shard, {"features": features.numpy(), "seconds": seconds})


def main(path: str) -> None:
    """Run a worker process, with the settings in `path`."""
    cfg = from_yaml(Path(path))
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if resolve_device(cfg.device) == "cuda":
        cfg = dataclasses.replace(cfg, device=f"cuda:{rank % torch.cuda.device_count()}")
    use_device(cfg.device)
    job = Job(cfg)
    evaluator = load_evaluator(cfg, job.device)
    extractor = None if isinstance(evaluator, Skipped) else evaluator.extractor
    process_shards(job, extractor, lambda images: None, parent_is_alive)


def parent_is_alive() -> bool:
    """Whether the process that started the workers is still running."""
    try:
        os.kill(int(os.environ[PARENT_PID]), 0)
    except (KeyError, ProcessLookupError):
        return PARENT_PID not in os.environ
    return True


if __name__ == "__main__":
    main(sys.argv[1])
