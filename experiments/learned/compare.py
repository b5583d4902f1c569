"""Measure learned plans and fixed methods, on seeds that neither fitting nor choosing has seen.

    python -m experiments.learned.compare               # what is missing, then
    python -m experiments.learned.page

FID of as many images as in the main table with its leave-one-block-out values, for paired
intervals, and the root mean square distance of 64 images to the fine solution from the same noise
at time T−1. The grid of a fixed method is the one with the lowest FID on seed set 0 (at 5
evaluations, or at 10 for 8 and more): of digits in `transfer_x_gradient`, of other images in
`learned_grids.csv`, which is measured first. Methods of many steps are taken from the main table,
on its seed set 0.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

import pndm
from experiments.arguments import command, split
from experiments.beyond_paper import transfer_x_gradient
from experiments.beyond_paper.ingredients import Method
from experiments.learned.cells import (
    FINE,
    FIXED,
    GRIDS,
    JUDGING,
    NETWORKS,
    SCHEDULES,
    TABLE_SEED,
    fits,
)
from experiments.main_table import collect
from experiments.main_table.cells import Results
from experiments.main_table.fid_by_steps import SAMPLES
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

PATH, PATH_OF_GRIDS = FOLDER / "learned.csv", FOLDER / "learned_grids.csv"
IMAGES = 64
KEY = ["dataset", "schedule", "method", "nfe", "seed"]
COLUMNS = [*KEY, "grid", "fid", "se", "rmse", "samples", "code", "commit", *WITHOUT]
KEY_OF_GRIDS = [*KEY, "grid"]
COLUMNS_OF_GRIDS = [*KEY_OF_GRIDS, "fid", "se", "samples", "code", "commit"]

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

    dataset: str
    schedule: str
    method: str
    nfe: int
    seed: int
    grid: str
    words: str


def cells() -> Iterator[Cell]:
    """The declared cells, the most informative first; learned ones where their plans are.

    Fixed methods come where their grids are chosen.
    """
    for dataset in NETWORKS:
        for schedule in SCHEDULES:
            for method, (solver, steps) in FINE.items():
                words = f"solver={solver} steps={steps}"
                yield Cell(dataset, schedule, method, steps, TABLE_SEED, "leading", words)
    for seed in JUDGING:
        for fit in fits():
            path = fit.output / "plan.json"
            if path.exists():
                label = f"learned: {fit.variant}"
                words = f"plan={path}"
                yield Cell(fit.dataset, fit.schedule, label, fit.nfe, seed, "own", words)
    for dataset in NETWORKS:
        for seed in JUDGING[:2]:
            for nfe in (5, 3, 8, 4, 6, 10):
                for schedule in SCHEDULES:
                    for method in FIXED:
                        grid = best_grid(dataset, schedule, method, nfe)
                        if grid is not None:
                            yield fixed(dataset, schedule, method, nfe, seed, grid)


def choosing() -> Iterator[Cell]:
    """The cells that choose the grids of fixed methods, of datasets that have no other choice."""
    for dataset in NETWORKS:
        for nfe in (5, 10) if dataset != "digits" else ():
            for schedule in SCHEDULES:
                for method in FIXED:
                    for grid in GRIDS:
                        yield fixed(dataset, schedule, method, nfe, TABLE_SEED, grid)


def fixed(dataset: str, schedule: str, method: str, nfe: int, seed: int, grid: str) -> Cell:
    """The cell of a fixed method."""
    words = f"{FIXED[method]} grid={grid} steps={nfe}"
    return Cell(dataset, schedule, method, nfe, seed, grid, words)


def best_grid(dataset: str, schedule: str, method: str, nfe: int) -> str | None:
    """The grid with the lowest FID on seed set 0, of those that were measured, if any were."""
    chosen_at = 5 if nfe < 8 else 10
    if dataset == "digits":
        table = transfer_x_gradient.load("fid")
        named = INGREDIENTS[method]._asdict()
    else:
        table = load(PATH_OF_GRIDS)
        named = {"dataset": dataset, "method": method}
    wanted = named | {"schedule": schedule, "nfe": chosen_at}
    found = table[(table[list(wanted)] == list(wanted.values())).all(axis=1)]
    return str(found.loc[found["fid"].idxmin(), "grid"]) if len(found) else None


def load(path: Path = PATH) -> pd.DataFrame:
    """The measured cells; empty if there are none."""
    columns = COLUMNS if path == PATH else COLUMNS_OF_GRIDS
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)


def add(row: dict, path: Path, key: list[str], columns: list[str]) -> None:
    """Add a row to a table as it is now, as several of these commands may run at once."""
    new, table = pd.DataFrame([row])[columns], load(path)
    ordered = (pd.concat([table, new]) if len(table) else new).sort_values(key, ignore_index=True)
    write_atomic(path, lambda partial: ordered.to_csv(partial, index=False))


def measure(cell: Cell, more: Sequence[str]) -> dict | None:
    """FID and distance of a cell; those of many steps from the main table, None if it lacks them.

    The distance is measured on the first of the seed sets.
    """
    key = {name: getattr(cell, name) for name in KEY_OF_GRIDS}
    if cell.method in FINE:
        return from_main_table(cell, key)
    cfg, row = run(cell, more)
    without = collect.leave_one_out(pd.Series(row))
    if isinstance(without, str):
        raise ValueError(without)
    rmse = round(distance(cfg), 6) if cell.seed == JUDGING[0] else None
    return {**row, **without, **key, "rmse": rmse}


def from_main_table(cell: Cell, key: dict) -> dict | None:
    """A cell of many steps as it was measured there."""
    solver, steps = FINE[cell.method]
    paper = TableCell(cell.schedule, solver, "leading", "", steps, cell.seed)
    results = Results.load(FOLDER)
    known = results.without(cell.dataset, paper)
    if known is None:
        return None
    row = results.row(cell.dataset, paper)
    taken = {name: row[name] for name in ("se", "samples", "code", "commit")}
    return {**key, "fid": known["fid"], "rmse": None, **taken, **known[list(WITHOUT)]}


def run(cell: Cell, more: Sequence[str]) -> tuple[Run, dict]:
    """Run a cell; its configuration and its row."""
    words = [f"dataset={cell.dataset}", f"schedule={cell.schedule}", *cell.words.split()]
    words += [f"seed={cell.seed}", f"samples={SAMPLES[cell.dataset]}", "progress=false", *more]
    (cfg,) = compose_runs(words)
    path = run_experiment(cfg, "learned")
    record = json.loads(path.read_text(encoding="utf-8"))
    return cfg, {**collect.row(record), "folder": str(path.parent)}


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
    """Measure missing cells: first those that choose the grids, then all others."""
    own, more = split(words, dict.fromkeys(("only", "dataset", "schedule", "seed", "nfe"), ""))
    for cell in choosing():
        if is_wanted(cell, "choice", own) and is_missing(cell, PATH_OF_GRIDS, KEY_OF_GRIDS):
            _, row = run(cell, more)
            key = {name: getattr(cell, name) for name in KEY_OF_GRIDS}
            add({**row, **key}, PATH_OF_GRIDS, KEY_OF_GRIDS, COLUMNS_OF_GRIDS)
            print(*key.values(), flush=True)
    kinds = {**dict.fromkeys(FINE, "fine"), **dict.fromkeys(FIXED, "fixed")}
    for cell in cells():
        kind = kinds.get(cell.method, "learned")
        if is_wanted(cell, kind, own) and is_missing(cell, PATH, KEY):
            row = measure(cell, more)
            if row is not None:
                add(row, PATH, KEY, COLUMNS)
                print(*(row[name] for name in KEY), flush=True)


def is_wanted(cell: Cell, kind: str, own: dict[str, str]) -> bool:
    """Whether a cell is one of those that were asked for."""
    asked = {"only": kind, "dataset": cell.dataset, "schedule": cell.schedule}
    asked |= {"seed": str(cell.seed), "nfe": str(cell.nfe)}
    return all(own[key] in ("", asked[key]) for key in own)


def is_missing(cell: Cell, path: Path, key: list[str]) -> bool:
    """Whether a cell was not measured yet."""
    known = set(load(path)[key].itertuples(index=False, name=None))
    return tuple(getattr(cell, name) for name in key) not in known


if __name__ == "__main__":
    main(sys.argv[1:])
