"""The README's results, rendered from the committed CSV files alone."""

import os
from pathlib import Path

import pandas as pd

from experiments.main_table import claims
from experiments.main_table.cells import DATASETS, Results
from experiments.main_table.fid_by_steps import CLASSICAL_2, EULER, Line
from experiments.main_table.tables import COMMANDS, measured, wide
from experiments.pages import markdown

PAGE = Path(__file__).parents[2] / "README.md"
STEPS = (10, 20, 50, 250, 1000)
LINES = tuple(
    Line(solver, (10, 20, 50, 250, 1000) if solver != "fon" else (10, 20, 50, 250))
    for solver in ("ddim", "s_pndm", "plms", "fon")
)


CLOTHES = (5, 10, 20, 50, 250, 1000)
OF_CLOTHES = tuple(
    Line(solver, CLOTHES if solver in ("ddim", "plms") else CLOTHES[:-1], options=options)
    for solver, options in (
        ("ddim", ""),
        ("multistep", EULER),
        ("s_pndm", ""),
        ("multistep", CLASSICAL_2),
        ("plms", ""),
        ("fon", ""),
    )
)


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
        markdown(wide(results, "digits", STEPS, LINES)),
        "The abstract's claims on digits, as differences of FID between runs from the same seeds:",
        markdown(claimed(results, "digits")),
        clothes(results),
        markdown(wide(results, "fashion_mnist", CLOTHES, OF_CLOTHES)),
        "The abstract's claims on clothes:",
        markdown(claimed(results, "fashion_mnist")),
        "All methods, steps and seeds, next to the published numbers, with the reference and the "
        "code that each cell was measured with: "
        + ", ".join(f"[{d}]({path}/fid_by_steps_{d}.md)" for d in DATASETS)
        + f", [claims]({path}/claims.csv).",
    ]
    return "\n\n".join(parts)


def clothes(results: Results) -> str:
    """The caption of the table of clothes."""
    cells = measured(results, "fashion_mnist")
    if cells.empty:
        return "Fashion-MNIST: not run."
    (samples,), floor = cells["samples"].unique(), results.floor("fashion_mnist")
    return (
        f"Fashion-MNIST, {samples} images per cell, 128 features of a classifier trained here; as "
        f"many real test images score {floor:.2f}, nearly all of it the bias of so few. Each "
        "pseudo method stands beside its classical twin; "
        "[paired differences](experiments/results/twins.md) are far more certain than ±:"
    )


def introduction(results: Results) -> str:
    """The caption of the small table; references and hashes are in the full table."""
    cells = measured(results, "digits")
    if cells.empty:
        return "FID on digits by number of steps: not run."
    (samples,) = cells["samples"].unique()
    text = (
        f"FID on digits by number of steps, {samples:,} images per cell, ± the standard error (a "
        "jackknife over 20 blocks of seeds)."
    )
    floor = results.floor("digits")
    if floor is not None:
        text += (
            f" Held-out real digits would score about {floor:.2f}; the networks were trained on "
            "the reference itself, so they can score lower."
        )
    return text


def claimed(results: Results, dataset: str) -> pd.DataFrame:
    """The claims on a dataset as text."""
    table = claims.table(results)
    table = table[(table["dataset"] == dataset) & (table["seed"] == 0)]
    numbers = [
        ""
        if row["verdict"] == "not run"
        else f"{row['difference']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        for _, row in table.iterrows()
    ]
    display = table[["claim", "schedule"]].assign(difference=numbers, verdict=table["verdict"])
    return display.rename(columns={"difference": "difference (95 %)", "verdict": "FID is"})
