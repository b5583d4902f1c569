"""Trajectory error of the trained networks compared with FID: the two differ.

    python -m experiments.trajectory_error

The distance of each method's images to the fine solution of the same network, from the same noise
and time on the leading grid: root mean square over pixels in [−1, 1]. Digits are in float64,
clothes in float32, whose rounding is far below the distances. FID is the main table's.
"""

from itertools import product
from pathlib import Path

import pandas as pd
import torch

import pndm
from experiments.figures import STYLES, figure, plain_log, save
from experiments.fine_solution import rms, solution
from experiments.main_table.cells import Results
from experiments.main_table.fid_by_steps import Cell
from experiments.pages import FOLDER, NAMES, markdown, select
from pndm._errors import prepare_console
from pndm.solvers import SOLVERS

METHODS = ("ddim", "s_pndm", "plms", "prk", "fon")
SCHEDULES = ("linear", "cosine")
STEPS = (5, 10, 20, 50, 100)
IMAGES = 16
NETWORKS = {"digits": ("digits", torch.float64), "fashion_mnist": ("fashion", torch.float32)}
"""What the names of a dataset's networks begin with, and the precision."""


def measure() -> pd.DataFrame:
    """Measure the error of every method at every number of steps, on all networks."""
    rows = []
    for (dataset, (prefix, dtype)), name in product(NETWORKS.items(), SCHEDULES):
        network = pndm.models.load(f"{prefix}_{name}").to(dtype)
        schedule = pndm.schedules.SCHEDULES[name]()
        x_T = pndm.initial_noise(range(IMAGES), network.arch.image).to(dtype)
        for steps in STEPS:
            start = pndm.grids.times("leading", steps, schedule)[0]
            fine = solution(network, schedule, x_T, start)
            for solver in METHODS:
                method = SOLVERS[solver]()
                x = pndm.sample(network, x_T, solver=method, schedule=schedule, steps=steps)
                error = rms(x - fine)
                row = {"dataset": dataset, "schedule": name, "solver": solver, "steps": steps}
                rows.append({**row, "nfe": method.nfe(steps), "error": error, "images": IMAGES})
            print(dataset, name, steps, flush=True)
    return pd.DataFrame(rows)


def page(table: pd.DataFrame, results: Results) -> str:
    """Error and FID next to each other, in Markdown."""
    rows = []
    for key, group in table.groupby(["dataset", "schedule", "solver"], sort=False):
        dataset, schedule, solver = key
        row = {"dataset": dataset, "schedule": schedule, "method": NAMES[solver]}
        for _, entry in group.iterrows():
            cell = Cell(schedule, solver, "leading", "", entry["steps"], 0)
            fid = results.row(dataset, cell)
            measured = fid is not None and fid["status"] == "complete"
            text = f"{fid['fid']:.2f}" if measured else "not run"
            row[str(entry["steps"])] = f"{entry['error']:.3f} / {text}"
        rows.append(row)
    return (
        "# Trajectory error and FID of the trained networks\n\n"
        f"Distance to the fine solution ({IMAGES} images; digits in float64, Fashion-MNIST in "
        "float32) / FID of the main table, by steps.\n\n"
        "    python -m experiments.trajectory_error\n\n"
        f"{markdown(pd.DataFrame(rows))}\n"
    )


def write(table: pd.DataFrame, folder: Path, results: Results | None = None) -> list[Path]:
    """Write trajectory_error.md and the figure from trajectory_error.csv and the main table."""
    path = folder / "trajectory_error.md"
    path.write_text(page(table, results or Results.load(FOLDER)), encoding="utf-8")
    with figure(10.5, 8.2, 4, rows=2) as (fig, axes):
        for ax, (dataset, schedule) in zip(axes, product(NETWORKS, SCHEDULES), strict=True):
            for solver in METHODS:
                colour, marker, line = STYLES[solver, "leading"]
                rows = select(table, dataset=dataset, schedule=schedule, solver=solver)
                look = {"color": colour, "marker": marker, "ls": line, "ms": 5}
                ax.plot(rows["nfe"], rows["error"], label=NAMES[solver], **look)
            ax.set(xscale="log", yscale="log", title=f"{dataset}, {schedule} schedule")
            ax.set_xlabel("evaluations of the network (NFE)")
            plain_log(ax.xaxis)
            plain_log(ax.yaxis)
        for ax in axes[::2]:
            ax.set_ylabel("distance to the fine solution (RMS)")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
        return [path, *save(fig, folder / "trajectory_error")]


def main() -> None:
    """Measure, write trajectory_error.csv, the page and the figure."""
    table = measure()
    table.to_csv(FOLDER / "trajectory_error.csv", index=False, float_format="%.6g")
    write(pd.read_csv(FOLDER / "trajectory_error.csv"), FOLDER)


if __name__ == "__main__":
    prepare_console()
    main()
