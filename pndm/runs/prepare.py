"""Getting what runs need before they begin: downloads, then reference statistics."""

import os
from collections.abc import Callable, Sequence

import torch

from pndm._devices import resolve_device
from pndm._download import Unavailable, download, mirror
from pndm._errors import InputError, one_line
from pndm._files import file_lock
from pndm.config.schema import Run
from pndm.data import download as data_download
from pndm.data.databases import MissingData
from pndm.data.download import NotAsked
from pndm.evaluation.features import inception_remote, load_extractor
from pndm.evaluation.reference import compute_reference, features_path, reference_path
from pndm.models.download import fetch as fetch_weights
from pndm.models.locations import OFFLINE
from pndm.models.registry import find
from pndm.runs.needs import Kind, Need, first_to_miss, show

FETCHED: tuple[Kind, ...] = ("weights", "Inception", "images")
"""What is downloaded; the rest is computed."""


def prepare(runs: Sequence[Run], compute: bool = True) -> list[str]:
    """Get what is missing for some runs, once for all; why an FID will be skipped, if so.

    `fetch=off` never downloads. Without `compute`, the reference statistics are left to the
    machine that runs. InputError or FileError where weights cannot be had, where a file is another
    than the publisher's, or where the disk is full.
    """
    mirror()  # refuses an address that is none
    first, offline = first_to_miss(runs), any(run.fetch == "off" for run in runs)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = os.environ[OFFLINE] = "1"
        refuse_missing_weights(list(first))
    elif first:
        show(first)
    reasons: list[str] = []
    failed: set[str] = set()
    for need, run in first.items():
        if need.name in failed or ("" in failed and run.dataset.extractor == "inception"):
            continue
        try:
            if need.kind in FETCHED:
                fetch(need, run.progress, offline)
            elif compute:
                make_reference(run, need)
        except (Unavailable, NotAsked, NotPublished) as error:
            if need.kind == "weights":
                raise
            failed.add(need.name)
            reasons.append(one_line(error))
            if not offline:  # the run itself says what is missing
                print(f"without an FID: {reasons[-1]}", flush=True)
    return reasons


def refuse_missing_weights(missing: Sequence[Need]) -> None:
    """InputError that names all that is missing, if weights are."""
    if any(need.kind == "weights" for need in missing):
        listing = "; ".join(map(str, missing))
        raise InputError(f"fetch=off, and this is missing: {listing}")


class NotPublished(MissingData):
    """Images that nobody publishes, and that are not there."""


def fetch(need: Need, progress: bool, offline: bool = False) -> None:
    """Download one thing."""
    if offline:
        raise NotAsked(f"fetch=off, and this is missing: {need}")
    if need.kind == "images" and need.source == "your own":
        raise NotPublished(f"there are no images in {need.path}: name them by dataset.root=FOLDER")
    actions: dict[str, Callable[[], object]] = {
        "weights": lambda: fetch_weights(find(need.name), progress),
        "Inception": lambda: download(inception_remote(), progress),
        "images": lambda: data_download.fetch_unasked(need.name, progress),
    }
    actions[need.kind]()


def make_reference(run: Run, need: Need) -> None:
    """Compute the reference statistics of a run's dataset, and keep the features if needed.

    Of two processes that do so at once the second waits for the first.
    """
    data = run.dataset
    device = torch.device(resolve_device(run.device))
    statistics = reference_path(data.name, data.extractor, need.root)
    with file_lock(need.path.with_name(f"{need.path.name}.make"), wait=True):
        if need.path.exists():
            return
        print(f"computing the {need.what} on {device}", flush=True)
        workers = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
        keep = features_path(data.name, data.extractor, need.root)
        reference = compute_reference(
            data.name,
            load_extractor(data.extractor, device),
            need.root,
            workers=workers,
            progress=run.progress,
            keep=keep if "auto" in (run.kid, run.prc) else None,
        )
        if not statistics.exists():
            reference.save(statistics)
