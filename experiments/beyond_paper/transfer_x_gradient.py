"""The effect of each ingredient: transfer part × weights × starters × grids at 5 to 50 NFE.

    python -m experiments.beyond_paper.transfer_x_gradient                # all that is missing
    python -m experiments.beyond_paper.transfer_x_gradient only=rmse      # or only=fid
    python -m experiments.beyond_paper.transfer_x_gradient only=fid nfe=10

Two different measures: the distance of a method's images to the fine solution from the same noise
and time (root mean square over pixels in [−1, 1]), and FID. Existing results are not recomputed:
`experiments/results` holds the distances, `outputs` the runs.
"""

import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

import pndm
from experiments.arguments import command, split
from experiments.beyond_paper.ingredients import (
    EVALUATIONS,
    Cell,
    Method,
    distances,
    trajectories,
)
from experiments.fine_solution import rms, solution
from experiments.main_table import collect
from experiments.main_table.fid_by_steps import ALL_DIGITS
from experiments.pages import FOLDER
from pndm._files import write_atomic
from pndm._provenance import commit
from pndm.config.compose import compose_runs
from pndm.config.schema import ConfigError
from pndm.runs.identity import IMAGE_CODE, code_hash

IMAGES = 32
NAME = "transfer_x_gradient"
CELL = ["schedule", *Method._fields, "grid", "nfe"]
FOUND = [*CELL, "steps", "fid", "bias_corrected", "se", "low", "high", "samples", "code", "commit"]


def columns(cell: Cell) -> dict[str, object]:
    """The first columns of a cell's row."""
    return {"schedule": cell.schedule, **cell.method._asdict(), "grid": cell.grid, "nfe": cell.nfe}


def load(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Read a table of this experiment; empty if there is none."""
    path = folder / f"{NAME}_{name}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=CELL)


def measure_rmse(folder: Path) -> None:
    """Measure the distances to the fine solution, by schedule and grid."""
    code = code_hash(IMAGE_CODE)
    table = load("rmse", folder)
    if "code" in table:
        table = table[table["code"] == code]
    known = set(table[CELL].itertuples(index=False, name=None))
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in trajectories():
        if tuple(columns(cell).values()) not in known:
            groups.setdefault((cell.schedule, cell.grid), []).append(cell)
    for (name, grid), cells in groups.items():
        began = time.monotonic()
        network, schedule = pndm.models.load(f"digits_{name}"), pndm.schedules.SCHEDULES[name]()
        x_T = pndm.initial_noise(range(IMAGES), (1, 8, 8))
        fine: dict[float, torch.Tensor] = {}
        rows = []
        for cell in cells:
            start = pndm.grids.times(grid, cell.steps, schedule)[0]
            if start not in fine:
                fine[start] = solution(network, schedule, x_T, start)
            x = pndm.sample(
                network,
                x_T,
                solver=cell.method.solver(),
                schedule=schedule,
                steps=cell.steps,
                grid=grid,
            )
            rmse = rms(x - fine[start])
            rows.append({**columns(cell), "steps": cell.steps, "rmse": round(rmse, 6)})
        seconds = round(time.monotonic() - began, 1)
        new = pd.DataFrame(rows).assign(images=IMAGES, code=code, commit=commit())
        table = pd.concat([table, new], ignore_index=True) if len(table) else new
        save(table, "rmse", folder)
        print(f"{name} {grid}: {len(rows)} trajectories in {seconds} s", flush=True)


def save(table: pd.DataFrame, name: str, folder: Path) -> None:
    """Write a table atomically, in a fixed order."""
    ordered = table.sort_values(CELL, ignore_index=True)
    path = folder / f"{NAME}_{name}.csv"
    write_atomic(path, lambda partial: ordered.to_csv(partial, index=False))


def arguments(cell: Cell, seed: int = 0) -> list[str]:
    """A cell as run.py's arguments."""
    return [
        *("dataset=digits", f"schedule={cell.schedule}", *cell.method.words()),
        *(f"grid={cell.grid}", f"steps={cell.steps}", f"seed={seed}", f"samples={ALL_DIGITS}"),
    ]


def measure_fid(cells: Sequence[Cell], more: Sequence[str], folder: Path) -> None:
    """Measure the FID of some cells, adding each to the table when it is complete."""
    for i, cell in enumerate(cells, 1):
        print(
            f"[{i}/{len(cells)}] {cell.schedule} {cell.grid} {cell.nfe} {cell.method}", flush=True
        )
        row, _ = run(cell, 0, more)
        table = load("fid", folder)
        other = table[(table[CELL] != pd.Series(columns(cell))).any(axis=1)]
        new = pd.DataFrame([{**row, **columns(cell)}])[FOUND]
        save(pd.concat([other, new]) if len(other) else new, "fid", folder)


def run(cell: Cell, seed: int, more: Sequence[str]) -> tuple[dict, dict | str]:
    """A cell's FID with its metadata, and its leave-one-block-out distances."""
    _, row = collect.run([*arguments(cell, seed), *more], NAME)
    return row, collect.leave_one_out(pd.Series(row))


@command
def main(words: Sequence[str]) -> None:
    """Measure missing cells."""
    own, more = split(words, {"only": "", "nfe": "", "results": str(FOLDER)})
    folder = Path(own["results"])
    if own["only"] not in ("", "rmse", "fid"):
        raise ConfigError(f"only={own['only']}: it can be rmse or fid")
    if own["nfe"] not in ("", *map(str, EVALUATIONS)):
        raise ConfigError(f"nfe={own['nfe']}: it can be {', '.join(map(str, EVALUATIONS))}")
    compose_runs(["dataset=digits", *more])  # refuses a wrong word before anything is measured
    warnings.filterwarnings("ignore", message="grid=leading with one step")
    if own["only"] in ("", "rmse"):
        measure_rmse(folder)
    if own["only"] in ("", "fid"):
        chosen = [cell for cell in distances() if own["nfe"] in ("", str(cell.nfe))]
        measure_fid(chosen, more, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
