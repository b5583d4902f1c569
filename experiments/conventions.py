"""The effect of the released code's shifted index: FID and distance by convention.

    python -m experiments.conventions            # digits: what is missing, then the page

`aligned` moves x with the ᾱ that the network was trained on and ends at the image; `released`, the
authors' code, passes t to the network and moves x with ᾱ[t+1]; `diffusers` ends at ᾱ[0]. The
distance is to the fine solution in the aligned convention, from the same noise and time. The
aligned cells are those of the main table.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import pndm
from experiments.arguments import command
from experiments.fine_solution import rms, solution
from experiments.main_table import collect
from experiments.main_table.cells import Results
from experiments.main_table.fid_by_steps import ALL_DIGITS, Cell
from experiments.pages import FOLDER, NAMES, markdown
from pndm._files import write_atomic
from pndm.config.compose import compose_runs
from pndm.solvers import SOLVERS

SCHEDULES = ("linear", "cosine")
METHODS = ("ddim", "plms")
STEPS = (10, 20, 50)
CONVENTIONS = ("aligned", "released", "diffusers")
IMAGES = 32

KEY = ["schedule", "solver", "steps", "convention"]
OF_RECORD = ["fid", "se", "low", "high", "samples", "code", "commit"]
COLUMNS = [*KEY, "rmse", *OF_RECORD]


def distances() -> pd.DataFrame:
    """The distance of every cell to the fine solution."""
    x_T = pndm.initial_noise(range(IMAGES), (1, 8, 8))
    rows = []
    for name in SCHEDULES:
        network, make = pndm.models.load(f"digits_{name}"), pndm.schedules.SCHEDULES[name]
        for steps in STEPS:
            start = pndm.grids.times("leading", steps, make())[0]
            fine = solution(network, make(), x_T, start)
            for solver in METHODS:
                for convention in CONVENTIONS:
                    x = pndm.sample(
                        network,
                        x_T,
                        solver=SOLVERS[solver](),
                        schedule=make(convention=convention),
                        steps=steps,
                    )
                    rmse = rms(x - fine)
                    rows.append([name, solver, steps, convention, round(rmse, 6)])
    return pd.DataFrame(rows, columns=[*KEY, "rmse"])


def fid_of(row: pd.Series, more: Sequence[str]) -> dict:
    """The FID of a cell: from the main table if it is aligned, else by a run."""
    if row["convention"] == "aligned":
        cell = Cell(row["schedule"], row["solver"], "leading", "", row["steps"], 0)
        result = Results.load(FOLDER).row("digits", cell)
        return {} if result is None else {name: result[name] for name in OF_RECORD}
    words = [f"{name}={row[name]}" for name in KEY]
    words += ["dataset=digits", f"samples={ALL_DIGITS}", *more]
    _, measured = collect.run(words, "conventions")
    return {name: measured[name] for name in OF_RECORD}


def page(table: pd.DataFrame) -> str:
    """FID and distance by convention, in Markdown."""
    rows = []
    for (schedule, solver, steps), group in table.groupby(KEY[:3], sort=False):
        row = {"schedule": schedule, "method": NAMES[solver], "steps": str(steps)}
        for _, cell in group.iterrows():
            fid = "not run" if pd.isna(cell["fid"]) else f"{cell['fid']:.2f} ± {cell['se']:.2f}"
            row[cell["convention"]] = f"{fid} ({cell['rmse']:.3f})"
        rows.append(row)
    return (
        "# Conventions: which ᾱ belongs to which time\n\n"
        f"FID of {ALL_DIGITS} digits ± standard error, and in brackets the distance of {IMAGES} "
        "images to the fine solution in the aligned convention.\n\n"
        f"    python -m experiments.conventions\n\n{markdown(pd.DataFrame(rows))}\n"
    )


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write conventions.md from conventions.csv."""
    path = folder / "conventions.md"
    path.write_text(page(table), encoding="utf-8")
    return [path]


@command
def main(more: Sequence[str]) -> None:
    """Measure missing cells, then write the page."""
    compose_runs(["dataset=digits", *more])  # refuses a wrong word before anything is measured
    path = FOLDER / "conventions.csv"
    table = distances()
    fids = [fid_of(row, more) for _, row in table.iterrows()]
    table = pd.concat([table, pd.DataFrame(fids)], axis=1)[COLUMNS]
    write_atomic(path, lambda partial: table.to_csv(partial, index=False))
    write(pd.read_csv(path), FOLDER)


if __name__ == "__main__":
    main(sys.argv[1:])
