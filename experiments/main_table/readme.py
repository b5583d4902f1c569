"""The README's results, rendered from the committed CSV files alone."""

import os
from pathlib import Path

import pandas as pd

from experiments.main_table import claims
from experiments.main_table.cells import DATASETS, Results
from experiments.main_table.fid_by_steps import CLASSICAL_2, EULER, Line
from experiments.main_table.tables import COMMANDS, by_steps, floor_note, measured
from experiments.pages import interval, markdown

PAGE = Path(__file__).parents[2] / "README.md"
STEPS = (10, 20, 50, 250, 1000)
LINES = tuple(
    Line(solver, STEPS if solver != "fon" else STEPS[:-1])
    for solver in ("ddim", "s_pndm", "plms", "fon")
)
"""The part of the digits' table that the README shows."""

FASHION_STEPS = (5, *STEPS)
FASHION_LINES = tuple(
    Line(
        solver,
        FASHION_STEPS if solver in ("ddim", "plms") else FASHION_STEPS[:-1],
        options=options,
    )
    for solver, options in (
        ("ddim", ""),
        ("multistep", EULER),
        ("s_pndm", ""),
        ("multistep", CLASSICAL_2),
        ("plms", ""),
        ("fon", ""),
    )
)
"""That of Fashion-MNIST: each pseudo method below its classical twin."""


def update(page: str, results: Results, folder: Path) -> str:
    """The page with these results."""
    return replace_part(page, "results", block(results, folder))


def replace_part(page: str, name: str, text: str) -> str:
    """Replace what stands between the markers of a name; ValueError if the page has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"the page has no {begin} … {end}: put them where the results belong")
    return f"{before}{begin}\n{text}\n{end}{after}"


def block(results: Results, folder: Path) -> str:
    """The small table, the abstract's claims, and the commands that generated them."""
    path = os.path.relpath(folder, PAGE.parent)
    parts = [
        introduction(results),
        f"    {COMMANDS['digits']}",
        markdown(by_steps(results, "digits", STEPS, LINES)),
        "The abstract's claims on digits, as differences of FID between runs from the same seeds:",
        markdown(claimed(results, "digits")),
        fashion(results, path),
        markdown(by_steps(results, "fashion_mnist", FASHION_STEPS, FASHION_LINES)),
        "The abstract's claims on Fashion-MNIST:",
        markdown(claimed(results, "fashion_mnist")),
        "All methods, steps and seeds, next to the published numbers, with the reference and the "
        "code that each cell was measured with: "
        + ", ".join(f"[{d}]({path}/fid_by_steps_{d}.md)" for d in DATASETS)
        + f", [claims]({path}/claims.csv).",
    ]
    return "\n\n".join(parts)


def fashion(results: Results, path: str) -> str:
    """The caption of the table of Fashion-MNIST."""
    cells = measured(results, "fashion_mnist")
    if cells.empty:
        return "Fashion-MNIST: not run."
    (samples,), floor = cells["samples"].unique(), results.floor("fashion_mnist")
    return (
        f"Fashion-MNIST, {samples} images per cell, 128 features of a classifier trained here; as "
        f"many real test images score {floor:.2f}, nearly all of it the bias of so few. Each "
        "pseudo method stands beside its classical twin; "
        f"[paired differences]({path}/twins.md) are far more certain than ±:"
    )


def introduction(results: Results) -> str:
    """The caption of the small table; references and hashes are in the full table."""
    cells = measured(results, "digits")
    if cells.empty:
        return "FID on digits by number of steps: not run."
    (samples,) = cells["samples"].unique()
    return (
        f"FID on digits by number of steps, {samples:,} images per cell, ± the standard error (a "
        f"jackknife over 20 blocks of seeds).{floor_note(results, 'digits')}"
    )


def claimed(results: Results, dataset: str) -> pd.DataFrame:
    """The claims on a dataset as text."""
    table = claims.table(results)
    table = table[(table["dataset"] == dataset) & (table["seed"] == 0)]
    numbers = [
        "" if row["verdict"] == "not run" else interval(*row[["difference", "low", "high"]])
        for _, row in table.iterrows()
    ]
    display = table[["claim", "schedule"]].assign(difference=numbers, verdict=table["verdict"])
    return display.rename(columns={"difference": "difference (95 %)", "verdict": "FID is"})
