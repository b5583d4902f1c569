"""The best method at ten evaluations: selected on one set of seeds, evaluated on others.

    python -m experiments.beyond_paper.ten_nfe        # after transfer_x_gradient and fid_by_steps

Of all cells of `transfer_x_gradient` with at most ten evaluations the one with the lowest FID on
seed set 0 is chosen, for each schedule, and run on seed sets 1 and 2. There it is compared, by
paired differences from the same seeds, with DDIM in 1000 steps and with F-PNDM in 50. The seeds
that were used for the selection are shown too, and are biased in favour of the selected cells.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.arguments import command
from experiments.beyond_paper import transfer_x_gradient
from experiments.beyond_paper.ingredients import SCHEDULES, Cell, Method
from experiments.beyond_paper.transfer_x_gradient import CELL
from experiments.main_table.cells import Results
from experiments.main_table.claims import outcome
from experiments.main_table.fid_by_steps import Cell as TableCell
from experiments.main_table.jackknife import WITHOUT, paired
from experiments.pages import FOLDER
from pndm._errors import MissingFile
from pndm._files import write_atomic

SEEDS = (0, 1, 2)
AGAINST = (("ddim", 1000), ("plms", 50))
MOST = 10
CELLS = [*CELL, "steps", "seed", "fid", "se", "samples", "code", "commit", *WITHOUT]
COLUMNS = [
    *("schedule", "method", "grid", "nfe", "seed", "fid", "against", "other", "difference"),
    *("low", "high", "verdict"),
]


def best(table: pd.DataFrame, schedule: str) -> Cell:
    """The cell with the lowest FID among those of at most ten evaluations."""
    few = table[(table["schedule"] == schedule) & (table["nfe"] <= MOST)]
    if few.empty:
        raise MissingFile(
            f"no cell of at most {MOST} evaluations on {schedule} was measured: "
            "python -m experiments.beyond_paper.transfer_x_gradient only=fid"
        )
    row = few.loc[few["fid"].idxmin()]
    method = Method(*(row[name] for name in Method._fields))
    return Cell(schedule, method._replace(order=int(method.order)), row["grid"], int(row["nfe"]))


def measure(more: Sequence[str], folder: Path) -> None:
    """Write ten_nfe_cells.csv: the selected cells on all seed sets, with jackknife distances."""
    rows = []
    for schedule in SCHEDULES:
        cell = best(transfer_x_gradient.load("fid", folder), schedule)
        for seed in SEEDS:
            row, without = transfer_x_gradient.run(cell, seed, more)
            if isinstance(without, str):
                raise MissingFile(without)
            rows.append({**row, **transfer_x_gradient.columns(cell), **without, "seed": seed})
    table = pd.DataFrame(rows)[CELLS]
    path = folder / "ten_nfe_cells.csv"
    write_atomic(path, lambda partial: table.to_csv(partial, index=False))


def compare(folder: Path) -> pd.DataFrame:
    """Compare each selected cell with the paper's, on each set of seeds with both measured."""
    path, paper = folder / "ten_nfe_cells.csv", Results.load(folder)
    rows = []
    for _, row in pd.read_csv(path).iterrows() if path.exists() else ():
        method = Method(*(row[name] for name in Method._fields))
        for solver, steps in AGAINST:
            other = paper.without(
                "digits", TableCell(row["schedule"], solver, "leading", "", steps, row["seed"])
            )
            comparison = {**row[["schedule", "grid", "nfe", "seed"]], "method": str(method)}
            comparison |= {"fid": round(row["fid"], 4), "against": f"{solver}@{steps}"}
            if other is None or other["samples"] != row["samples"]:
                rows.append({**comparison, "verdict": "not run"})
                continue
            comparison |= {"other": round(other["fid"], 4), **outcome(paired(row, other))}
            rows.append(comparison)
    return pd.DataFrame(rows, columns=COLUMNS)


@command
def main(more: Sequence[str]) -> None:
    """Measure, then write ten_nfe.csv."""
    measure(more, FOLDER)
    compare(FOLDER).to_csv(FOLDER / "ten_nfe.csv", index=False)
    written = FOLDER / "ten_nfe.csv"
    print(f"written: {written}; python -m experiments.beyond_paper.page makes the page")


if __name__ == "__main__":
    main(sys.argv[1:])
