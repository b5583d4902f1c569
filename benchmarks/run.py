"""Speed compared with the alternatives: one command, one table.

    python -m benchmarks.run                      # everything; results/cpu.csv and .md, or cuda
    python -m benchmarks.run overhead programs    # only these parts
    python -m benchmarks.run --seconds 300        # as many as fit into five minutes

Each part alternates ours and the other, and reports medians and the median of their ratios; it is
saved as soon as it is measured.
"""

import math
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import (
    end_to_end,
    frechet,
    layouts,
    overhead,
    precision,
    programs,
    shares,
    throughput,
)
from benchmarks.measure import Row
from experiments.pages import markdown
from pndm._devices import check_device, use_device
from pndm._errors import InputError, Parser, prepare_console
from pndm._provenance import commit, hardware

RESULTS = Path(__file__).parent / "results"
PARTS: dict[str, Callable[..., Iterator[Row]]] = {
    "overhead": overhead.measure,
    "end_to_end": end_to_end.measure,
    "compiled": partial(end_to_end.measure, compile="max"),
    "bf16": partial(end_to_end.measure, precision="bf16", which=end_to_end.MIDDLE),
    "throughput": throughput.measure,
    "layouts": layouts.measure,
    "shares": shares.measure,
    "precision": precision.measure,
    "frechet": frechet.measure,
    "programs": programs.measure,
}
LIBRARIES = ("torch", "diffusers", "torch-fidelity", "numpy")


def machine() -> str:
    """The hardware and the versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{hardware()}, {torch.get_num_threads()} threads; Python "
        f"{platform.python_version()}, {versions}; commit {commit()}"
    )


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """The table as formatted text."""
    text = pd.DataFrame()
    text["part"], text["case"] = table["part"], table["case"]
    text["unit"] = table["unit"]
    for column in ("ours", "other", "ratio", "difference"):
        text[column] = [f"{value:.3g}" if pd.notna(value) else "–" for value in table[column]]
    text["aim"] = table["aim"].fillna("")
    words = {True: "yes", False: "no"}
    text["met"] = [words.get(value, "–") for value in table["met"]]
    text["note"] = table["note"].fillna("")
    return text


def page(table: pd.DataFrame) -> str:
    """The results in Markdown."""
    parts = [
        "# Speed",
        "Medians of alternating pairs; `ratio` is the median over pairs of other ÷ ours, not the "
        "quotient of the two medians; `difference` is that of the results.",
        "    python -m benchmarks.run",
    ]
    for where, rows in table.groupby("machine", sort=False):
        parts += [where, markdown(formatted(rows))]
    return "\n\n".join(parts) + "\n"


def keep(rows: list[Row], part: str, path: Path) -> pd.DataFrame:
    """Replace a part's rows in a table file; return the whole table."""
    path.parent.mkdir(exist_ok=True)
    kinds = {"met": "boolean"}  # of which a column without any would be read as numbers
    new = pd.DataFrame(rows).assign(command=part, machine=machine()).astype(kinds)
    old = pd.read_csv(path, dtype=kinds) if path.exists() else new[:0]
    order = {name: place for place, name in enumerate(PARTS)}
    table = pd.concat([old[old["command"] != part], new] if len(old) else [new])
    table = table.sort_values("command", key=lambda names: names.map(order), kind="stable")
    table.to_csv(path, index=False, float_format="%.6g")
    table = pd.read_csv(path)
    path.with_suffix(".md").write_text(page(table), encoding="utf-8")
    return table


def main() -> None:
    """Measure, print, and save every completed part."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all without any")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no row after these")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown or options.pairs < 1:
        parser.error(f"parts are {', '.join(PARTS)}; pairs at least 1")

    try:
        check_device(options.device)
    except InputError as error:
        parser.error(str(error))
    use_device(options.device)  # the one that is synchronised
    end = time.monotonic() + options.seconds
    path = options.results / f"{options.device.split(':')[0]}.csv"
    for part in options.parts or PARTS:
        rows = []
        if time.monotonic() < end:
            for row in PARTS[part](torch.device(options.device), options.pairs):
                print(row, flush=True)
                rows.append(row)
                if time.monotonic() > end:
                    break
        if time.monotonic() > end:
            print(f"{part}: no time for {'more' if rows else 'it'} within {options.seconds:g} s")
        if rows:
            keep(rows, part, path)
    if not path.exists():
        return
    text = formatted(pd.read_csv(path))
    drawn = Table(*text.columns)
    for line in text.itertuples(index=False):
        drawn.add_row(*line)
    Console(width=200).print(drawn)


if __name__ == "__main__":
    prepare_console()
    main()
