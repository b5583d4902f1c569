"""Shared by all pages: the results folder, names of methods, rows of tables, Markdown."""

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent / "results"
NAMES = {"ddim": "DDIM", "ddpm": "DDPM", "s_pndm": "S-PNDM", "plms": "F-PNDM (plms)"}
NAMES |= {"prk": "pseudo RK", "fon": "FON", "fon_released": "FON as released", "pf": "PF"}


def select(table: pd.DataFrame, **key: str | int) -> pd.DataFrame:
    """The rows of a table that have these values."""
    return table[(table[list(key)] == list(key.values())).all(axis=1)]


def interval(value: float, low: float, high: float) -> str:
    """Format a value with its interval: 0.10 (0.05 to 0.15)."""
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def markdown(table: pd.DataFrame) -> str:
    """Format a table of text as Markdown."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
