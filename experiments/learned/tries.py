"""Fits of digits at five evaluations that were tried: losses, images, iterations.

    python -m experiments.learned.tries    # fits and measures what is missing, writes the page

Each fit takes five to twenty minutes on a core. The one with the lowest FID on seed set 3 ships
(`CHOSEN` in cells.py); seed set 1, which neither a fit nor this choice has seen, says what it is
worth.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from experiments.arguments import command
from experiments.learned.cells import FITS, FRESH, SCHEDULES, START, Fit
from experiments.learned.compare import measure, of_plan, run
from experiments.learned.fits import is_complete
from experiments.main_table.claims import verdict
from experiments.main_table.jackknife import WITHOUT, paired
from experiments.pages import FOLDER, interval, markdown, select
from pndm import learned
from pndm._files import write_atomic
from pndm.config.compose import compose_fit
from pndm.fit.loop import fit

DATASET, EVALUATIONS = "digits", 5
CHOOSING = 3
"""The seed set that chooses what ships."""


class Try(NamedTuple):
    """A fit: its loss, and how many iterations of 256 it makes over how many images."""

    huber: float
    moments: float
    images: int
    iterations: int

    @property
    def words(self) -> list[str]:
        """The arguments of `python -m pndm.fit`."""
        return [f"{name}={value:g}" for name, value in self._asdict().items()]


SQUARES, HUBER = (Try(huber, 0.5, 2048, 500) for huber in (0, 0.01))
SHORT = [Try(huber, 0.5, 512, 300) for huber in (0, 0.05, 0.02, 0.01)]
SHORT += [Try(huber, 4, 512, 300) for huber in (0, 0.01)]
TRIES = {"linear": (SQUARES, HUBER, *SHORT), "cosine": (SQUARES, HUBER)}
"""What was tried on each schedule; all are compared with the first."""

PATH = FOLDER / "learned_tries.csv"
KEY = ["schedule", *Try._fields]
COLUMNS = [*KEY, "distance", "fid_chosen_by", "fid", "se", "samples"]
COLUMNS += ["plan", "weights", "code", "commit", *WITHOUT]


def plan_of(schedule: str, tried: Try, more: Sequence[str]) -> Path:
    """The plan of a fit, which is made if it is missing."""
    output = FITS / "tries" / "-".join([schedule, *tried.words]).replace("=", "")
    words = [f"dataset={DATASET}", f"schedule={schedule}", f"steps={EVALUATIONS}", *START]
    cfg = compose_fit([*words, *tried.words, f"output={output}", *more])
    path = output / "plan.json"
    return path if is_complete(path, cfg) else fit(cfg)


def measured(schedule: str, tried: Try, path: Path) -> dict:
    """A row: distance on validation noise, FID on the seed set that chooses and on a fresh one."""
    plan = learned.read(path)
    choosing, fresh = (
        of_plan(Fit(DATASET, schedule, EVALUATIONS), path, seed) for seed in (CHOOSING, FRESH[0])
    )
    distance = round(plan.fitted["best"]["rmse"], 6)
    own = {"distance": distance, "fid_chosen_by": run(choosing, ())[1]["fid"]}
    return {**measure(fresh, ()), **tried._asdict(), **own}


def document(table: pd.DataFrame) -> str:
    """The page, in Markdown."""
    parts = [
        f"# Plans of {EVALUATIONS} evaluations that were tried: {DATASET}",
        "`huber` and `moments` of the loss (`pndm/fit/loss.py`), images to fit, and iterations of "
        "256; root mean square distance to the fine solution on validation noise; FID of "
        f"{int(table['samples'].iloc[0])} images. Seed set {CHOOSING} chooses what ships; seed "
        f"set {FRESH[0]} was seen by no fit and no choice, and is paired with the first row.",
        "    python -m experiments.learned.tries",
    ]
    for schedule in SCHEDULES:
        rows = select(table, schedule=schedule)
        texts = [written(row, rows.iloc[0]) for _, row in rows.iterrows()]
        parts += [f"## {schedule}", markdown(pd.DataFrame(texts))]
    return "\n\n".join(parts) + "\n"


def written(row: pd.Series, first: pd.Series) -> dict[str, str]:
    """A row of the page."""
    text = {name: f"{row[name]:g}" for name in Try._fields}
    text |= {"distance": f"{row['distance']:.3f}"}
    text |= {f"FID, set {CHOOSING}": f"{row['fid_chosen_by']:.3f}"}
    text |= {f"FID, set {FRESH[0]}": f"{row['fid']:.3f}", "difference (95 %)": "", "FID is": ""}
    if row["plan"] != first["plan"]:
        difference = paired(row, first)
        limits = difference.low, difference.high
        text["difference (95 %)"] = interval(difference.bias_corrected, *limits)
        text["FID is"] = verdict(*limits)
    return text


def write(table: pd.DataFrame, folder: Path) -> Path:
    """Write the page."""
    path = folder / f"{PATH.stem}.md"
    path.write_text(document(table), encoding="utf-8")
    return path


@command
def main(words: Sequence[str]) -> None:
    """Fit, measure, and write the page; words go to `python -m pndm.fit`."""
    rows = [
        measured(schedule, tried, plan_of(schedule, tried, words))
        for schedule in SCHEDULES
        for tried in TRIES[schedule]
    ]
    table = pd.DataFrame(rows)[COLUMNS]
    write_atomic(PATH, lambda partial: table.to_csv(partial, index=False))
    write(table, FOLDER)


if __name__ == "__main__":
    main(sys.argv[1:])
