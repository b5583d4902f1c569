"""Measure learned plans on seed sets that no fit has seen, and fixed methods on the same.

    python -m experiments.learned.compare               # what is missing, then
    python -m experiments.learned.page
    python -m experiments.learned.compare only=learned dataset=digits schedule=linear nfe=5 seed=1

FID of as many images as in the main table with its leave-one-block-out values, for paired
intervals, and the root mean square distance of 64 images to the fine solution from the same noise
at time T−1. `learned_grids.csv` is measured first: for each fixed method and number of evaluations
the FID on seed set 0 on some grids, of which the best is taken. A cell is measured again where its
network, its plan or its grid is another one than before.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

import pndm
from experiments.arguments import command, split
from experiments.fine_solution import rms
from experiments.learned.cells import (
    EVALUATION_SEEDS,
    EVALUATIONS,
    FITS,
    FIXED,
    FRESH,
    GRIDS,
    NETWORKS,
    SCHEDULES,
    TABLE_SEED,
    Fit,
    fits,
)
from experiments.main_table import collect
from experiments.main_table.fid_by_steps import SAMPLES
from experiments.main_table.jackknife import WITHOUT
from experiments.pages import FOLDER, select
from pndm import learned
from pndm._files import file_lock, write_atomic
from pndm.config.build import build_method, build_schedule
from pndm.config.schema import ConfigError, Run
from pndm.fit import teacher
from pndm.models import registry
from pndm.models.locations import weights_sha256
from pndm.runs.job import Job

PATH, PATH_OF_GRIDS = FOLDER / "learned.csv", FOLDER / "learned_grids.csv"
IMAGES = 64
KEY = ["dataset", "schedule", "method", "nfe", "seed"]
COLUMNS = [*KEY, "grid", "plan", "fid", "se", "rmse", "samples", "weights", "code", "commit"]
COLUMNS += WITHOUT
COLUMNS_OF_GRIDS = [*KEY, "grid", "fid", "se", "samples", "weights", "code", "commit"]

OWN = "own"
"""The grid of learned plans."""


class Cell(NamedTuple):
    """A measurement: the arguments of run.py for a method at some evaluations."""

    dataset: str
    schedule: str
    method: str
    nfe: int
    seed: int
    grid: str
    words: str
    plan: str = ""
    """The digest of a learned plan, shortened."""

    @property
    def known_by(self) -> dict[str, str | int]:
        """What a measurement of this cell has in its columns."""
        names = [*KEY, "grid", *(["plan"] if self.plan else [])]
        own = {name: getattr(self, name) for name in names}
        return own | {"weights": weights(f"{NETWORKS[self.dataset]}_{self.schedule}")}


@cache
def weights(network: str) -> str:
    """The hash of a network's weights, as records show it."""
    return weights_sha256(registry.find(network).require())[:12]


def cells() -> Iterator[Cell]:
    """The declared cells, the most informative first: learned plans that are here, then others.

    A fixed method comes once its grids are measured.
    """
    for seed in EVALUATION_SEEDS:
        for fit in fits():
            if fit.plan is not None:
                yield of_plan(fit, fit.plan, seed)
    for dataset in NETWORKS:
        for seed in FRESH:
            for nfe in (5, 3, 8, 4, 6, 10):
                for schedule in SCHEDULES:
                    for method in FIXED:
                        grid = best_grid(dataset, schedule, method, nfe)
                        if grid is not None:
                            yield fixed(dataset, schedule, method, nfe, seed, grid)


def choosing() -> Iterator[Cell]:
    """The cells that choose the grids of fixed methods."""
    for dataset in NETWORKS:
        for nfe in EVALUATIONS:
            for schedule in SCHEDULES:
                for method in FIXED:
                    for grid in GRIDS:
                        yield fixed(dataset, schedule, method, nfe, TABLE_SEED, grid)


def of_plan(fit: Fit, path: Path, seed: int) -> Cell:
    """The cell of a fitted plan."""
    method, digest = f"learned: {fit.variant}", learned.read(path).digest[:12]
    words = f"plan={path}"
    return Cell(fit.dataset, fit.schedule, method, fit.nfe, seed, OWN, words, digest)


def fixed(dataset: str, schedule: str, method: str, nfe: int, seed: int, grid: str) -> Cell:
    """The cell of a fixed method."""
    words = f"{FIXED[method]} grid={grid} steps={nfe}"
    return Cell(dataset, schedule, method, nfe, seed, grid, words)


def best_grid(dataset: str, schedule: str, method: str, nfe: int) -> str | None:
    """The grid with the lowest FID on seed set 0; None unless all were measured."""
    table = load(PATH_OF_GRIDS)
    key = dict(zip(KEY, (dataset, schedule, method, nfe, TABLE_SEED), strict=True))
    found = select(table, **key)
    if set(GRIDS) - set(found["grid"]):
        return None
    return str(found.loc[found["fid"].idxmin(), "grid"])


def load(path: Path = PATH) -> pd.DataFrame:
    """The measured cells; empty if there are none."""
    if path.exists():
        return pd.read_csv(path, dtype={"plan": str, "weights": str}, keep_default_na=True)
    return pd.DataFrame(columns=COLUMNS if path == PATH else COLUMNS_OF_GRIDS)


def is_missing(cell: Cell, path: Path) -> bool:
    """Whether a cell was not measured, or with another network, plan or grid."""
    return select(load(path), **cell.known_by).empty


def add(row: dict, path: Path) -> None:
    """Put a row into a table, in the place of an older measurement of the same cell."""
    columns, key = (COLUMNS, KEY) if path == PATH else (COLUMNS_OF_GRIDS, [*KEY, "grid"])
    with file_lock(FITS / path.name, wait=True):  # several of these commands may run at once
        table = load(path)
        older = select(table, **{name: row[name] for name in key})
        new, kept = pd.DataFrame([row])[columns], table.drop(older.index)
        table = (pd.concat([kept, new]) if len(kept) else new).sort_values(key, ignore_index=True)
        write_atomic(path, lambda partial: table.to_csv(partial, index=False))


def measure_grid(cell: Cell, more: Sequence[str]) -> dict:
    """The FID of a fixed method on a grid."""
    _, row = run(cell, more)
    return {**row, **cell.known_by}


def measure(cell: Cell, more: Sequence[str]) -> dict:
    """FID of a cell, and on the first of the seed sets its distance to the fine solution."""
    cfg, row = run(cell, more)
    without = collect.leave_one_out(pd.Series(row))
    if isinstance(without, str):
        raise ValueError(without)
    rmse = round(distance(cfg), 6) if cell.seed == FRESH[0] else None
    return {**row, **without, "plan": "", **cell.known_by, "rmse": rmse}


def run(cell: Cell, more: Sequence[str]) -> tuple[Run, dict]:
    """Run a cell; its configuration and its row."""
    words = [f"dataset={cell.dataset}", f"schedule={cell.schedule}", *cell.words.split()]
    words += [f"seed={cell.seed}", f"samples={SAMPLES[cell.dataset]}", "progress=false", *more]
    return collect.run(words, "learned")


@torch.no_grad()
def distance(cfg: Run) -> float:
    """The distance of a run's first images to the fine solution from time T−1."""
    job = Job(cfg)
    schedule = build_schedule(cfg.schedule, cfg.convention)
    seeds = range(cfg.seed * 2**32, cfg.seed * 2**32 + IMAGES)
    sha256 = str(job.network.network.provenance["sha256"])
    x_T, fine = teacher.solve(
        job.network, schedule, "noise", seeds, 200, -1.0, sha256, progress=False
    )
    x = pndm.sample(job.network, x_T, schedule=schedule, **build_method(cfg))
    return rms(x - fine)


CHOICES = {
    "only": ("grids", "learned", "fixed"),
    "dataset": tuple(NETWORKS),
    "schedule": SCHEDULES,
    "seed": tuple(map(str, EVALUATION_SEEDS)),
    "nfe": tuple(map(str, EVALUATIONS)),
}
"""The words that choose cells."""


@command
def main(words: Sequence[str]) -> None:
    """Measure missing cells: first those that choose the grids, then all others."""
    own, more = split(words, dict.fromkeys(CHOICES, ""))
    for name, values in CHOICES.items():
        if own[name] not in ("", *values):
            raise ConfigError(f"{name}={own[name]}: it can be {', '.join(values)}")
    for cell in choosing() if own["only"] in ("", "grids") else ():
        if is_wanted(cell, {**own, "seed": ""}) and is_missing(cell, PATH_OF_GRIDS):
            add(measure_grid(cell, more), PATH_OF_GRIDS)
            print("grid", *cell[:6], flush=True)
    for cell in cells() if own["only"] != "grids" else ():
        kind = "learned" if cell.plan else "fixed"
        if own["only"] in ("", kind) and is_wanted(cell, own) and is_missing(cell, PATH):
            add(measure(cell, more), PATH)
            print(*cell[:6], flush=True)


def is_wanted(cell: Cell, own: dict[str, str]) -> bool:
    """Whether a cell is one of those that were asked for."""
    names = ("dataset", "schedule", "seed", "nfe")
    return all(own[name] in ("", str(getattr(cell, name))) for name in names)


if __name__ == "__main__":
    main(sys.argv[1:])
