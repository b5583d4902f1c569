"""Figures in one common style, written as PNG and SVG."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

matplotlib.use("agg")

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
    width: float, height: float, panels: int = 1, sharey: bool | str = True, rows: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of panels in rows, in the common style, closed afterwards."""
    with plt.rc_context(LOOK):
        fig, axes = plt.subplots(
            rows,
            panels // rows,
            figsize=(width, height),
            sharey=sharey,
            squeeze=False,
            layout="constrained",
        )
        try:
            yield fig, list(axes.flat)
        finally:
            plt.close(fig)


def save(fig: Figure, stem: Path) -> list[Path]:
    """Write STEM.png and STEM.svg, without dates, so the same data give the same files."""
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    fig.savefig(paths[0], dpi=150, metadata={"Software": None})
    fig.savefig(paths[1], metadata={"Date": None})
    return paths


def plain_log(axis: Axis, ticks: Sequence[float] = ()) -> None:
    """Label a logarithmic axis with plain numbers, at `ticks` or at 1, 2, 5, 10 …"""
    axis.set_major_locator(FixedLocator(ticks) if ticks else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_locator(NullLocator())
