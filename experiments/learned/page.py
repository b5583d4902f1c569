"""The page on learned plans, from the committed results and the shipped plans alone.

python -m experiments.learned.page      # learned*.md and .png, the README
"""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.figures import figure, plain_log, save
from experiments.learned import numbers
from experiments.learned.cells import (
    EVALUATION_SEEDS,
    EVALUATIONS,
    FINE,
    FIXED,
    FRESH,
    GRIDS,
    NETWORKS,
    SCHEDULES,
    TABLE_SEED,
)
from experiments.learned.compare import IMAGES, load
from experiments.main_table import readme
from experiments.main_table.cells import Results
from experiments.main_table.claims import verdict
from experiments.main_table.fid_by_steps import Cell
from experiments.main_table.jackknife import WITHOUT, mean, paired
from experiments.pages import FOLDER, interval, markdown, select
from pndm._errors import prepare_console
from pndm.evaluation.statistics import Estimate

NAME = "learned"
LEARNED = "learned: both"
COLOURS = dict(
    zip(
        [LEARNED, *FIXED],
        ("#000000", "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"),
        strict=True,
    )
)


def measured() -> pd.DataFrame:
    """The measurements, and those of many steps from the main table."""
    table, results = load(), Results.load(FOLDER)
    rows = []
    for dataset, schedule, (name, (solver, steps)) in product(NETWORKS, SCHEDULES, FINE.items()):
        paper = Cell(schedule, solver, "leading", "", steps, TABLE_SEED)
        row, without = results.row(dataset, paper), results.without(dataset, paper)
        if row is not None and without is not None:
            key = {"dataset": dataset, "schedule": schedule, "method": name, "grid": "leading"}
            key |= {"nfe": int(row["nfe"]), "seed": TABLE_SEED, "fid": without["fid"]}
            rows.append({**row[["se", "samples"]], **without[list(WITHOUT)], **key})
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True) if rows else table


def cell(table: pd.DataFrame, **key: str | int) -> pd.Series | None:
    """The measurement with these values of KEY; None if there is none."""
    rows = select(table, **key)
    return rows.iloc[0] if len(rows) else None


def best_fixed(table: pd.DataFrame, **key: str | int) -> str | None:
    """The fixed method with the lowest mean FID on the fresh seed sets, of those with this key.

    To choose on the seeds that it is then compared on favours the fixed method.
    """
    rows = select(table, **key)
    rows = rows[rows["method"].isin(FIXED) & rows["seed"].isin(FRESH)]
    return str(rows.groupby("method")["fid"].mean().idxmin()) if len(rows) else None


def fids(table: pd.DataFrame, **key: str | int) -> pd.DataFrame:
    """FID and, in brackets, the distance of a dataset, schedule and seed set, by evaluations."""
    rows = []
    variants = [name for name in table["method"].unique() if str(name).startswith("learned")]
    for method in [*FIXED, *sorted(variants)]:
        row = {"method": method}
        for nfe in EVALUATIONS:
            found = cell(table, method=method, nfe=nfe, **key)
            row[str(nfe)] = "not run" if found is None else written(found)
        if set(row.values()) - {method, "not run"}:
            rows.append(row)
    return pd.DataFrame(rows, columns=["method", *map(str, EVALUATIONS)])


def written(found: pd.Series) -> str:
    """FID and, if measured, the distance: 0.93 (0.063)."""
    distance = "" if pd.isna(found["rmse"]) else f" ({found['rmse']:.3f})"
    return f"{found['fid']:.2f}{distance}"


def against_fixed(table: pd.DataFrame, dataset: str) -> Iterator[dict[str, str]]:
    """Each shipped plan against the best fixed method of as many evaluations, paired.

    On each fresh seed set, then their mean.
    """
    for schedule, nfe in product(SCHEDULES, EVALUATIONS):
        key = {"dataset": dataset, "schedule": schedule, "nfe": nfe}
        pairs = fresh_pairs(table, **key)
        for own, other in pairs:
            yield compare(own, other, paired(own, other))
        if len(pairs) == len(FRESH):
            yield compare(*together(pairs))


def fresh_pairs(table: pd.DataFrame, **key: str | int) -> list[tuple[pd.Series, pd.Series]]:
    """The shipped plan and the best fixed method on the fresh seed sets, where both were run."""
    best, pairs = best_fixed(table, **key), []
    for seed in FRESH if best else ():
        own = cell(table, method=LEARNED, seed=seed, **key)
        other = cell(table, method=best, seed=seed, **key)
        if own is not None and other is not None:
            pairs.append((own, other))
    return pairs


def together(
    pairs: Sequence[tuple[pd.Series, pd.Series]],
) -> tuple[pd.Series, pd.Series, Estimate]:
    """Both methods over several seed sets, and the mean of their differences."""
    own, other = (mean_fid(rows) for rows in zip(*pairs, strict=True))
    return own, other, mean([paired(*pair) for pair in pairs])


def mean_fid(rows: Sequence[pd.Series]) -> pd.Series:
    """One row for several seed sets: their mean FID."""
    seeds = " and ".join(str(row["seed"]) for row in rows)
    return pd.Series({**rows[0], "seed": seeds, "fid": np.mean([row["fid"] for row in rows])})


def against_fine(table: pd.DataFrame, dataset: str) -> Iterator[dict[str, str]]:
    """Each shipped plan against methods of many steps, on the main table's seed set, paired."""
    for schedule, nfe in product(SCHEDULES, EVALUATIONS):
        key = {"dataset": dataset, "schedule": schedule, "seed": TABLE_SEED}
        own = cell(table, method=LEARNED, nfe=nfe, **key)
        others = (cell(table, method=name, **key) for name in FINE)
        for other in others if own is not None else ():
            if other is not None:
                yield compare(own, other, paired(own, other))


def compare(own: pd.Series, other: pd.Series, difference: Estimate) -> dict[str, str]:
    """One row: a difference of FID with its 95 % interval."""
    values = difference.bias_corrected, difference.low, difference.high
    return {
        "schedule": own["schedule"],
        "evaluations": str(own["nfe"]),
        "seed set": str(own["seed"]),
        "learned": f"{own['fid']:.2f}",
        "against": f"{other['method']}, {other['grid']}",
        "its FID": f"{other['fid']:.2f}",
        "difference (95 %)": interval(*values),
        "learned is": verdict(*values[1:]),
    }


def listing(rows: Iterator[dict[str, str]]) -> str:
    """Rows as a table in Markdown."""
    table = pd.DataFrame(list(rows))
    return markdown(table) if len(table) else "not run"


def document(table: pd.DataFrame, dataset: str) -> str:
    """The page of a dataset, in Markdown."""
    tables, table = numbers.shipped(dataset), table[table["dataset"] == dataset]
    parts = [
        f"# Learned plans: {dataset}",
        f"FID of {' or '.join(map(str, sorted(table['samples'].unique())))} images, and in "
        f"brackets the root mean square distance of {IMAGES} images to the fine solution from the "
        "same noise at time 999, by evaluations of the network. No fit has seen these seed sets. "
        f"Each fixed method uses the grid (of {', '.join(GRIDS)}) with its lowest FID on seed set "
        f"{TABLE_SEED} at that number of evaluations. `both`: times, weights and clock are "
        "learned; `times`: times and clock; `weights`: weights alone.",
        "    python -m experiments.learned.fits\n"
        "    python -m experiments.learned.compare\n"
        "    python -m experiments.learned.page",
        f"![FID and distance by evaluations]({NAME}_{dataset}.png)",
    ]
    for schedule, seed in product(SCHEDULES, sorted(EVALUATION_SEEDS)):
        rows = fids(table, dataset=dataset, schedule=schedule, seed=seed)
        if len(rows):
            parts += [f"## {schedule}, seed set {seed}", markdown(rows)]
    parts += [
        "## Against the best fixed method",
        "Differences of FID from the same seeds, bias-corrected, with 95 % intervals, and their "
        "mean over the seed sets. The best fixed method is the one with the lowest mean FID on "
        "these seed sets: the choice is in its favour.",
        listing(against_fixed(table, dataset)),
        "## Against many steps",
        "The same on the seeds of the main table. A learned plan is fitted to the fine solution, "
        "so its FID tends to that of many steps; an unfitted method can be below it.",
        listing(against_fine(table, dataset)),
        "## What was learned",
        f"![Learned times and weights]({NAME}_plans_{dataset}.png)",
        numbers.lesson(tables),
        *numbers.sections(tables),
    ]
    return "\n\n".join(parts) + "\n"


def block(table: pd.DataFrame) -> str:
    """The README's part: learned plans beside the best fixed method, and methods of many steps."""
    few, many = [], []
    for dataset, schedule in product(NETWORKS, SCHEDULES):
        images = {"images": dataset, "schedule": schedule}
        key = {"dataset": dataset, "schedule": schedule}
        few += ahead(table, images, **key)
        key["seed"] = TABLE_SEED
        own = {n: cell(table, method=LEARNED, nfe=n, **key) for n in EVALUATIONS[2:]}
        fine = {name: cell(table, method=name, **key) for name in FINE}
        shown = {f"learned@{n}": fid(row) for n, row in own.items()}
        many.append({**images, **shown, **{name: fid(row) for name, row in fine.items()}})
    return "\n\n".join(
        [
            "FID by evaluations of the network, of as many images as in the tables above: mean of "
            f"seed sets {' and '.join(map(str, FRESH))}, which no fit has seen. The best of "
            f"{len(FIXED)} fixed methods is chosen on these seeds. The difference is paired and "
            "bias-corrected, with its 95 % interval:",
            markdown(pd.DataFrame(few)),
            "On the seeds of the main table, beside methods of many steps:",
            markdown(pd.DataFrame(many)),
        ]
    )


def ahead(table: pd.DataFrame, images: dict[str, str], **key: str | int) -> list[dict[str, str]]:
    """Rows of the README: the learned plans, the best fixed methods, and the differences."""
    names = ("learned", "best fixed method", "difference")
    rows = [{**images, "": name} for name in names]
    for nfe in EVALUATIONS:
        pairs = fresh_pairs(table, nfe=nfe, **key)
        cells = ["not run"] * len(rows)
        if len(pairs) == len(FRESH):
            own, other, difference = together(pairs)
            half = (difference.high - difference.low) / 2
            cells = [fid(own), fid(other), f"{difference.bias_corrected:+.2f} ± {half:.2f}"]
        for row, text in zip(rows, cells, strict=True):
            row[str(nfe)] = text
    return rows


def fid(found: pd.Series | None) -> str:
    """The FID of a measurement."""
    return "not run" if found is None else f"{found['fid']:.2f}"


def draw(table: pd.DataFrame, dataset: str, folder: Path) -> list[Path]:
    """FID and distance against evaluations, for both schedules; the first fresh seed set."""
    with figure(11, 8, 4, sharey=False, rows=2) as (fig, axes):
        panels = [(schedule, kind) for kind in ("fid", "rmse") for schedule in SCHEDULES]
        titles = {"fid": "FID", "rmse": "distance to the fine solution"}
        for ax, (schedule, kind) in zip(axes, panels, strict=True):
            for method, colour in COLOURS.items():
                key = {"dataset": dataset, "schedule": schedule, "method": method}
                line = select(table, seed=FRESH[0], **key).sort_values("nfe")
                if len(line):
                    width = 2.5 if method == LEARNED else 1.2
                    ax.plot(line["nfe"], line[kind], marker="o", ms=4, color=colour, lw=width)
                    ax.lines[-1].set_label(method)
            ax.set(xscale="log", yscale="log", xlabel="evaluations", xlim=(2.8, 10.8))
            ax.set_title(f"{schedule}: {titles[kind]}")
            plain_log(ax.xaxis, EVALUATIONS)
            plain_log(ax.yaxis)
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
        return save(fig, folder / f"{NAME}_{dataset}")


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the pages and their figures, of the datasets that have shipped plans."""
    written = []
    for dataset in NETWORKS:
        tables = numbers.shipped(dataset)
        if tables:
            path = folder / f"{NAME}_{dataset}.md"
            path.write_text(document(table, dataset), encoding="utf-8")
            written += [path, *draw(table, dataset, folder)]
            written += numbers.draw(tables, folder / f"{NAME}_plans_{dataset}")
    return written


if __name__ == "__main__":
    prepare_console()
    table = measured()
    write(table, FOLDER)
    text = readme.PAGE.read_text(encoding="utf-8")
    readme.PAGE.write_text(readme.replace_part(text, "learned", block(table)), encoding="utf-8")
