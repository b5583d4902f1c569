"""Orders of convergence: the decay of each method's error with its step size.

    python -m experiments.convergence

On a Gaussian mixture the best network is known exactly, so the error is the solver's alone:
float64, the smooth `vp` schedule, even steps in t from 990 to 50. The reference is RK4 of eq. 10
(the starter of FON in every step) on a much finer list of times; what it may be wrong by itself,
its distance to the same with half the steps, is at most 1 % of the smallest error measured. An
order is the slope of log error on log step.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import pndm
from experiments.figures import STYLES, figure, plain_log, save
from experiments.fine_solution import rms
from experiments.pages import FOLDER, NAMES, markdown
from pndm._errors import prepare_console
from pndm.models.analytic import Mixture
from pndm.solvers import SOLVERS, Solver
from pndm.solvers.gradient import RK4
from pndm.solvers.transfer import Classical

START, END = 990.0, 50.0
SCHEDULE = pndm.schedules.vp()
MIXTURE = Mixture(
    SCHEDULE,
    means=torch.tensor([[-0.6, 0.3], [0.5, -0.2], [0.2, 0.7]], dtype=torch.float64),
    variances=torch.tensor([0.2, 0.3, 0.25], dtype=torch.float64),
    weights=torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64),
)
IMAGES = 64
REFERENCE = Solver("rk4", Classical(), RK4)
REFERENCE_STEPS = 2560

EXPECTED = {"ddim": 1, "s_pndm": 2, "plms": 2, "prk": 2, "fon": 4}
TOLERANCE = dict.fromkeys(EXPECTED, 0.15) | {"fon": 0.3}
STEPS = (10, 20, 40, 80, 160, 320, 640)

FITTED = dict.fromkeys(EXPECTED, (320, 640)) | {"fon": (80, 160, 320)}
"""The steps at which the order is fitted: the leading term dominates, rounding is negligible."""


def end(solver: Solver, x_T: Tensor, steps: int) -> Tensor:
    """The end points at time END of the trajectories from x_T [B, 2]."""
    grid = np.linspace(START, END, steps + 1)
    return pndm.sample(MIXTURE, x_T, solver=solver, schedule=SCHEDULE, grid=grid)


def measure() -> pd.DataFrame:
    """Measure the error of every method at every number of steps, and that of the reference."""
    x_T = torch.randn(IMAGES, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = end(REFERENCE, x_T, REFERENCE_STEPS)
    uncertain = rms(exact - end(REFERENCE, x_T, REFERENCE_STEPS // 2))
    rows = [
        {"solver": name, "steps": steps, "error": rms(end(SOLVERS[name](), x_T, steps) - exact)}
        for name in EXPECTED
        for steps in STEPS
        if name != "fon" or steps <= max(FITTED["fon"])
    ]
    table = pd.DataFrame(rows).assign(reference_error=uncertain)
    if uncertain > 0.01 * table["error"].min():
        raise ArithmeticError(
            f"the reference's error {uncertain:.1e} is above 1 % of the smallest measured, "
            f"{table['error'].min():.1e}: give it more steps"
        )
    return table


def orders(table: pd.DataFrame) -> pd.DataFrame:
    """The fitted and expected order of every method, with a verdict."""
    rows = []
    for name, expected in EXPECTED.items():
        points = table[(table["solver"] == name) & table["steps"].isin(FITTED[name])]
        order = -np.polyfit(np.log(points["steps"]), np.log(points["error"]), 1)[0]
        agrees = abs(order - expected) <= TOLERANCE[name]
        rows.append(
            {
                "method": NAMES[name],
                "expected": str(expected),
                "fitted": f"{order:.2f}",
                "steps": f"{min(FITTED[name])} to {max(FITTED[name])}",
                "verdict": "agrees" if agrees else "does not agree",
            }
        )
    return pd.DataFrame(rows)


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write convergence.md and the figure from convergence.csv."""
    page = folder / "convergence.md"
    note = (
        "Orders on a Gaussian mixture, float64, `vp` schedule, t from 990 to 50; the reference's "
        f"own error is {table['reference_error'].iloc[0]:.0e}.\n\n    python -m "
        "experiments.convergence"
    )
    page.write_text(f"# Convergence\n\n{note}\n\n{markdown(orders(table))}\n", encoding="utf-8")
    with figure(6.4, 4.6) as (fig, (ax,)):
        for name in EXPECTED:
            rows, (colour, marker, line) = table[table["solver"] == name], STYLES[name, "leading"]
            order = orders(table).set_index("method")["fitted"][NAMES[name]]
            label = f"{NAMES[name]}, order {order}"
            ax.plot(rows["steps"], rows["error"], line, color=colour, marker=marker, label=label)
        ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="error at t = 50 (RMS)")
        ax.set_title("Gaussian mixture, exact network")
        plain_log(ax.xaxis, STEPS)
        ax.legend()
        return [page, *save(fig, folder / "convergence")]


def main() -> None:
    """Measure, write convergence.csv, the page and the figure; SystemExit if orders disagree."""
    table = measure()
    table.to_csv(FOLDER / "convergence.csv", index=False, float_format="%.6g")
    write(table, FOLDER)
    print(orders(table).to_string(index=False))
    sys.exit(int((orders(table)["verdict"] != "agrees").any()))


if __name__ == "__main__":
    prepare_console()
    main()
