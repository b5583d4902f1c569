"""Coverage of the block jackknife's intervals, on features of known distance.

    python -m experiments.coverage

A Gaussian generator is compared with an exact reference, as a run is: N images in 20 blocks,
the 95 % interval of its distance, and the paired one of its difference to a second generator that
sees the same seeds. The share of simulations whose interval holds the truth is the coverage.
Next to it: the same intervals around the plain FID, not corrected for bias.

Not covered by any of them: the seed of a training, and a reference that is itself a sample; the
intervals are of this generator against this reference.
"""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch

from experiments.figures import figure, save
from experiments.pages import FOLDER, markdown
from pndm._errors import prepare_console
from pndm.evaluation import statistics
from pndm.evaluation.statistics import T_19

SIMULATIONS = 1000

SETTINGS = ((4, 200), (8, 200), (8, 600), (16, 600), (16, 1797))
"""Dimensions D of the features and numbers of images N."""

SCALE, OTHER, WOBBLE = 1.2, 1.15, 0.1
"""The generators' standard deviations, the reference's being 1, and the independent noise that
the second one adds to the first one's."""

AIMS = {"single": 0.90, "paired": 0.93}
NAMES = {"single": "FID", "paired": "difference of two", "plain": "plain FID ± 2.09 se"}
COLUMNS = ("features", "images", "simulations", *NAMES)


def simulate(d: int, n: int, simulations: int, seed: int = 0) -> dict[str, float]:
    """The coverage of each kind of interval with d features of n images."""
    generator = torch.Generator().manual_seed(seed)
    zero, one = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    reference = SimpleNamespace(mean=zero, covariance=one)
    truth = d * (SCALE - 1) ** 2
    difference = truth - d * (math.hypot(OTHER, WOBBLE) - 1) ** 2
    held = dict.fromkeys(NAMES, 0)
    for _ in range(simulations):
        x, y = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
        a = statistics.blocks(SCALE * x)
        b = statistics.blocks(OTHER * x + WOBBLE * y)
        single = statistics.distance(a, reference)
        paired = statistics.difference(a, b, reference)
        held["single"] += single.low <= truth <= single.high
        held["paired"] += paired.low <= difference <= paired.high
        held["plain"] += abs(single.value - truth) <= T_19 * single.se
    counts = {"features": d, "images": n, "simulations": simulations}
    return counts | {name: count / simulations for name, count in held.items()}


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write coverage.md and the figure from coverage.csv."""
    display = table.astype({"features": str, "images": str, "simulations": str})
    for name in NAMES:
        display[name] = [f"{100 * share:.1f} %" for share in table[name]]
    page = folder / "coverage.md"
    _, _, covered, uncovered = __doc__.strip().split("\n\n")
    page.write_text(
        "# Coverage of the 95 % intervals\n\n"
        f"{covered.strip()}\n\n{uncovered.strip()}\n\n    python -m experiments.coverage\n\n"
        f"{markdown(display.rename(columns=NAMES))}\n",
        encoding="utf-8",
    )
    with figure(7, 4) as (fig, (ax,)):
        places = range(len(table))
        looks = (("#0072B2", "o", -0.12), ("#D55E00", "D", 0.12), ("#7F7F7F", "x", 0.0))
        for (name, label), (colour, marker, shift) in zip(NAMES.items(), looks, strict=True):
            share = table[name]
            error = 1.96 * (share * (1 - share) / table["simulations"]) ** 0.5
            ax.errorbar(
                [p + shift for p in places],
                100 * share,
                yerr=100 * error,
                color=colour,
                marker=marker,
                ls="",
                capsize=3,
                label=label,
            )
        ax.axhline(95, color="0.3", lw=1, ls=(0, (4, 2)), label="nominal 95 %")
        names = [
            f"D = {d}\nN = {n}" for d, n in zip(table["features"], table["images"], strict=True)
        ]
        ax.set_xticks(list(places), names)
        ax.set(ylabel="intervals that hold the truth (%)", ylim=(None, 101))
        ax.set_title("Block jackknife on Gaussian features, exact reference")
        ax.legend(loc="lower left")
        return [page, *save(fig, folder / "coverage")]


def main() -> None:
    """Simulate, write coverage.csv, the page and the figure; SystemExit if an aim is missed."""
    rows = []
    for d, n in SETTINGS:
        rows.append(simulate(d, n, SIMULATIONS))
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.to_csv(FOLDER / "coverage.csv", index=False)
    write(table, FOLDER)
    missed = [name for name, aim in AIMS.items() if (table[name] < aim).any()]
    sys.exit(f"below its aim: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    prepare_console()
    main()
