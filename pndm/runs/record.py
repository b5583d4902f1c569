"""The record of a run: its metadata, whether it is complete, how it is printed."""

import contextlib
import dataclasses
import json
import shlex
import sys
import time
import traceback
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pndm import learned
from pndm._errors import InputError, PndmError, one_line
from pndm._files import read_json, write_json
from pndm._provenance import commit, hardware, versions
from pndm.config.schema import Run
from pndm.models import locations, registry
from pndm.runs.identity import code_hash
from pndm.runs.job import Job

SCHEMA = 1
"""Version of the record's keys."""


def run_metadata(job: Job) -> dict[str, Any]:
    """The run metadata of a record, known before sampling."""
    cfg = job.cfg
    plan = learned.read(cfg.plan) if cfg.plan is not None else None
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
        **({"plan": {"name": plan.name, "sha256": plan.digest}} if plan else {}),
        "settings": {
            "solver": cfg.solver,
            "schedule": cfg.schedule,
            "model": dataclasses.asdict(cfg.model),
        },
        "weights": {
            "file": job.weights.name,
            "sha256": locations.weights_sha256(job.weights),
            "ema": None if cfg.model.checkpoint else registry.find(cfg.model.name).ema,
        },
        "key": job.key,
        "code": code_hash(),
        "commit": commit(),
        "versions": versions(),
        "machine": hardware(job.device),
        "command": shlex.join(["python", *sys.argv]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def is_complete(job: Job) -> bool:
    """Whether there is a complete record, with the requested image files next to it."""
    record = read_json(job.folder / "metrics.json")
    if record is None:
        return False
    schema = record.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(
            f"{job.folder / 'metrics.json'} was written by a newer version of pndm "
            f"(schema {schema}, this version knows {SCHEMA}): update pndm, or change outputs="
        )
    if schema != SCHEMA or record.get("status") != "complete" or not record.get("nfe"):
        return False
    fid, seconds = record.get("fid"), record.get("seconds")
    if not isinstance(fid, dict) or not isinstance(seconds, dict):
        return False
    has_numbers = "value" in fid and {"sampling", "features"} <= seconds.keys()
    return has_numbers and has_pictures(job.folder, job.cfg)


def has_pictures(folder: Path, cfg: Run) -> bool:
    """Whether the requested image files exist and none is empty."""
    if cfg.save_images == "npz":
        return zipfile.is_zipfile(folder / "images.npz")
    if cfg.save_images == "png":
        non_empty = [path.stat().st_size > 0 for path in folder.glob("images/*.png")]
        return len(non_empty) >= cfg.samples and all(non_empty)
    return (folder / "samples.png").exists()


def record_failure(folder: Path, metadata: dict[str, Any], error: BaseException) -> None:
    """Write an error to status.json, and to metrics.json unless that is complete.

    A bug includes its traceback; an error that a user can fix is one line.
    """
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    failed = {**metadata, "status": status, "error": f"{type(error).__name__}: {one_line(error)}"}
    if not isinstance(error, PndmError | KeyboardInterrupt):
        failed["traceback"] = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):  # a full disk must not hide the error itself
        write_json(folder / "status.json", failed)
        record = folder / "metrics.json"
        if (read_json(record) or failed)["status"] != "complete":
            write_json(record, {**failed, "nfe": None, "fid": None, "seconds": None})


def show_finished(folder: Path) -> Path:
    """Print an existing record and repair status.json; return the record's path."""
    record, status = folder / "metrics.json", folder / "status.json"
    result = json.loads(record.read_text(encoding="utf-8"))
    if (read_json(status) or {}).get("status") != "complete":
        write_json(status, result)
    show(result)
    return record


def show(record: dict[str, Any]) -> None:
    """Print the result as a small table."""
    fid, seconds = record["fid"], record["seconds"]
    value = f"not computed: {fid.get('reason')}"
    if fid["value"] is not None:
        value = f"{fid['value']:.3f} ({fid['extractor']} features, {record['samples']} images)"
        if fid["se"]:
            value += f"; without its bias {fid['bias_corrected']:.3f} ± {fid['se']:.3f}"
    table = Table(show_header=False)
    table.add_row("data", f"{record['dataset']}, {record['schedule']}, {record['model']}")
    solver = record.get("plan", {}).get("name", record["solver"])
    table.add_row("solver", f"{solver}, {record['steps']} steps, {record['nfe']:g} NFE")
    table.add_row("FID", value)
    for name, numbers in ((name, record[name]) for name in ("kid", "prc") if name in record):
        values = (f"{key} {value:.4g}" for key, value in numbers.items() if key != "reason")
        table.add_row(name.upper(), numbers.get("reason") or ", ".join(values))
    table.add_row(
        "time", f"{seconds['sampling']:.1f} s sampling, {seconds['features']:.1f} s features"
    )
    Console().print(table)
    if record.get("wandb"):
        print(f"W&B: {record['wandb']}")


def finished_job(cfg: Run) -> Job:
    """The job of a run, in the precision that `auto` meant where it was done."""
    job = Job(cfg)
    if cfg.precision == "auto" and not job.folder.exists():
        others = [Job(dataclasses.replace(cfg, precision=name)) for name in ("tf32", "fp32")]
        return next((other for other in others if other.folder.exists()), job)
    return job


def summarize(runs: Sequence[Run]) -> int:
    """Print the cells of a sweep as a table; return the number of incomplete runs."""
    table = Table("schedule", "solver", "steps", "NFE", "FID", "seconds", "status")
    unfinished, last = 0, None
    for job in map(finished_job, runs):
        cfg, folder = job.cfg, job.folder
        status = {"status": "not run"} | (read_json(folder / "status.json") or {})
        try:
            complete = is_complete(job) and status["status"] == "complete"
        except InputError as error:
            complete, status = False, {"status": "failed", "error": one_line(error)}
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
