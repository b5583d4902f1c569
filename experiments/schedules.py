"""The generalisation over variance schedules, from the measurements.

    python -m experiments.schedules

FID of the digits networks, which were trained on `linear` and `cosine`, from the main table; and
for every schedule of the package the distance to the exact solution where the best network is
known: a mixture of Gaussians in two dimensions, float64, `linspace`.
"""

from pathlib import Path

import pandas as pd
import torch

import pndm
from experiments.convergence import MIXTURE, rms
from experiments.main_table.cells import Results
from experiments.main_table.fid_by_steps import Line
from experiments.main_table.tables import by_steps
from experiments.pages import FOLDER, NAMES, markdown
from pndm._errors import prepare_console
from pndm.models.analytic import Mixture
from pndm.solvers import SOLVERS

METHODS = ("ddim", "s_pndm", "plms", "fon")
STEPS, FINE = (10, 20, 50, 100), 500
IMAGES = 64


def measure() -> pd.DataFrame:
    """Measure the distance to the ODE's solution from the same noise, on every schedule."""
    x_T = torch.randn(IMAGES, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = []
    for name, make in pndm.schedules.SCHEDULES.items():
        schedule = make()
        network = Mixture(schedule, MIXTURE.means, MIXTURE.variances, MIXTURE.weights)

        def end(solver, steps, network=network, schedule=schedule):
            return pndm.sample(
                network, x_T, solver=solver, schedule=schedule, steps=steps, grid="linspace"
            )

        exact = end(pndm.solvers.rk4_rho(), FINE)
        for solver in METHODS:
            for steps in STEPS:
                error = rms(end(SOLVERS[solver](), steps) - exact)
                rows.append({"schedule": name, "solver": solver, "steps": steps, "error": error})
    return pd.DataFrame(rows)


def page(table: pd.DataFrame, results: Results) -> str:
    """Both tables, in Markdown."""
    errors = table.pivot(index=["schedule", "solver"], columns="steps", values="error")
    rows = [
        {"schedule": name, "method": NAMES[solver]}
        | {str(steps): f"{errors.loc[(name, solver), steps]:.1e}" for steps in STEPS}
        for name in pndm.schedules.SCHEDULES
        for solver in METHODS
    ]
    lines = [Line(solver, STEPS[:3]) for solver in METHODS]
    fid = by_steps(results, "digits", STEPS[:3], lines)
    return "\n\n".join(
        [
            "# Over variance schedules",
            "    python -m experiments.schedules",
            "## FID of digits",
            "Networks were trained on these two schedules; of the others there are no weights.",
            markdown(fid),
            "## Distance to the exact solution, Gaussian mixture",
            f"Root mean square over {IMAGES} points, by steps of the `linspace` grid.",
            markdown(pd.DataFrame(rows)),
            "",
        ]
    )


def write(table: pd.DataFrame, folder: Path, results: Results | None = None) -> list[Path]:
    """Write schedules.md from schedules.csv and the main table."""
    path = folder / "schedules.md"
    path.write_text(page(table, results or Results.load(FOLDER)), encoding="utf-8")
    return [path]


def main() -> None:
    """Measure, write schedules.csv and the page."""
    measure().to_csv(FOLDER / "schedules.csv", index=False, float_format="%.6g")
    write(pd.read_csv(FOLDER / "schedules.csv"), FOLDER)


if __name__ == "__main__":
    prepare_console()
    main()
