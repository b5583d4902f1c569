"""FID by evaluations: the figure of the main table."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from experiments.figures import STYLES, figure, plain_log, save
from experiments.main_table.cells import Results
from experiments.main_table.fid_by_steps import STEPS, Line
from experiments.main_table.tables import first_seeds, label, schedules


def write_fid_by_steps(results: Results, dataset: str, folder: Path) -> list[Path]:
    """Plot FID against evaluations, one panel per schedule; no figure without measurements."""
    cells = first_seeds(results, dataset)
    if cells.empty:
        return []
    panels = schedules(dataset)
    with figure(1.2 + 4.4 * len(panels), 4.6, len(panels)) as (fig, axes):
        for ax, schedule in zip(axes, panels, strict=True):
            rows = cells[cells["schedule"] == schedule]
            for (solver, grid), (colour, marker, line) in STYLES.items():
                draw(ax, rows, Line(solver, (), grid), colour, marker, line)
            floor = results.floor(dataset)
            if floor is not None:
                ax.axhline(floor, color="0.35", lw=1, ls=(0, (1, 2)), label="other real data")
            ax.set(title=f"{dataset}, {schedule} schedule", xscale="log", yscale="log")
            ax.set_xlabel("evaluations of the network (NFE)")
            plain_log(ax.xaxis, STEPS)
            plain_log(ax.yaxis)
        axes[0].set_ylabel(f"FID ± standard error, {cells['extractor'].iloc[0]} features")
        handles = {h.get_label(): h for ax in axes for h in _handles(ax)}
        fig.legend(handles.values(), handles.keys(), loc="outside right center")
        return save(fig, folder / f"fid_by_steps_{dataset}")


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
    name = "PF, four tolerances" if line.solver == "pf" else label(line)
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
