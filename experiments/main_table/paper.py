"""The paper's table of one dataset, complete: plan, runs, comparison, verdicts.

    make paper DATASET=cifar10
    python -m experiments.main_table.paper dataset=cifar10 only=plan

Prints the expected cost, runs the missing cells of the main table (an interrupted command
continues), collects, and compares every published number with ours. Any other key=value goes to
the runs, as in run.py.
"""

import math
import sys
from collections.abc import Sequence

import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table

from experiments.arguments import command
from experiments.main_table import claims, collect, fid_by_steps, tables
from experiments.main_table.cells import Results, published
from experiments.main_table.fid_by_steps import PF_NFE, Cell
from experiments.pages import FOLDER, interval
from pndm._devices import resolve_device
from pndm.config.build import build_solver
from pndm.config.compose import compose_runs
from pndm.config.schema import ConfigError, Run
from pndm.cost import disk, flops, load_runner, time_network
from pndm.evaluation.statistics import T_19
from pndm.runs.needs import Need, all_missing, format_bytes, show

RATE = 50e12
"""FLOP/s of a GPU in single precision with TF32, about a third of an A100's peak."""

LARGE = 1e9
"""Operations of an evaluation from which a CPU is as fast with four images as with many."""


def plan(dataset: str, schedules: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Cells, evaluations and hours, on this device and on a GPU, by schedule and method."""
    (cfg,) = compose_runs([f"dataset={dataset}"])
    samples = fid_by_steps.SAMPLES.get(dataset, cfg.samples)
    seconds = {name: seconds_per_evaluation(dataset, name) for name in schedules}
    rows = []
    for cell in fid_by_steps.cells(schedules, seeds, dataset):
        chosen = (word.removeprefix("solver.").split("=") for word in cell.options.split())
        options = {key: yaml.safe_load(value) for key, value in chosen}
        nfe = build_solver({"name": cell.solver, **options}).nfe(cell.steps) or PF_NFE
        each = flops(cfg.dataset.models[cell.schedule])
        row = {"schedule": cell.schedule, "method": cell.solver, "cells": 1}
        row |= {"evaluations": nfe * samples}
        row |= {"hours here": nfe * samples * seconds[cell.schedule] / 3600}
        rows.append({**row, "GPU hours": nfe * samples * each / RATE / 3600})
    table = pd.DataFrame(rows)
    return table.groupby(["schedule", "method"], sort=False, as_index=False).sum()


def seconds_per_evaluation(dataset: str, schedule: str) -> float:
    """The time of one image's evaluation on this device."""
    words = [f"dataset={dataset}", f"schedule={schedule}", "solver=ddim"]
    (cfg,) = compose_runs(words)
    if flops(cfg.dataset.models[schedule]) > LARGE and resolve_device(cfg.device) == "cpu":
        (cfg,) = compose_runs([*words, "batch_size=4"])
    return time_network(cfg, load_runner(cfg), seconds=1).seconds


def show_plan(table: pd.DataFrame, dataset: str) -> None:
    """Print the plan and its total."""
    display = Table(*table.columns)
    for row in table.itertuples(index=False):
        hours = (f"{number:.1f}" for number in row[4:])
        display.add_row(row[0], row[1], str(row[2]), f"{row[3]:,}", *hours)
    Console().print(display)
    here, total = table["hours here"].sum(), table["GPU hours"].sum()
    print(
        f"{dataset}: {table['cells'].sum()} cells, about {here:.1f} hours on this device or "
        f"{total:.1f} GPU hours at {RATE / 1e12:.0f} TFLOP/s; complete cells are not run again"
    )


def show_disk(table: pd.DataFrame, first: Sequence[Run], missing: Sequence[Need]) -> None:
    """Print the disk space of the downloads, unpacked, and of the images and features."""
    downloads = sum((2 if need.kind == "images" else 1) * (need.size or 0) for need in missing)
    images = sum(
        count * disk(run)
        for run in first
        for count in table.loc[table["schedule"] == run.schedule["name"], "cells"]
    )
    print(f"disk: {format_bytes(downloads)} of downloads, {format_bytes(images)} of images")


def compare(results: Results, dataset: str) -> pd.DataFrame:
    """Compare every published number of a dataset with ours."""
    numbers = published()
    rows = []
    for _, number in numbers[numbers["dataset"] == dataset].iterrows():
        row = {name: number[name] for name in ("schedule", "method", "steps")}
        row |= {"published": number["fid"], "source": number["source"]}
        rows.append({**row, **verdict_on(ours(results, dataset, number), number["fid"])})
    columns = ["schedule", "method", "steps", "published", "fid", "se", "verdict", "source"]
    return pd.DataFrame(rows, columns=columns)


def ours(results: Results, dataset: str, number: pd.Series) -> pd.Series | None:
    """Our cell of a published number, None if the table has none."""
    if pd.isna(number["steps"]):
        return None
    solver, _, grid = number["method"].partition("_quadratic")
    grid = "quadratic" if number["method"].endswith("_quadratic") else "leading"
    return results.row(dataset, Cell(number["schedule"], solver, grid, "", number["steps"], 0))


def verdict_on(row: pd.Series | None, value: float) -> dict:
    """Our FID, and whether the published one is within t₁₉ standard errors of it."""
    if row is None or row["status"] != "complete" or pd.isna(row["fid"]):
        return {"verdict": "not run"}
    result = {"fid": row["fid"], "se": row["se"]}
    if pd.isna(row["se"]):
        return {**result, "verdict": "no uncertainty known"}
    if math.isclose(row["fid"], value, abs_tol=T_19 * row["se"]):
        return {**result, "verdict": "within the uncertainty"}
    return {**result, "verdict": "ours is lower" if row["fid"] < value else "ours is higher"}


def show_claims(table: pd.DataFrame, dataset: str) -> None:
    """Print a verdict for each of the abstract's claims: is the FID of the first method lower?"""
    display = Table("claim", "schedule", "seed set", "difference, 95 %", "FID is")
    for row in table[table["dataset"] == dataset].itertuples(index=False):
        numbers = interval(row.difference, row.low, row.high)
        measured = row.verdict != "not run"
        display.add_row(
            row.claim, row.schedule, str(row.seed), numbers if measured else "", row.verdict
        )
    Console().print(display)


def show_comparison(table: pd.DataFrame) -> None:
    """Print the comparison."""
    display = Table("schedule", "method", "steps", "published", "ours", "verdict", "source")
    for row in table.itertuples(index=False):
        fid = "" if pd.isna(row.fid) else f"{row.fid:.2f} ± {row.se:.2f}"
        steps = "" if pd.isna(row.steps) else str(row.steps)
        value = f"{row.published:.2f}"
        display.add_row(row.schedule, row.method, steps, value, fid, row.verdict, row.source)
    Console().print(display)


@command
def main(words: Sequence[str]) -> None:
    """Plan, run, collect, compare."""
    own, more = fid_by_steps.parse(words)
    (cfg,) = compose_runs([f"dataset={own['dataset']}"])
    if not set(tables.schedules(own["dataset"])) <= set(cfg.dataset.models):
        raise ConfigError(
            f"there is no table of dataset={own['dataset']}: use digits, fashion_mnist, cifar10 "
            "or celeba"
        )
    chosen, seeds = fid_by_steps.selection(own)
    schedules = chosen or tables.schedules(own["dataset"])
    first = [
        run
        for schedule in schedules
        for run in fid_by_steps.first_cell(own["dataset"], schedule, seeds[0], more)
    ]
    if missing := all_missing(first):
        show(missing)
    table = plan(own["dataset"], schedules, seeds)
    show_plan(table, own["dataset"])
    show_disk(table, first, missing)
    if own["only"] == "plan":
        return
    fid_by_steps.main(words)
    outputs = next((w.partition("=")[2] for w in words if w.startswith("outputs=")), "outputs")
    collect.main([outputs])
    results = Results.load(FOLDER)
    show_claims(claims.table(results), own["dataset"])
    table = compare(results, own["dataset"])
    show_comparison(table) if len(table) else print(f"{own['dataset']}: nothing was published")


if __name__ == "__main__":
    main(sys.argv[1:])
