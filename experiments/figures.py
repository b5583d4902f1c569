"""Figures: one look for all of them, written as PNG and SVG."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from experiments import tables
from experiments.cells import Results
from experiments.fid_by_steps import STEPS, Line

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

STYLES = {
    ("ddim", "leading"): ("#0072B2", "o", "-"),
    ("ddim", "quadratic"): ("#56B4E9", "o", "--"),
    ("s_pndm", "leading"): ("#E69F00", "s", "-"),
    ("plms", "leading"): ("#D55E00", "D", "-"),
    ("fon", "leading"): ("#009E73", "^", "-"),
    ("fon_released", "leading"): ("#009E73", "v", ":"),
    ("prk", "leading"): ("#CC79A7", "P", "-"),
    ("ddpm", "leading"): ("#7F7F7F", "x", "-"),
    ("pf", "leading"): ("#000000", "*", "--"),
}
"""Colour (Okabe & Ito's, safe for the colour-blind), marker and line of each method."""

LOOK = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "pndm",
    "svg.fonttype": "none",
}


@contextmanager
def figure(
    width: float, height: float, panels: int = 1, sharey: bool = True, rows: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of some panels side by side, in rows, in the common look, closed afterwards."""
    with plt.rc_context(LOOK):
        made, axes = plt.subplots(
            rows,
            panels // rows,
            figsize=(width, height),
            sharey=sharey,
            squeeze=False,
            layout="constrained",
        )
        try:
            yield made, list(axes.flat)
        finally:
            plt.close(made)


def save(made: Figure, stem: Path) -> list[Path]:
    """STEM.png and STEM.svg, without dates, so the same data give the same files."""
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    made.savefig(paths[0], dpi=150, metadata={"Software": None})
    made.savefig(paths[1], metadata={"Date": None})
    return paths


def plain_log(axis: Axis, ticks: Sequence[float] = ()) -> None:
    """Written-out numbers on a logarithmic axis, at `ticks` or at 1, 2, 5, 10 …"""
    axis.set_major_locator(FixedLocator(ticks) if ticks else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_locator(NullLocator())


def write_fid_by_steps(results: Results, dataset: str, folder: Path) -> list[Path]:
    """FID against evaluations, a panel for each schedule; nothing where nothing was measured."""
    cells = tables.first_seeds(results, dataset)
    if cells.empty:
        return []
    panels = tables.schedules(dataset)
    with figure(1.2 + 4.4 * len(panels), 4.6, len(panels)) as (made, axes):
        for ax, schedule in zip(axes, panels, strict=True):
            here = cells[cells["schedule"] == schedule]
            for (solver, grid), (colour, marker, line) in STYLES.items():
                draw(ax, here, Line(solver, (), grid), colour, marker, line)
            floor = results.floor(dataset)
            if floor is not None:
                ax.axhline(floor, color="0.35", lw=1, ls=(0, (1, 2)), label="other real data")
            ax.set(title=f"{dataset}, {schedule} schedule", xscale="log", yscale="log")
            ax.set_xlabel("evaluations of the network (NFE)")
            plain_log(ax.xaxis, STEPS)
            plain_log(ax.yaxis)
        axes[0].set_ylabel(f"FID ± standard error, {cells['extractor'].iloc[0]} features")
        handles = {h.get_label(): h for ax in axes for h in _handles(ax)}
        made.legend(handles.values(), handles.keys(), loc="outside right center")
        return save(made, folder / f"fid_by_steps_{dataset}")


def _handles(ax: Axes) -> list:
    handles, labels = ax.get_legend_handles_labels()
    for handle, name in zip(handles, labels, strict=True):
        handle.set_label(name)
    return handles


def draw(ax: Axes, cells: pd.DataFrame, line: Line, colour: str, marker: str, style: str) -> None:
    """One method's cells with their standard errors (the intervals are of FID without bias)."""
    mine = cells[(cells["solver"] == line.solver) & (cells["grid"] == line.grid)]
    mine = mine.sort_values("nfe")
    if mine.empty:
        return
    name = "PF, four tolerances" if line.solver == "pf" else tables.label(line)
    ax.errorbar(
        mine["nfe"],
        mine["fid"],
        yerr=mine["se"].fillna(0),
        color=colour,
        marker=marker,
        ls=style,
        ms=5,
        lw=1.4,
        capsize=2,
        label=name,
    )
