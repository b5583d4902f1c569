"""Pseudo against classical, fourth order against second: the paper's comparison, step by step.

    python -m experiments.twins

From the cells of the main table alone: differences of FID between runs from the same seeds, with
paired 95 % intervals. A pseudo numerical method and its classical twin differ in the transfer part
alone: DDIM and Euler's method, S-PNDM and the two-step Adams-Bashforth method begun by an improved
Euler step, F-PNDM and FON.
"""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from experiments.figures import figure, plain_log, save
from experiments.main_table.cells import Results
from experiments.main_table.claims import difference
from experiments.main_table.fid_by_steps import CLASSICAL_2, EULER, SCHEDULES, TO_250, Cell
from experiments.pages import FOLDER, markdown
from pndm._errors import prepare_console

DATASETS = ("digits", "fashion_mnist")


class Pair(NamedTuple):
    """A question: has `first` a lower FID than `second`? Methods with their options."""

    question: str
    first: tuple[str, str]
    second: tuple[str, str]


PAIRS = (
    Pair("F-PNDM − FON", ("plms", ""), ("fon", "")),
    Pair("S-PNDM − AB2, classical", ("s_pndm", ""), ("multistep", CLASSICAL_2)),
    Pair("DDIM − Euler, classical", ("ddim", ""), ("multistep", EULER)),
    Pair("F-PNDM − S-PNDM", ("plms", ""), ("s_pndm", "")),
    Pair("F-PNDM − DDIM", ("plms", ""), ("ddim", "")),
)
"""Pseudo against classical, of fourth, second and first order; then order against order."""

THOUSAND = Cell("", "ddim", "leading", "", 1000, 0)
"""DDIM with a thousand evaluations, which few evaluations of F-PNDM are compared with."""


def table(results: Results) -> pd.DataFrame:
    """Every question at every number of steps, where both cells were measured."""
    rows = []
    for dataset in DATASETS:
        for schedule in SCHEDULES:
            for pair in PAIRS:
                for steps in TO_250:
                    cells = (
                        Cell(schedule, solver, "leading", options, steps, 0)
                        for solver, options in (pair.first, pair.second)
                    )
                    row = {"dataset": dataset, "schedule": schedule, "question": pair.question}
                    rows.append(row | {"steps": steps} | difference(results, dataset, *cells))
            thousand = THOUSAND._replace(schedule=schedule)
            for steps in TO_250:
                cell = thousand._replace(solver="plms", steps=steps)
                row = {"dataset": dataset, "schedule": schedule}
                row |= {"question": "F-PNDM − DDIM at 1000", "steps": steps}
                rows.append(row | difference(results, dataset, cell, thousand))
    frame = pd.DataFrame(rows)
    return frame[frame["low"].notna()].reset_index(drop=True)


def page(frame: pd.DataFrame) -> str:
    """The questions as tables, one for each dataset and schedule."""
    parts = [
        "# Pseudo against classical",
        "FID of the first method minus that of the second, with the same number of steps unless "
        "it is named, and from the same seeds: the bias-corrected difference and its paired 95 % "
        "interval (a jackknife over 20 blocks of seeds). Below zero the first is better; **bold** "
        "where the interval excludes zero. Measured in the main "
        "tables of [digits](fid_by_steps_digits.md), where F-PNDM and FON alone have both, and "
        "[Fashion-MNIST](fid_by_steps_fashion_mnist.md).",
        "![Differences by steps](twins.png)",
        "    python -m experiments.twins",
    ]
    for (dataset, schedule), rows in frame.groupby(["dataset", "schedule"], sort=False):
        wide = rows.assign(text=[text(row) for row in rows.itertuples()])
        pivot = wide.pivot(index="question", columns="steps", values="text").fillna("–")
        pivot = pivot.reindex(dict.fromkeys(wide["question"]))
        pivot.columns = pivot.columns.map(str)
        parts += [f"## {dataset}, {schedule}", markdown(pivot.reset_index())]
    return "\n\n".join(parts) + "\n"


def text(row) -> str:
    """A difference with its interval."""
    words = f"{row.difference:+.2f} ({row.low:+.2f} to {row.high:+.2f})".replace("-", "−")
    return words if row.verdict == "no difference seen" else f"**{words}**"


def draw(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """The differences by steps, pseudo minus classical, on a scale that is linear about zero."""
    panels = list(dict.fromkeys(zip(frame["dataset"], frame["schedule"], strict=True)))
    with figure(1.2 + 3.6 * len(panels), 4.2, len(panels)) as (fig, axes):
        for ax, (dataset, schedule) in zip(axes, panels, strict=True):
            rows = frame[(frame["dataset"] == dataset) & (frame["schedule"] == schedule)]
            for number, pair in enumerate(PAIRS[:3]):
                line = rows[rows["question"] == pair.question]
                if line.empty:
                    continue
                errors = (line["difference"] - line["low"], line["high"] - line["difference"])
                style = {"marker": "osD"[number], "ms": 5, "lw": 1.4, "capsize": 2}
                ax.errorbar(
                    line["steps"], line["difference"], errors, label=pair.question, **style
                )
            ax.axhline(0, color="0.35", lw=1)
            ax.set_xscale("log")
            ax.set_yscale("symlog", linthresh=0.1)
            ax.set_yticks([-10, -1, -0.1, 0, 0.1, 1], ["−10", "−1", "−0.1", "0", "0.1", "1"])
            ax.minorticks_off()
            ax.set(title=f"{dataset}, {schedule}", xlabel="steps")
            plain_log(ax.xaxis, TO_250)
        axes[0].set_ylabel("FID difference, pseudo − classical (95 % interval)")
        handles, labels = axes[-1].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=3)
        return save(fig, folder / "twins")


def write(folder: Path = FOLDER) -> list[Path]:
    """Write results/twins.csv, .md and the figure."""
    frame = table(Results.load(folder))
    frame.to_csv(folder / "twins.csv", index=False)
    (folder / "twins.md").write_text(page(frame), encoding="utf-8")
    return [folder / "twins.csv", folder / "twins.md", *draw(frame, folder)]


if __name__ == "__main__":
    prepare_console()
    print("written: " + ", ".join(path.name for path in write()))
