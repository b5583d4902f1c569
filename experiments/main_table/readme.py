"""The README's results, rendered from the committed CSV files alone."""

import os
from pathlib import Path

from experiments.main_table import claims
from experiments.main_table.cells import DATASETS, Results
from experiments.main_table.fid_by_steps import Line
from experiments.main_table.tables import caption, measured, wide
from experiments.pages import markdown

PAGE = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
STEPS = (10, 20, 50, 250, 1000)
LINES = tuple(
    Line(solver, (10, 20, 50, 250, 1000) if solver != "fon" else (10, 20, 50, 250))
    for solver in ("ddim", "s_pndm", "plms", "fon")
)


def update(page: str, results: Results, folder: Path) -> str:
    """A page with the part between its markers made anew; ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}: put them where the results belong")
    return f"{before}{BEGIN}\n{block(results, folder)}\n{END}{after}"


def block(results: Results, folder: Path) -> str:
    """Figure, small table, the abstract's claims, and the commands that made them."""
    path = os.path.relpath(folder, PAGE.parent)
    parts = []
    if len(measured(results, "digits")):
        parts += [f"![FID against evaluations of the network]({path}/fid_by_steps_digits.png)"]
    parts += [
        "FID on digits by steps. " + caption(results, "digits"),
        markdown(wide(results, "digits", STEPS, LINES)),
        "The abstract's claims on digits, as paired differences of FID from the same seeds:",
        markdown(claimed(results)),
        "Everything that was measured: "
        + ", ".join(f"[{d}]({path}/fid_by_steps_{d}.md)" for d in DATASETS)
        + f" (beside the published numbers), [claims]({path}/claims.csv).",
    ]
    return "\n\n".join(parts)


def claimed(results: Results):
    """The claims on digits as text."""
    table = claims.table(results)
    table = table[(table["dataset"] == "digits") & (table["seed"] == 0)]
    numbers = [
        ""
        if row["verdict"] == "not run"
        else f"{row['difference']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        for _, row in table.iterrows()
    ]
    shown = table[["claim", "schedule"]].assign(difference=numbers, verdict=table["verdict"])
    return shown.rename(columns={"difference": "difference (95 %)", "verdict": "FID is"})
