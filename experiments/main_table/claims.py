"""The abstract's claims as paired differences of FID from the same seeds, with 95 % intervals."""

from pathlib import Path

import pandas as pd

from experiments.main_table.cells import DATASETS, Results
from experiments.main_table.fid_by_steps import CLAIMS, Cell, Claim
from experiments.main_table.jackknife import paired
from experiments.main_table.tables import schedules
from pndm.evaluation.statistics import Estimate

COLUMNS = ["claim", "dataset", "schedule", "seed", "difference", "low", "high", "verdict"]


def table(results: Results) -> pd.DataFrame:
    """Every claim on every dataset, schedule and set of seeds, measured or not."""
    rows = []
    for claim in CLAIMS:
        for dataset in DATASETS:
            for schedule in schedules(dataset):
                rows += [
                    result
                    for seed in (0, 1, 2)
                    if (result := row(results, claim, dataset, schedule, seed))["low"] is not None
                    or seed == 0
                ]
    return pd.DataFrame(rows, columns=COLUMNS)


def row(results: Results, claim: Claim, dataset: str, schedule: str, seed: int) -> dict:
    """One claim: the bias-corrected difference, its interval, and the verdict."""
    first, second = (
        Cell(schedule, solver, "leading", "", steps, seed)
        for solver, steps in ((claim.solver, claim.steps), (claim.other, claim.other_steps))
    )
    result = {"claim": str(claim), "dataset": dataset, "schedule": schedule, "seed": seed}
    return result | difference(results, dataset, first, second)


def difference(results: Results, dataset: str, one: Cell, other: Cell) -> dict:
    """FID of one cell minus that of another, both from the same seeds: 95 % interval, verdict."""
    first, second = (results.without(dataset, cell) for cell in (one, other))
    if first is None or second is None:
        nothing = dict.fromkeys(("difference", "low", "high"))
        return {**nothing, "verdict": "not run"}
    return outcome(paired(first, second))


def outcome(estimate: Estimate) -> dict:
    """The columns of a difference: bias-corrected, 95 % interval, verdict."""
    numbers = {"difference": estimate.bias_corrected, "low": estimate.low, "high": estimate.high}
    return {
        **{name: round(value, 4) for name, value in numbers.items()},
        "verdict": verdict(estimate.low, estimate.high),
    }


def verdict(low: float, high: float) -> str:
    """Whether the first of the two has the lower FID, by the interval of the difference."""
    if high < 0:
        return "lower"
    return "higher" if low > 0 else "no difference seen"


def write(results: Results, folder: Path) -> Path:
    """Write results/claims.csv."""
    path = folder / "claims.csv"
    table(results).to_csv(path, index=False)
    return path
