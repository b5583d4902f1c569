"""Measure learned plans and fixed methods, on seeds that neither fitting nor choosing has seen.

    python -m experiments.learned.compare               # what is missing, then
    python -m experiments.learned.page

FID of 1,797 digits with its leave-one-block-out values, for paired intervals, and the root mean
square distance of 64 images to the fine solution from the same noise at time T−1. The grid of a
fixed method is the one with the lowest FID on seed set 0 in `transfer_x_gradient` (at 5
evaluations, or at 10 for 8 and more). Methods of many steps are taken from the main table, on its
seed set 0.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

import pndm
from experiments.arguments import command, split
from experiments.beyond_paper import transfer_x_gradient
from experiments.beyond_paper.ingredients import Method
from experiments.learned.cells import (
    DATASET,
    FINE,
    FIXED,
    JUDGING,
    SAMPLES,
    SCHEDULES,
    TABLE_SEED,
    fits,
)
from experiments.main_table import collect
from experiments.main_table.cells import Results
from experiments.main_table.fid_by_steps import Cell as TableCell
from experiments.main_table.jackknife import WITHOUT
from experiments.pages import FOLDER
from pndm._files import write_atomic
from pndm.config.build import build_method, build_schedule
from pndm.config.compose import compose_runs
from pndm.config.schema import Run
from pndm.fit import teacher
from pndm.runs.job import Job
from pndm.runs.run import run_experiment

PATH = FOLDER / "learned.csv"
IMAGES = 64
KEY = ["schedule", "method", "nfe", "seed"]
COLUMNS = [*KEY, "grid", "fid", "se", "rmse", "samples", "code", "commit", *WITHOUT]

INGREDIENTS = {
    "DDIM": Method("pseudo", "noise", "fixed", 1),
    "iPNDM-3": Method("pseudo", "noise", "fixed", 3),
    "DEIS-3": Method("pseudo", "noise", "t", 3),
    "DPM++ 2M": Method("pseudo", "data", "lambda", 2),
    "UniPC-2": Method("pseudo", "data", "unipc", 2),
    "exact 2 in λ": Method("pseudo", "noise", "lambda", 2),
}
"""The fixed methods as `transfer_x_gradient` names them."""


class Cell(NamedTuple):
    """A measurement: the arguments of run.py for a method at some evaluations."""

    schedule: str
    method: str
    nfe: int
    seed: int
    grid: str
    words: str


def cells() -> Iterator[Cell]:
    """The declared cells, the most informative first; learned ones where their plans are."""
    for schedule in SCHEDULES:
        for method, (solver, steps) in FINE.items():
            words = f"solver={solver} steps={steps}"
            yield Cell(schedule, method, steps, TABLE_SEED, "leading", words)
    for seed in JUDGING:
        for fit in fits():
            path = fit.output / "plan.json"
            if path.exists():
                label = f"learned: {fit.variant}"
                yield Cell(fit.schedule, label, fit.nfe, seed, "own", f"plan={path}")
    for seed in JUDGING[:2]:
        for nfe in (5, 3, 8, 4, 6, 10):
            for schedule in SCHEDULES:
                for method, words in FIXED.items():
                    grid = best_grid(schedule, method, nfe)
                    more = f"grid={grid} steps={nfe}"
                    yield Cell(schedule, method, nfe, seed, grid, f"{words} {more}")


@cache
def best_grid(schedule: str, method: str, nfe: int) -> str:
    """The grid with the lowest FID on seed set 0, of those that were measured."""
    table = transfer_x_gradient.load("fid")
    same = (table["schedule"] == schedule) & (table["nfe"] == (5 if nfe < 8 else 10))
    for name, value in INGREDIENTS[method]._asdict().items():
        same &= table[name] == value
    found = table[same]
    return str(found.loc[found["fid"].idxmin(), "grid"])


def load(path: Path = PATH) -> pd.DataFrame:
    """The measured cells; empty if there are none."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)


def measure(cell: Cell, more: Sequence[str]) -> dict | None:
    """FID and distance of a cell; those of many steps from the main table, None if it lacks them.

    The distance is measured on the first of the seed sets.
    """
    key = {name: getattr(cell, name) for name in (*KEY, "grid")}
    if cell.method in FINE:
        solver, steps = FINE[cell.method]
        paper = TableCell(cell.schedule, solver, "leading", "", steps, cell.seed)
        results = Results.load(FOLDER)
        known = results.without(DATASET, paper)
        if known is None:
            return None
        row = results.row(DATASET, paper)
        taken = {name: row[name] for name in ("se", "samples", "code", "commit")}
        return {**key, "fid": known["fid"], "rmse": None, **taken, **known[list(WITHOUT)]}
    words = [f"dataset={DATASET}", f"schedule={cell.schedule}", *cell.words.split()]
    words += [f"seed={cell.seed}", f"samples={SAMPLES}", "progress=false", *more]
    (cfg,) = compose_runs(words)
    path = run_experiment(cfg, "learned")
    record = json.loads(path.read_text(encoding="utf-8"))
    row = {**collect.row(record), "folder": str(path.parent)}
    without = collect.leave_one_out(pd.Series(row))
    if isinstance(without, str):
        raise ValueError(without)
    rmse = round(distance(cfg), 6) if cell.seed == JUDGING[0] else None
    return {**row, **without, **key, "rmse": rmse}


@torch.no_grad()
def distance(cfg: Run) -> float:
    """The distance of a run's first images to the fine solution from time T−1."""
    job = Job(cfg)
    schedule = build_schedule(cfg.schedule, cfg.convention)
    seeds = range(cfg.seed * 2**32, cfg.seed * 2**32 + IMAGES)
    weights = str(job.network.network.provenance["sha256"])
    x_T, fine = teacher.solve(job.network, schedule, "noise", seeds, 200, -1.0, weights, False)
    x = pndm.sample(job.network, x_T, schedule=schedule, **build_method(cfg))
    return (x - fine).square().mean().sqrt().item()


@command
def main(words: Sequence[str]) -> None:
    """Measure missing cells."""
    own, more = split(words, {"only": "", "seed": "", "nfe": ""})
    for cell in cells():
        kinds = {**dict.fromkeys(FINE, "fine"), **dict.fromkeys(FIXED, "fixed")}
        kind = kinds.get(cell.method, "learned")
        wanted = {"only": kind, "seed": str(cell.seed), "nfe": str(cell.nfe)}
        if any(own[key] not in ("", value) for key, value in wanted.items()):
            continue
        known = set(load()[KEY].itertuples(index=False, name=None))
        if (cell.schedule, cell.method, cell.nfe, cell.seed) in known:
            continue
        row = measure(cell, more)
        if row is None:
            continue
        print(f"{cell.schedule} {cell.method} {cell.nfe} seed {cell.seed}", flush=True)
        new = pd.DataFrame([row])[COLUMNS]
        table = load()  # now, as several of these commands may run at once
        table = pd.concat([table, new]) if len(table) else new
        ordered = table.sort_values(KEY, ignore_index=True)
        write_atomic(PATH, lambda partial, t=ordered: t.to_csv(partial, index=False))


if __name__ == "__main__":
    main(sys.argv[1:])
