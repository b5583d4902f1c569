"""One run: sample what is missing, measure, and leave a record.

A run's folder is named by what determines its result: the configuration without its volatile
keys, the weights, the code. The same command again finds it there.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from pndm import config, evaluation, images, interrupts, records
from pndm.models import registry
from pndm.processes import run_workers, tasks
from pndm.statistics import BLOCKS
from pndm.tracking import Mirror
from pndm.worker import Job, missing, work

SCHEMA = 1
"""Version of the record's keys."""

PICTURE = 100
"""Images in the picture of samples."""

TABLE = 64
"""Images in the mirror's table of images by seed."""

LONG = 600
"""Seconds from which a run on a CPU says beforehand how long it will take."""

FEWEST = {"kid": 2, "prc": 4}
"""Images that the kernel distance, and precision and recall, need."""

LARGE = 2**28
"""Bytes from which a run says beforehand what its images will take."""


def run(cfg: config.Run, sweep: str | None = None) -> Path:
    """Make a run (of a `sweep`), or what is missing of it; the path of its metrics.json.

    A complete run is only shown, unless `cfg.overwrite`. Whatever stops it leaves the finished
    shards and a status.json that says why; the exception goes on. Tasks of one Slurm step share
    its shards; the first of them makes the record.
    """
    began = time.monotonic()
    job = Job(cfg)
    folder = run_folder(job)
    if is_complete(folder, cfg) and not cfg.overwrite:  # asked first: it refuses newer records
        print("complete already (overwrite=true makes it again)")
        return conclude(folder)
    if cfg.overwrite and tasks() > 1:
        raise ValueError(f"overwrite=true in {tasks()} tasks at once: use a single one")

    what = {**describe(job), "sweep": sweep}
    folder.mkdir(parents=True, exist_ok=True)
    with records.lock(folder / "run") as mine:
        if mine:
            return make_run(job, folder, what, began)
    if tasks() == 1:
        raise BlockingIOError(f"{folder} is being made by another process: wait for it")
    extractor, _, _ = judge(job)
    make_shards(job, folder, extractor, missing(job, extractor))
    with records.lock(folder / "run", wait=True):
        return make_run(job, folder, what, began)


def make_run(job: Job, folder: Path, what: dict[str, Any], began: float) -> Path:
    """Make a run whose folder is locked, unless another task has just done so."""
    cfg = job.cfg
    if cfg.overwrite:
        job.forget()
    elif is_complete(folder, cfg):
        return conclude(folder)
    records.write_json(folder / "status.json", {"status": "running", **what})
    records.atomic(folder / "config.yaml", lambda path: path.write_text(config.as_yaml(cfg)))
    name = f"{cfg.dataset.name} {cfg.schedule['name']} {cfg.solver['name']} {cfg.steps}"
    account = {"project": cfg.wandb.project, "entity": cfg.wandb.entity}
    try:
        with Mirror(
            cfg.wandb.mode, folder, name=name, group=what["sweep"], config=what, **account
        ) as mirror:
            measured = make(job, folder)
            measured["seconds"]["total"] = round(time.monotonic() - began, 3)
            result = {**what, **measured, "status": "complete", "wandb": mirror.sync}
            mirror.log({"fid": result["fid"]["value"], "nfe": result["nfe"], **result["seconds"]})
            mirror.image("samples", folder / "samples.png")
            mirror.table("images", job.seeds(0)[:TABLE], pixels(job))
        records.write_json(folder / "metrics.json", result)
    except BaseException as error:
        record_failure(folder, what, interrupts.meant(error))
        interrupts.check()
        raise
    return conclude(folder)


def conclude(folder: Path) -> Path:
    """Show a complete record, and have status.json agree: what ends a run may part the two."""
    record, status = folder / "metrics.json", folder / "status.json"
    result = json.loads(record.read_text())
    if (read_json(status) or {}).get("status") != "complete":
        records.write_json(status, result)
    show(result)
    return record


def make(job: Job, folder: Path) -> dict[str, Any]:
    """Sample what is missing, measure, write the pictures; what the record says of it."""
    cfg = job.cfg
    extractor, reference, reason = judge(job)
    todo = missing(job, extractor)
    make_shards(job, folder, extractor, todo)
    write_pictures(job, folder)

    began = time.monotonic()
    if extractor is None or reference is None:
        fid = not_measured(cfg, reason)
    elif cfg.samples < 2:
        fid = not_measured(cfg, "one image has no covariance: raise samples")
    else:
        fid = evaluation.fid(blocks(job, extractor), reference)
    more = others(job, extractor) if extractor is not None else {}
    measuring = time.monotonic() - began
    if extractor is not None:
        store = job.features(extractor)
        measuring += sum(float((store.load(i) or {})["seconds"]) for i in range(job.shards))
    evaluations, sampling, compiled = [], 0.0, set()
    for shard in map(job.image_shard, range(job.shards)):  # one's images in memory at a time
        evaluations.append(shard["nfe"])
        sampling += float(shard["seconds"])
        compiled.add(str(shard["compile"]))
    nfe = np.concatenate(evaluations)
    return {
        "nfe": int(nfe[0]) if (nfe == nfe[0]).all() else float(nfe.mean()),
        "nfe_range": [int(nfe.min()), int(nfe.max())],
        "fid": fid,
        **more,
        "seconds": {"sampling": round(sampling, 3), "features": round(measuring, 3)},
        "shards": {"made": len(todo), "found": job.shards - len(todo)},
        "device": str(job.device),
        "batch_size": job.batch_size,
        "compile": " and ".join(sorted(compiled)),
    }


def make_shards(
    job: Job, folder: Path, extractor: evaluation.Extractor | None, todo: Sequence[int]
) -> None:
    """Make the missing shards, in this process or in several, behind a progress bar."""
    if not todo:
        return
    cfg = job.cfg
    count = sum(len(job.seeds(shard)) for shard in todo)
    nfe = config.solver(cfg.solver).nfe(cfg.steps) if isinstance(cfg.grid, str) else None
    tell_cost(job, count, nfe)
    if config.processes(cfg) > 1:
        with tqdm(total=cfg.samples, unit="image", disable=not cfg.progress) as bar:
            run_workers(job, folder, bar)
    total = None if nfe is None else nfe * count
    with tqdm(total=total, unit="eval", unit_scale=True, disable=not cfg.progress) as bar:

        def progress(evaluated: int) -> None:
            interrupts.check()
            bar.update(evaluated)

        work(job, extractor, progress)


def tell_cost(job: Job, count: int, nfe: int | None) -> None:
    """Say beforehand what disk the images take, and what time where that is long."""
    size = count * math.prod(job.shape)
    if size > LARGE:
        print(f"{count} images will take about {size / 2**30:.1f} GiB in {job.folder}")
    if nfe is not None and job.device.type == "cpu":
        seconds = job.seconds_per_evaluation() * nfe * count
        if seconds > LONG:
            hours = f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds / 60:.0f} min"
            print(f"{count} images of {nfe} evaluations each take about {hours} on this CPU")


def judge(
    job: Job,
) -> tuple[evaluation.Extractor | None, evaluation.Reference | None, str | None]:
    """The feature extractor and the reference, or neither and the reason why."""
    cfg = job.cfg
    if cfg.fid == "off":
        return None, None, "fid=off"
    try:
        extractor = evaluation.extractor(cfg.dataset.extractor, job.device)
        root = cfg.dataset.root
        return extractor, evaluation.reference(cfg.dataset.name, extractor, root=root), None
    except evaluation.MissingReference as error:
        print(f"FID is skipped: {error}")
        return None, None, str(error)


def others(job: Job, extractor: evaluation.Extractor) -> dict[str, Any]:
    """KID, precision and recall where they are asked for; or why there are none."""
    cfg, found = job.cfg, {}
    asked: dict[str, Callable[..., dict[str, Any]]]
    asked = {"kid": evaluation.kid, "prc": evaluation.precision_recall}
    for name, measure in asked.items():
        if getattr(cfg, name) == "off":
            continue
        if cfg.samples < FEWEST[name]:
            reason = f"it takes {FEWEST[name]} images at least: raise samples"
            print(f"{name} is skipped: {reason}")
            found[name] = {"reason": reason}
            continue
        try:
            real = evaluation.reference_features(cfg.dataset.name, extractor, cfg.dataset.root)
            found[name] = measure(torch.cat([*features(job, extractor, 0, cfg.samples)]), real)
        except evaluation.MissingReference as error:
            print(f"{name} is skipped: {error}")
            found[name] = {"reason": str(error)}
    return found


def not_measured(cfg: config.Run, reason: str | None) -> dict[str, Any]:
    """The record of an FID that was not computed, and why."""
    nothing = {"value": None, "extractor": cfg.dataset.extractor, "se": None, "reference": None}
    return {**nothing, "reason": reason}


def blocks(job: Job, extractor: evaluation.Extractor) -> list[evaluation.Statistics]:
    """Feature sums of even blocks of the run, streamed from its shards."""
    samples = job.cfg.samples
    count = min(BLOCKS, samples // 2)
    edges = [samples * i // count for i in range(count + 1)]
    return [evaluation.Statistics.stream(features(job, extractor, *e)) for e in pairwise(edges)]


def features(
    job: Job, extractor: evaluation.Extractor, start: int, end: int
) -> Iterator[torch.Tensor]:
    """The features of images start … end−1, as their shards hold them."""
    for shard in range(job.shards):
        first, after = job.first(shard), job.first(shard + 1)
        if first < end and start < after:
            rows = (job.features(extractor).load(shard) or {})["features"]
            yield torch.from_numpy(rows[max(start - first, 0) : end - first])


def write_pictures(job: Job, folder: Path) -> None:
    """samples.png, and every image where `save_images` asks for them."""
    cfg = job.cfg
    few = [image for image, _ in zip(pixels(job), range(PICTURE), strict=False)]
    tiles = torch.from_numpy(np.stack(few))
    records.atomic(folder / "samples.png", lambda path: images.save_grid(tiles, path))
    if cfg.save_images == "npz":
        records.atomic(folder / "images.npz", lambda path: write_npz(job, path))
    if cfg.save_images == "png":
        (folder / "images").mkdir(exist_ok=True)
        for i, image in enumerate(pixels(job)):
            path = folder / "images" / f"{i:06d}.png"
            records.atomic(path, partial(images.save_png, torch.from_numpy(image)))


def pixels(job: Job) -> Iterator[np.ndarray]:
    """The images in seed order, uint8 [C, H, W], one shard in memory at a time."""
    for shard in range(job.shards):
        yield from job.image_shard(shard)["images"]


def write_npz(job: Job, path: Path) -> None:
    """`images`, uint8 [samples, H, W, C], written image by image."""
    stream = (image.transpose(1, 2, 0) for image in pixels(job))
    first = next(stream)
    shape = (job.cfg.samples, *first.shape)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with (
        zipfile.ZipFile(path, "w") as archive,
        archive.open("images.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        file.write(first.tobytes())
        for image in stream:
            file.write(image.tobytes())


def summarize(runs: Sequence[config.Run]) -> int:
    """Show the cells of a sweep as a table; how many of all these runs are not complete."""
    table = Table("schedule", "solver", "steps", "NFE", "FID", "seconds", "status")
    unfinished, last = 0, None
    for cfg in runs:
        folder = run_folder(Job(cfg))
        status = {"status": "not run"} | (read_json(folder / "status.json") or {})
        try:
            complete = is_complete(folder, cfg) and status["status"] == "complete"
        except ValueError as error:
            complete, status = False, {"status": "failed", "error": config.one_line(error)}
        record = read_json(folder / "metrics.json") if complete else None
        unfinished += record is None
        last = folder / "metrics.json" if record else last
        row = [cfg.schedule["name"], cfg.solver["name"], str(cfg.steps)]
        if record:
            value = "" if record["fid"]["value"] is None else f"{record['fid']['value']:.3f}"
            row += [f"{record['nfe']:g}", value, f"{record['seconds']['total']:.1f}", "complete"]
        else:
            row += ["", "", "", " ".join([status["status"], status.get("error", "")])[:200]]
        table.add_row(*row)
    if len(runs) > 1:
        Console().print(table)
        print(f"record: {last}" if last else "no cell is complete")
    return unfinished


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def run_folder(job: Job) -> Path:
    """outputs/digits/linear/plms-50-0123456789ab."""
    cfg = job.cfg
    asked = cfg.samples, cfg.fid, cfg.kid, cfg.prc
    against = (
        None
        if cfg.fid == "off"
        else evaluation.fingerprint(cfg.dataset.name, cfg.dataset.extractor, cfg.dataset.root)
    )
    what = json.dumps([job.key, *asked, records.code(), cfg.dataset.extractor, against])
    name = f"{cfg.solver['name']}-{cfg.steps}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"
    return Path(cfg.outputs) / cfg.dataset.name / cfg.schedule["name"] / name


def is_complete(folder: Path, cfg: config.Run) -> bool:
    """Whether there is a complete record, and the images that are asked for beside it."""
    record = read_json(folder / "metrics.json")
    if record is None:
        return False
    schema = record.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise ValueError(
            f"{folder / 'metrics.json'} was written by a newer version of pndm "
            f"(schema {schema}, known is {SCHEMA}): update it, or change outputs="
        )
    if schema != SCHEMA or record.get("status") != "complete" or not record.get("nfe"):
        return False
    fid, seconds = record.get("fid"), record.get("seconds")
    if not isinstance(fid, dict) or not isinstance(seconds, dict):
        return False
    told = "value" in fid and {"sampling", "features"} <= seconds.keys()
    return told and has_pictures(folder, cfg)


def has_pictures(folder: Path, cfg: config.Run) -> bool:
    """Whether the images that are asked for lie beside the record, none of them empty."""
    if cfg.save_images == "npz":
        return zipfile.is_zipfile(folder / "images.npz")
    if cfg.save_images == "png":
        written = [path.stat().st_size > 0 for path in folder.glob("images/*.png")]
        return len(written) >= cfg.samples and all(written)
    return (folder / "samples.png").exists()


def describe(job: Job) -> dict[str, Any]:
    """What a record says before anything was sampled."""
    cfg = job.cfg
    return {
        "schema": SCHEMA,
        "solver": cfg.solver["name"],
        "schedule": cfg.schedule["name"],
        "dataset": cfg.dataset.name,
        "model": cfg.model.name,
        "steps": cfg.steps,
        "grid": cfg.grid,
        "convention": cfg.convention,
        "samples": cfg.samples,
        "seed": cfg.seed,
        "precision": cfg.precision,
        "settings": {
            "solver": cfg.solver,
            "schedule": cfg.schedule,
            "model": dataclasses.asdict(cfg.model),
        },
        "weights": {
            "file": job.weights.name,
            "sha256": records.sha256(job.weights),
            "ema": None if cfg.model.checkpoint else registry.find(cfg.model.name).ema,
        },
        "key": job.key,
        "code": records.code(),
        "commit": records.commit(),
        "versions": records.versions(),
        "machine": records.machine(),
        "command": " ".join(["python", *sys.argv]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def record_failure(folder: Path, what: dict[str, Any], error: BaseException) -> None:
    """Say in status.json, and in metrics.json where nothing complete stands, what went wrong."""
    how = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    failed = {**what, "status": how, "error": f"{type(error).__name__}: {config.one_line(error)}"}
    with contextlib.suppress(OSError):  # a full disk must not hide the error itself
        records.write_json(folder / "status.json", failed)
        record = folder / "metrics.json"
        if (read_json(record) or failed)["status"] != "complete":
            records.write_json(record, {**failed, "nfe": None, "fid": None, "seconds": None})


def show(record: dict[str, Any]) -> None:
    """The result as a small table."""
    fid, seconds = record["fid"], record["seconds"]
    value = f"not computed: {fid.get('reason')}"
    if fid["value"] is not None:
        value = f"{fid['value']:.3f} ({fid['extractor']} features, {record['samples']} images)"
        if fid["se"]:
            value += f"; without its bias {fid['bias_corrected']:.3f} ± {fid['se']:.3f}"
    table = Table(show_header=False)
    table.add_row("data", f"{record['dataset']}, {record['schedule']}, {record['model']}")
    table.add_row("solver", f"{record['solver']}, {record['steps']} steps, {record['nfe']:g} NFE")
    table.add_row("FID", value)
    for name, numbers in ((name, record[name]) for name in ("kid", "prc") if name in record):
        shown = (f"{key} {value:.4g}" for key, value in numbers.items() if key != "reason")
        table.add_row(name.upper(), numbers.get("reason") or ", ".join(shown))
    table.add_row(
        "time", f"{seconds['sampling']:.1f} s sampling, {seconds['features']:.1f} s features"
    )
    Console().print(table)
    if record.get("wandb"):
        print(f"W&B: {record['wandb']}")
