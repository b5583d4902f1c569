"""Trajectory error of the trained networks compared with FID: the two differ.

    python -m experiments.trajectory_error

The distance of each method's images to the fine solution of the same network in float64, from the
same noise and time on the leading grid: root mean square over pixels in [−1, 1]. FID, of 1,797
images, is the main table's.
"""

from pathlib import Path

import pandas as pd

import pndm
from experiments.figures import STYLES, figure, plain_log, save
from experiments.fine_solution import solution
from experiments.main_table.cells import Results
from experiments.main_table.fid_by_steps import Cell
from experiments.pages import FOLDER, NAMES, markdown
from pndm._errors import prepare_console
from pndm.solvers import SOLVERS

METHODS = ("ddim", "s_pndm", "plms", "prk", "fon")
SCHEDULES = ("linear", "cosine")
STEPS = (5, 10, 20, 50, 100)
IMAGES = 16


def measure() -> pd.DataFrame:
    """Measure the error of every method at every number of steps, on both networks."""
    x_T = pndm.initial_noise(range(IMAGES), (1, 8, 8)).double()
    rows = []
    for name in SCHEDULES:
        network = pndm.models.load(f"digits_{name}").double()
        schedule = pndm.schedules.SCHEDULES[name]()
        for steps in STEPS:
            fine = solution(
                network, schedule, x_T, pndm.grids.times("leading", steps, schedule)[0]
            )
            for solver in METHODS:
                x = pndm.sample(
                    network, x_T, solver=SOLVERS[solver](), schedule=schedule, steps=steps
                )
                error = (x - fine).square().mean().sqrt().item()
                nfe = SOLVERS[solver]().nfe(steps)
                row = {"schedule": name, "solver": solver, "steps": steps, "nfe": nfe}
                rows.append({**row, "error": error, "images": IMAGES})
    return pd.DataFrame(rows)


def page(table: pd.DataFrame, results: Results) -> str:
    """Error and FID next to each other, in Markdown."""
    rows = []
    for (schedule, solver), group in table.groupby(["schedule", "solver"], sort=False):
        row = {"schedule": schedule, "method": NAMES[solver]}
        for _, entry in group.iterrows():
            cell = Cell(schedule, solver, "leading", "", entry["steps"], 0)
            fid = results.row("digits", cell)
            measured = fid is not None and fid["status"] == "complete"
            text = f"{fid['fid']:.2f}" if measured else "not run"
            row[str(entry["steps"])] = f"{entry['error']:.3f} / {text}"
        rows.append(row)
    return (
        "# Trajectory error and FID of the trained networks\n\n"
        f"Distance to the fine solution ({IMAGES} images, float64) / FID (1,797 images), by "
        f"steps.\n\n    python -m experiments.trajectory_error\n\n{markdown(pd.DataFrame(rows))}\n"
    )


def write(table: pd.DataFrame, folder: Path, results: Results | None = None) -> list[Path]:
    """Write trajectory_error.md and the figure from trajectory_error.csv and the main table."""
    path = folder / "trajectory_error.md"
    path.write_text(page(table, results or Results.load(FOLDER)), encoding="utf-8")
    with figure(10.5, 4.4, 2) as (fig, axes):
        for ax, schedule in zip(axes, SCHEDULES, strict=True):
            for solver in METHODS:
                colour, marker, line = STYLES[solver, "leading"]
                rows = table[(table["schedule"] == schedule) & (table["solver"] == solver)]
                look = {"color": colour, "marker": marker, "ls": line, "ms": 5}
                ax.plot(rows["nfe"], rows["error"], label=NAMES[solver], **look)
            ax.set(xscale="log", yscale="log", title=f"digits, {schedule} schedule")
            ax.set_xlabel("evaluations of the network (NFE)")
            plain_log(ax.xaxis)
            plain_log(ax.yaxis)
        axes[0].set_ylabel("distance to the fine solution (RMS)")
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
