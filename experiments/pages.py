"""Shared by all pages: the results folder, names of methods, Markdown tables."""

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent / "results"
NAMES = {"ddim": "DDIM", "ddpm": "DDPM", "s_pndm": "S-PNDM", "plms": "F-PNDM (plms)"}
NAMES |= {"prk": "pseudo RK", "fon": "FON", "fon_released": "FON as released", "pf": "PF"}


def markdown(table: pd.DataFrame) -> str:
    """Format a table of text as Markdown."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
