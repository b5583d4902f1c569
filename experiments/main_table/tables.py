"""The main table in Markdown and LaTeX, and its page."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from experiments.main_table.cells import DATASETS, Results, published
from experiments.main_table.fid_by_steps import (
    CLASSICAL_2,
    EULER,
    SCHEDULES,
    STEPS,
    Cell,
    Line,
    cells,
    lines,
)
from experiments.pages import NAMES, interval, markdown

HELD_OUT = {
    "digits": "Held-out real digits would score about",
    "fashion_mnist": "As many test images score",
}
"""The real images whose FID is the floor of a table, as the beginning of a sentence."""

ADAPTIVE = "adaptive"
"""The column of adaptive methods."""

TWINS = {EULER: "Euler, classical", CLASSICAL_2: "AB2, classical"}
"""The names of the classical twins of DDIM and S-PNDM, by their options."""

COMMANDS = {
    dataset: f"python -m experiments.main_table.fid_by_steps dataset={dataset} && "
    "python -m experiments.main_table.collect"
    for dataset in DATASETS
}


def schedules(dataset: str) -> tuple[str, ...]:
    """The table's schedules for which a dataset has weights."""
    return SCHEDULES[:1] if dataset == "celeba" else SCHEDULES


def label(line: Line) -> str:
    """The display name of a line."""
    if line.solver == "pf":
        words = dict(word.split("=") for word in line.options.split())
        return f"PF, tolerance {float(words.get('solver.rtol', 1e-5)):.0e}".replace("e-0", "e-")
    name = NAMES.get(line.solver) or TWINS.get(line.options)
    name = name or f"{line.solver} {line.options.replace('solver.', '')}"
    return name.strip() + (f", {line.grid}" if line.grid != "leading" else "")


def text(row: pd.Series | None) -> str:
    """Format a cell: its FID ± the standard error, or why there is none."""
    if row is None:
        return "not run"
    if row["status"] != "complete" or pd.isna(row["fid"]):
        return row["status"] if row["status"] != "complete" else "no FID"
    error = "" if pd.isna(row["se"]) else f" ± {row['se']:.2f}"
    nfe = f" ({row['nfe']:.0f} NFE)" if pd.isna(row["steps"]) else ""
    return f"{row['fid']:.2f}{error}{nfe}"


def by_steps(
    results: Results, dataset: str, steps: Sequence[int] = STEPS, chosen: Sequence[Line] = ()
) -> pd.DataFrame:
    """The table as text, a line per schedule and method, a column per number of steps.

    Published numbers are in brackets. "–" is a cell that is not part of the table.
    """
    numbers, rows = published(), []
    chosen = chosen or lines(0, dataset)
    for schedule in schedules(dataset):
        for line in chosen:
            row = {"schedule": schedule, "method": label(line)}
            for n in (*steps, None):
                cell = Cell(schedule, line.solver, line.grid, line.options, n, 0)
                ours = text(results.row(dataset, cell)) if n in line.steps else "–"
                others = published_fids(numbers, dataset, cell)
                row[ADAPTIVE if n is None else str(n)] = f"{ours} [{others}]" if others else ours
            rows.append(row)
    table = pd.DataFrame(rows)
    return table if any(None in line.steps for line in chosen) else table.drop(columns=ADAPTIVE)


def published_fids(numbers: pd.DataFrame, dataset: str, cell: Cell) -> str:
    """The published numbers of a cell."""
    if cell.steps is None or cell.options:
        return ""
    method = cell.solver + ("_quadratic" if cell.grid == "quadratic" else "")
    same = (numbers["dataset"] == dataset) & (numbers["schedule"] == cell.schedule)
    same &= (numbers["method"] == method) & (numbers["steps"] == cell.steps).fillna(False)
    return ", ".join(f"{value:.2f}" for value in numbers["fid"][same])


def by_nfe(results: Results, dataset: str) -> pd.DataFrame:
    """The measurements with seed set 0, by network evaluations."""
    cells = first_seeds(results, dataset)
    rows = [
        {
            "NFE": f"{cell['nfe']:.0f}",
            "schedule": cell["schedule"],
            "method": label(Line(cell["solver"], (), cell["grid"], cell["options"])),
            "steps": "–" if pd.isna(cell["steps"]) else str(cell["steps"]),
            "FID": f"{cell['fid']:.2f}",
            "without bias, 95 %": corrected(cell),
            "n → ∞": infinity(results, dataset, cell),
            "seconds": f"{cell['seconds']:.0f}",
        }
        for _, cell in cells.sort_values(["schedule", "nfe", "fid"]).iterrows()
    ]
    columns = ["NFE", "schedule", "method", "steps", "FID", "without bias, 95 %", "n → ∞"]
    return pd.DataFrame(rows, columns=[*columns, "seconds"])


def infinity(results: Results, dataset: str, row: pd.Series) -> str:
    """The FID of a cell extrapolated to n → ∞."""
    values = results.without(dataset, Cell(*(row[name] for name in Cell._fields)))
    return "–" if values is None else f"{values['infinity']:.2f}"


def corrected(cell: pd.Series) -> str:
    """The bias-corrected estimate, and its interval."""
    if pd.isna(cell["se"]):
        return "–"
    return interval(*cell[["bias_corrected", "low", "high"]])


def by_seed(results: Results, dataset: str) -> pd.DataFrame:
    """Cells with several sets of seeds: mean, standard deviation, minimum."""
    cells = measured(results, dataset)
    rows = []
    for (schedule, solver, options, steps), group in cells[cells["grid"] == "leading"].groupby(
        ["schedule", "solver", "options", "steps"], sort=False
    ):
        if len(group) > 1 and len(group) == group["seed"].nunique():
            fid = group["fid"]
            method = label(Line(solver, (), options=options))
            row = {"schedule": schedule, "method": method, "steps": str(steps)}
            row |= {"sets": str(len(group)), "mean ± sd": f"{fid.mean():.2f} ± {fid.std():.2f}"}
            rows.append({**row, "minimum": f"{fid.min():.2f}"})
    columns = ["schedule", "method", "steps", "sets", "mean ± sd", "minimum"]
    return pd.DataFrame(rows, columns=columns)


def measured(results: Results, dataset: str) -> pd.DataFrame:
    """A dataset's complete cells with an FID."""
    cells = results.cells
    return cells[(cells["dataset"] == dataset) & cells["fid"].notna()]


def first_seeds(results: Results, dataset: str) -> pd.DataFrame:
    """Those of seed set 0 in the aligned convention."""
    cells = measured(results, dataset)
    return cells[(cells["convention"] == "aligned") & (cells["seed"] == 0)]


def latex(table: pd.DataFrame) -> str:
    """Format a table of text as LaTeX, for `booktabs`."""
    lines = [" & ".join(map(_tex, line)) + r" \\" for line in table.values.tolist()]
    head = " & ".join(map(_tex, table.columns)) + r" \\"
    begin = r"\begin{tabular}{" + "l" * table.shape[1] + "}"
    middle = [r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
    return "\n".join([begin, *middle, r"\end{tabular}", ""])


def _tex(word: str) -> str:
    for plain, escaped in (("±", r"$\pm$"), ("–", "--"), ("%", r"\%"), ("_", r"\_")):
        word = word.replace(plain, escaped)
    return word


def caption(results: Results, dataset: str) -> str:
    """The provenance of a dataset's numbers, as text."""
    cells = measured(results, dataset)
    if cells.empty:
        origin = "Nothing of this table was run yet."
    else:
        (samples,), (reference,) = cells["samples"].unique(), cells["reference"].unique()
        codes = ", ".join(sorted(cells["code"].unique()))
        origin = (
            f"{samples} images per cell, ± the standard error of a jackknife over 20 blocks of "
            f"seeds; {reference}; code {codes}."
        )
        origin += floor_note(results, dataset)
    numbers = published()
    if dataset in set(numbers["dataset"]):
        origin += " In brackets: published numbers, from experiments/main_table/published.csv."
    return f"{origin}\n\n    {COMMANDS[dataset]}"


def floor_note(results: Results, dataset: str) -> str:
    """The FID of real images that the networks did not see; empty if it is unknown."""
    floor = results.floor(dataset)
    if floor is None:
        return ""
    return (
        f" {HELD_OUT[dataset]} {floor:.2f}; the networks were trained on the reference itself, so "
        "they can score lower."
    )


def summary(results: Results, dataset: str) -> str:
    """The number of complete cells, and the failed ones."""
    complete, failed, total = 0, [], 0
    for cell in _declared(dataset):
        row, total = results.row(dataset, cell), total + 1
        if row is not None and row["status"] == "complete":
            complete += 1
        elif row is not None:
            where = f"{cell.schedule} {cell.solver} {cell.steps or ''} {row['status']}"
            reason = "" if pd.isna(row["error"]) else f": {row['error']}"
            failed.append(" ".join(where.split()) + reason)
    return "\n".join([f"{dataset}: {complete} of {total} cells of seed set 0", *failed])


def _declared(dataset: str) -> Iterable[Cell]:
    return cells(schedules(dataset), dataset=dataset)


def document(results: Results, dataset: str) -> str:
    """The page of a dataset, in Markdown."""
    parts = [
        f"# FID by steps: {dataset}",
        caption(results, dataset),
        "## By steps",
        markdown(by_steps(results, dataset)),
    ]
    for title, table in (
        ("By evaluations of the network", by_nfe(results, dataset)),
        ("Over sets of seeds", by_seed(results, dataset)),
    ):
        parts += [f"## {title}", markdown(table) if len(table) else "not run"]
    parts += ["## What there is", summary(results, dataset).replace("\n", "\n\n")]
    return "\n\n".join(parts) + "\n"


def write(results: Results, dataset: str, folder: Path) -> list[Path]:
    """Write fid_by_steps_DATASET.md, .tex and .csv."""
    table, stem = by_steps(results, dataset), folder / f"fid_by_steps_{dataset}"
    paths = [stem.with_suffix(suffix) for suffix in (".md", ".tex", ".csv")]
    contents = (document(results, dataset), latex(table), table.to_csv(index=False))
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content, encoding="utf-8")
    return paths
