"""The measured cells as committed: three CSV files, from which all tables are generated."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.main_table.fid_by_steps import Cell
from experiments.main_table.jackknife import WITHOUT

PUBLISHED = Path(__file__).parent / "published.csv"

DATASETS = ("digits", "fashion_mnist", "cifar10", "celeba")
"""The datasets whose tables are written, even if nothing was run."""

KEY = ["dataset", "schedule", "solver", "grid", "convention", "options", "steps", "seed"]
"""The columns that identify a measurement."""

COLUMNS = [
    *KEY,
    *("samples", "status", "nfe", "fid", "bias_corrected", "se", "low", "high", "seconds"),
    *("model", "weights", "precision", "extractor", "reference", "code", "commit", "command"),
    "error",
]
JACKKNIFE = [*KEY, "samples", "fid", "infinity", *WITHOUT]
FLOORS = ["dataset", "samples", "extractor", "fid", "sd"]

ALIGNED = {"convention": "aligned"}
"""The convention of the table's cells."""

Key = tuple[Any, ...]

WHOLE = dict.fromkeys(("steps", "seed", "samples"), "Int64")
"""Integer columns that may have missing values."""


@dataclass(frozen=True)
class Results:
    """The cells, their leave-one-block-out distances, and the FID of real data."""

    cells: pd.DataFrame
    jackknife: pd.DataFrame
    floors: pd.DataFrame

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """Load the results of a folder; empty if there are none."""
        return cls(
            _load(folder / "fid_by_steps.csv", COLUMNS),
            _load(folder / "jackknife.csv", JACKKNIFE),
            _load(folder / "floors.csv", FLOORS),
        )

    def save(self, folder: Path) -> None:
        """Write the files that `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        self.cells.to_csv(folder / "fid_by_steps.csv", index=False)
        self.jackknife.to_csv(folder / "jackknife.csv", index=False)
        self.floors.to_csv(folder / "floors.csv", index=False)

    def replace(self, new: "Results", keep: bool = False) -> "Results":
        """Return these results with the datasets of `new` replaced.

        With `keep`, cells that `new` lacks remain.
        """
        datasets = set(new.cells["dataset"])
        measured = {_key(row) for _, row in new.cells.iterrows()}

        def stays(old: pd.DataFrame) -> pd.Series:
            if keep and "steps" in old:
                return old.apply(lambda row: _key(row) not in measured, axis=1).astype(bool)
            return ~old["dataset"].isin(datasets)

        return Results(
            *(
                _sorted(pd.concat([old[stays(old)], fresh]), columns)
                for old, fresh, columns in (
                    (self.cells, new.cells, COLUMNS),
                    (self.jackknife, new.jackknife, JACKKNIFE),
                    (self.floors, new.floors, FLOORS),
                )
            )
        )

    def row(self, dataset: str, cell: Cell) -> pd.Series | None:
        """The measurement of a cell of the table, in the aligned convention."""
        return self._rows.get(_key({"dataset": dataset, **ALIGNED, **cell._asdict()}))

    def without(self, dataset: str, cell: Cell) -> pd.Series | None:
        """A cell's distance, and its leave-one-block-out distances."""
        return self._without.get(_key({"dataset": dataset, **ALIGNED, **cell._asdict()}))

    @cached_property
    def _rows(self) -> dict[Key, pd.Series]:
        return {_key(row): row for _, row in self.cells.iterrows()}

    @cached_property
    def _without(self) -> dict[Key, pd.Series]:
        return {_key(row): row for _, row in self.jackknife.iterrows()}

    def floor(self, dataset: str) -> float | None:
        """The FID of as many real images against the reference, if known."""
        counts = self.cells["samples"][self.cells["dataset"] == dataset].unique()
        same = (self.floors["dataset"] == dataset) & self.floors["samples"].isin(counts)
        values = self.floors["fid"][same] if len(counts) == 1 else ()
        return float(values.iloc[0]) if len(values) else None


def command(row: Any) -> str:
    """The command that computes a cell, from its row."""
    words = ["python run.py", *(f"{name}={row[name]}" for name in ("dataset", "schedule"))]
    words += [f"solver={row['solver']}"]
    words += [] if pd.isna(row["steps"]) else [f"steps={int(row['steps'])}"]
    usual = {"grid": "leading", "convention": "aligned", "seed": 0, "precision": "fp32"}
    words += [f"{name}={row[name]}" for name, value in usual.items() if row[name] != value]
    return " ".join([*words, f"samples={row['samples']}", row["options"]]).strip()


def published() -> pd.DataFrame:
    """The published numbers, with their sources."""
    return pd.read_csv(PUBLISHED, dtype=WHOLE | {"nfe": "Int64"})


def _load(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.exists():
        return _sorted(pd.DataFrame(columns=columns), columns)
    kinds = {name: kind for name, kind in WHOLE.items() if name in columns}
    table = pd.read_csv(path, dtype=kinds, keep_default_na=True)
    if list(table.columns) != columns:
        raise ValueError(f"{path} is not a table of this version: collect the runs again")
    return _sorted(table, columns)


def _sorted(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    kinds = {name: kind for name, kind in WHOLE.items() if name in columns}
    frame = frame[columns].astype(kinds)
    if "options" in columns:
        frame = frame.assign(options=frame["options"].astype(object).fillna(""))
    return frame.sort_values([name for name in KEY if name in columns], ignore_index=True)


def _key(row: Mapping[str, Any] | pd.Series) -> Key:
    """The identifying columns of a row, comparable: missing values are None."""
    return tuple(None if pd.isna(row[name]) else row[name] for name in KEY)
