"""FID by evaluations: the figure of the main table."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from experiments.figures import STYLES, figure, plain_log, save
from experiments.main_table.cells import Results
from experiments.main_table.fid_by_steps import STEPS, Line
from experiments.main_table.tables import first_seeds, label, schedules

MEASURED_HERE = ("digits", "fashion_mnist")
"""The datasets whose networks ship with the package."""


def write_fid_by_steps(results: Results, dataset: str, folder: Path) -> list[Path]:
    """Plot FID against evaluations, one panel per schedule; no figure without measurements."""
    return write_figure(results, [dataset], folder / f"fid_by_steps_{dataset}")


def write_overview(results: Results, folder: Path) -> list[Path]:
    """Plot the datasets that are measured here in one figure."""
    return write_figure(results, MEASURED_HERE, folder / "fid_by_steps")


def write_figure(results: Results, datasets: Sequence[str], stem: Path) -> list[Path]:
    """A row of panels for each dataset with measurements; no figure if there is none."""
    cells = {dataset: first_seeds(results, dataset) for dataset in datasets}
    panels = [(d, schedule) for d in datasets if len(cells[d]) for schedule in schedules(d)]
    if not panels:
        return []
    rows = len({dataset for dataset, _ in panels})
    columns = len(panels) // rows
    with figure(1.2 + 4.4 * columns, 4.6 * rows, len(panels), "row", rows) as (fig, axes):
        for ax, (dataset, schedule) in zip(axes, panels, strict=True):
            own = cells[dataset]
            draw_panel(ax, own[own["schedule"] == schedule], results.floor(dataset))
            ax.set(title=f"{dataset}, {schedule} schedule")
        for ax, (dataset, _) in list(zip(axes, panels, strict=True))[::columns]:
            ax.set_ylabel(f"FID ± standard error, {cells[dataset]['extractor'].iloc[0]} features")
        handles = {h.get_label(): h for ax in axes for h in _handles(ax)}
        fig.legend(handles.values(), handles.keys(), loc="outside right center")
        return save(fig, stem)


def draw_panel(ax: Axes, cells: pd.DataFrame, floor: float | None) -> None:
    """Plot the cells of a dataset and schedule, and the FID of other real data."""
    for (solver, grid), (colour, marker, line) in STYLES.items():
        draw(ax, cells, Line(solver, (), grid), colour, marker, line)
    if floor is not None:
        ax.axhline(floor, color="0.35", lw=1, ls=(0, (1, 2)), label="other real data")
    ax.set(xscale="log", yscale="log", xlabel="evaluations of the network (NFE)")
    plain_log(ax.xaxis, STEPS)
    plain_log(ax.yaxis)


def _handles(ax: Axes) -> list:
    handles, labels = ax.get_legend_handles_labels()
    for handle, name in zip(handles, labels, strict=True):
        handle.set_label(name)
    return handles


def draw(ax: Axes, cells: pd.DataFrame, line: Line, colour: str, marker: str, style: str) -> None:
    """Plot one method's cells with their standard errors (intervals are of bias-corrected FID)."""
    rows = cells[(cells["solver"] == line.solver) & (cells["grid"] == line.grid)]
    rows = rows.sort_values("nfe")
    if rows.empty:
        return
    name = label(line)
    if line.solver == "pf" and len(rows) > 1:
        name = f"PF, {len(rows)} tolerances"
    ax.errorbar(
        rows["nfe"],
        rows["fid"],
        yerr=rows["se"].fillna(0),
        color=colour,
        marker=marker,
        ls=style,
        ms=5,
        lw=1.4,
        capsize=2,
        label=name,
    )
