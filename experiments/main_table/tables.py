"""The main table as Markdown and LaTeX, and the page around it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from experiments.main_table.cells import Results, published
from experiments.main_table.fid_by_steps import LINES, SCHEDULES, STEPS, Cell, Line, cells
from experiments.pages import NAMES, markdown

ADAPTIVE = "adaptive"
"""The column of methods that choose their steps themselves."""

COMMANDS = {
    dataset: f"python -m experiments.main_table.fid_by_steps dataset={dataset} && "
    "python -m experiments.main_table.collect"
    for dataset in ("digits", "cifar10", "celeba")
}


def schedules(dataset: str) -> tuple[str, ...]:
    """The table's schedules that a dataset has weights for."""
    return SCHEDULES[:1] if dataset == "celeba" else SCHEDULES


def label(line: Line) -> str:
    """A line's name for people."""
    if line.solver == "pf":
        words = dict(word.split("=") for word in line.options.split())
        return f"PF, tolerance {float(words.get('solver.rtol', 1e-5)):.0e}".replace("e-0", "e-")
    name = NAMES.get(line.solver) or " ".join([line.solver, line.options.replace("solver.", "")])
    return name.strip() + (f", {line.grid}" if line.grid != "leading" else "")


def text(row: pd.Series | None) -> str:
    """A cell: its FID ± the standard error, or why there is none."""
    if row is None:
        return "not run"
    if row["status"] != "complete" or pd.isna(row["fid"]):
        return row["status"] if row["status"] != "complete" else "no FID"
    error = "" if pd.isna(row["se"]) else f" ± {row['se']:.2f}"
    nfe = f" ({row['nfe']:.0f} NFE)" if pd.isna(row["steps"]) else ""
    return f"{row['fid']:.2f}{error}{nfe}"


def wide(
    results: Results, dataset: str, steps: Sequence[int] = STEPS, lines: Sequence[Line] = LINES
) -> pd.DataFrame:
    """The table as text, one line for a schedule and method, one column for a number of steps.

    Published numbers stand in brackets. "–" is a cell that the table leaves out.
    """
    numbers, rows = published(), []
    for schedule in schedules(dataset):
        for line in lines:
            row = {"schedule": schedule, "method": label(line)}
            for n in (*steps, None):
                cell = Cell(schedule, line.solver, line.grid, line.options, n, 0)
                ours = text(results.row(dataset, cell)) if n in line.steps else "–"
                theirs = of_others(numbers, dataset, cell)
                shown = f"{ours} [{theirs}]" if theirs else ours
                row[ADAPTIVE if n is None else str(n)] = shown
            rows.append(row)
    table = pd.DataFrame(rows)
    return table if any(None in line.steps for line in lines) else table.drop(columns=ADAPTIVE)


def of_others(numbers: pd.DataFrame, dataset: str, cell: Cell) -> str:
    """The published numbers of a cell."""
    if cell.steps is None or cell.options:
        return ""
    method = cell.solver + ("_quadratic" if cell.grid == "quadratic" else "")
    same = (numbers["dataset"] == dataset) & (numbers["schedule"] == cell.schedule)
    same &= (numbers["method"] == method) & (numbers["steps"] == cell.steps).fillna(False)
    return ", ".join(f"{value:.2f}" for value in numbers["fid"][same])


def by_nfe(results: Results, dataset: str) -> pd.DataFrame:
    """What was measured with seed set 0, by evaluations of the network."""
    cells = first_seeds(results, dataset)
    rows = [
        {
            "NFE": f"{cell['nfe']:.0f}",
            "schedule": cell["schedule"],
            "method": label(Line(cell["solver"], (), cell["grid"], cell["options"])),
            "steps": "–" if pd.isna(cell["steps"]) else str(cell["steps"]),
            "FID": f"{cell['fid']:.2f}",
            "without bias, 95 %": interval(cell),
            "n → ∞": infinity(results, dataset, cell),
            "seconds": f"{cell['seconds']:.0f}",
        }
        for _, cell in cells.sort_values(["schedule", "nfe", "fid"]).iterrows()
    ]
    columns = ["NFE", "schedule", "method", "steps", "FID", "without bias, 95 %", "n → ∞"]
    return pd.DataFrame(rows, columns=[*columns, "seconds"])


def infinity(results: Results, dataset: str, row: pd.Series) -> str:
    """The value that a cell's blocks extrapolate to."""
    found = results.without(dataset, Cell(*(row[name] for name in Cell._fields)))
    return "–" if found is None else f"{found['infinity']:.2f}"


def interval(cell: pd.Series) -> str:
    """The estimate without its bias, and its interval."""
    if pd.isna(cell["se"]):
        return "–"
    return f"{cell['bias_corrected']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})"


def by_seed(results: Results, dataset: str) -> pd.DataFrame:
    """The cells that have several sets of seeds: mean, standard deviation, minimum."""
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
    """Of these the cells of seed set 0 in the aligned convention."""
    cells = measured(results, dataset)
    return cells[(cells["convention"] == "aligned") & (cells["seed"] == 0)]


def latex(table: pd.DataFrame) -> str:
    """A table of text as LaTeX, for `booktabs`."""
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
    """Where a dataset's numbers come from, in one sentence each."""
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
        floor = results.floor(dataset)
        if floor is not None:
            origin += " As many images of the data that are not the reference would score"
            origin += f" {floor:.2f}; networks trained on the reference can come nearer to it."
    theirs = published()
    if dataset in set(theirs["dataset"]):
        origin += " In brackets: published numbers, from experiments/main_table/published.csv."
    return f"{origin}\n\n    {COMMANDS[dataset]}"


def summary(results: Results, dataset: str) -> str:
    """How many cells are there, and which failed."""
    found, failed, total = 0, [], 0
    for cell in _declared(dataset):
        row, total = results.row(dataset, cell), total + 1
        if row is not None and row["status"] == "complete":
            found += 1
        elif row is not None:
            where = f"{cell.schedule} {cell.solver} {cell.steps or ''} {row['status']}"
            reason = "" if pd.isna(row["error"]) else f": {row['error']}"
            failed.append(" ".join(where.split()) + reason)
    return "\n".join([f"{dataset}: {found} of {total} cells of seed set 0", *failed])


def _declared(dataset: str) -> Iterable[Cell]:

    return cells(schedules(dataset))


def document(results: Results, dataset: str) -> str:
    """Everything about a dataset, as one page of Markdown."""
    parts = [
        f"# FID by steps: {dataset}",
        caption(results, dataset),
        "## By steps",
        markdown(wide(results, dataset)),
    ]
    for title, table in (
        ("By evaluations of the network", by_nfe(results, dataset)),
        ("Over sets of seeds", by_seed(results, dataset)),
    ):
        parts += [f"## {title}", markdown(table) if len(table) else "not run"]
    parts += ["## What there is", summary(results, dataset).replace("\n", "\n\n")]
    return "\n\n".join(parts) + "\n"


def write(results: Results, dataset: str, folder: Path) -> list[Path]:
    """fid_by_steps_DATASET.md, .tex and .csv."""
    table, stem = wide(results, dataset), folder / f"fid_by_steps_{dataset}"
    paths = [stem.with_suffix(suffix) for suffix in (".md", ".tex", ".csv")]
    contents = (document(results, dataset), latex(table), table.to_csv(index=False))
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content, encoding="utf-8")
    return paths
