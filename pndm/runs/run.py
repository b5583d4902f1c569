"""One run: sample missing shards, evaluate, and write a record.

A run's folder is named by what determines its result (`pndm.runs.identity`), so the same command
finds it again. An interrupted or killed run keeps its finished shards and continues.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pndm._devices import device_errors
from pndm._errors import FileError, InputError
from pndm._files import file_lock, make_folder, write_atomic, write_json
from pndm.config.build import build_solver
from pndm.config.schema import Run, to_yaml
from pndm.evaluation.features import Extractor
from pndm.runs import interrupts
from pndm.runs.job import Job
from pndm.runs.measure import Skipped, load_evaluator, measure
from pndm.runs.pictures import TABLE_IMAGES, pixels, write_pictures
from pndm.runs.processes import process_count, run_workers, task_count
from pndm.runs.record import is_complete, record_failure, run_metadata, show_finished
from pndm.runs.timing import time_evaluations
from pndm.runs.tracking import WandbLogger
from pndm.runs.worker import incomplete_shards, process_shards

WARN_SECONDS = 600
"""Estimated seconds from which a CPU run prints its duration before it starts."""

WARN_BYTES = 2**28
"""Bytes from which a run prints the disk space of its images before it starts."""


def run_experiment(cfg: Run, sweep: str | None = None) -> Path:
    """Execute or resume a run (of a `sweep`); return the path of its metrics.json.

    A complete run is only printed, unless `cfg.overwrite`. On an error the finished shards remain
    and status.json says why; the exception is raised again. Tasks of one Slurm step share the
    shards; the first task to finish writes the record.
    """
    began = time.monotonic()
    job = Job(cfg)
    if is_complete(job) and not cfg.overwrite:  # first: it raises on newer records
        print("complete already (overwrite=true runs it again)")
        return show_finished(job.folder)
    if cfg.overwrite and task_count() > 1:
        raise InputError(f"overwrite=true in {task_count()} tasks at once: use a single task")

    metadata = {**run_metadata(job), "sweep": sweep}
    make_folder(job.folder)
    with file_lock(job.folder / "run") as locked:
        if locked:
            return run_locked(job, metadata, began)
    if task_count() == 1:
        raise FileError(f"{job.folder} is locked by another process: wait for it")
    evaluator = load_evaluator(cfg, job.device)
    extractor = None if isinstance(evaluator, Skipped) else evaluator.extractor
    make_shards(job, extractor, incomplete_shards(job, extractor))
    with file_lock(job.folder / "run", wait=True):
        return run_locked(job, metadata, began)


def run_locked(job: Job, metadata: dict[str, Any], began: float) -> Path:
    """Execute a run whose folder is locked, unless another task has just completed it."""
    cfg, folder = job.cfg, job.folder
    if cfg.overwrite:
        job.delete_shards()
    elif is_complete(job):
        return show_finished(folder)
    write_json(folder / "status.json", {"status": "running", **metadata})
    write_atomic(
        folder / "config.yaml", lambda path: path.write_text(to_yaml(cfg), encoding="utf-8")
    )
    name = f"{cfg.dataset.name} {cfg.schedule['name']} {cfg.solver['name']} {cfg.steps}"
    settings: dict[str, Any] = {"project": cfg.wandb.project, "entity": cfg.wandb.entity}
    settings |= {"name": name, "group": metadata["sweep"], "config": metadata}
    try:
        with WandbLogger(cfg.wandb.mode or "offline", folder, **settings) as logger:
            with device_errors(job.device):
                results = sample_and_evaluate(job)
            results["seconds"]["total"] = round(time.monotonic() - began, 3)
            record = {**metadata, **results, "status": "complete", "wandb": logger.sync}
            logger.log({"fid": record["fid"]["value"], "nfe": record["nfe"], **record["seconds"]})
            logger.image("samples", folder / "samples.png")
            logger.table("images", job.shards.seeds(0)[:TABLE_IMAGES], pixels(job))
        write_json(folder / "metrics.json", record)
    except BaseException as error:
        record_failure(folder, metadata, interrupts.as_interrupt(error))
        interrupts.check()
        raise
    return show_finished(folder)


def sample_and_evaluate(job: Job) -> dict[str, Any]:
    """Sample missing shards, evaluate, write image files; return the entries of the record."""
    evaluator = load_evaluator(job.cfg, job.device)
    if isinstance(evaluator, Skipped):
        extractor = None
        if evaluator.reason != "fid=off":
            print(f"FID is skipped: {evaluator.reason}")
    else:
        extractor = evaluator.extractor
    missing = incomplete_shards(job, extractor)
    make_shards(job, extractor, missing)
    write_pictures(job)

    began = time.monotonic()
    metrics = measure(job, evaluator)
    features = time.monotonic() - began
    shards = range(len(job.shards))
    if extractor is not None:
        store = job.features(extractor)
        features += sum(float((store.load(shard) or {})["seconds"]) for shard in shards)
    evaluations, sampling, compiled = [], 0.0, set()
    for shard in map(job.image_shard, shards):  # one shard in memory at a time
        evaluations.append(shard["nfe"])
        sampling += float(shard["seconds"])
        compiled.add(str(shard["compile"]))
    nfe = np.concatenate(evaluations)
    return {
        "nfe": int(nfe[0]) if (nfe == nfe[0]).all() else float(nfe.mean()),
        "nfe_range": [int(nfe.min()), int(nfe.max())],
        **metrics,
        "seconds": {"sampling": round(sampling, 3), "features": round(features, 3)},
        "shards": {"made": len(missing), "found": len(job.shards) - len(missing)},
        "device": str(job.device),
        "batch_size": job.batch_size.now,
        "compile": " and ".join(sorted(compiled)),
    }


def make_shards(job: Job, extractor: Extractor | None, missing: Sequence[int]) -> None:
    """Sample the missing shards, in this process or in several, with a progress bar."""
    if not missing:
        return
    cfg = job.cfg
    count = sum(len(job.shards.seeds(shard)) for shard in missing)
    is_counted = isinstance(cfg.grid, str) or cfg.plan is not None
    nfe = build_solver(cfg.solver).nfe(cfg.steps) if is_counted else None
    warn_if_expensive(job, count, nfe)
    if process_count(cfg) > 1:
        with tqdm(total=cfg.samples, unit="image", disable=not cfg.progress) as bar:
            run_workers(job, bar)
    total = None if nfe is None else nfe * count
    with tqdm(total=total, unit="eval", unit_scale=True, disable=not cfg.progress) as bar:

        def progress(images: int) -> None:
            interrupts.check()
            bar.update(images)

        process_shards(job, extractor, progress)


def warn_if_expensive(job: Job, count: int, nfe: int | None) -> None:
    """Print the disk space of the images, and the duration on a CPU, if they are large."""
    size = count * math.prod(job.shape)
    if size > WARN_BYTES:
        print(f"{count} images will take about {size / 2**30:.1f} GiB in {job.shard_folder}")
    if nfe is None or job.device.type != "cpu":
        return
    negligible = WARN_SECONDS / (nfe * count)
    each = time_evaluations(job.network, job.batch_size, negligible=negligible).seconds
    if each > negligible:
        seconds = each * nfe * count
        length = f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds / 60:.0f} min"
        print(f"{count} images of {nfe} evaluations each take about {length} on this CPU")
