"""The page on learned plans, from the committed results and the shipped plans alone.

python -m experiments.learned.page      # learned*.md and .png, the README
"""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.figures import figure, plain_log, save
from experiments.learned.cells import (
    EVALUATIONS,
    FINE,
    FIXED,
    FRESH,
    GRIDS,
    JUDGING,
    NETWORKS,
    SCHEDULES,
    TABLE_SEED,
    Fit,
)
from experiments.learned.compare import IMAGES, load
from experiments.main_table import readme
from experiments.main_table.cells import Results
from experiments.main_table.claims import verdict
from experiments.main_table.fid_by_steps import Cell
from experiments.main_table.jackknife import WITHOUT, mean, paired
from experiments.pages import FOLDER, markdown
from pndm import learned
from pndm._errors import prepare_console
from pndm.evaluation.statistics import Estimate
from pndm.learned import Learned
from pndm.plans import plan, to_learned
from pndm.schedules import SCHEDULES as MAKE_SCHEDULE
from pndm.solvers import ipndm

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
    found = table[(table[list(key)] == list(key.values())).all(axis=1)]
    return found.iloc[0] if len(found) else None


def best_fixed(table: pd.DataFrame, **key: str | int) -> pd.Series | None:
    """The fixed method with the lowest FID at these values of KEY.

    To choose on the judging seeds themselves favours the fixed methods.
    """
    same = (table[list(key)] == list(key.values())).all(axis=1)
    found = table[same & table["method"].isin(FIXED)]
    return found.loc[found["fid"].idxmin()] if len(found) else None


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

    On each seed set that neither a fit nor the choice of a grid has seen, then on all of them.
    """
    for schedule, nfe in product(SCHEDULES, EVALUATIONS):
        key = {"dataset": dataset, "schedule": schedule, "nfe": nfe}
        pairs = []
        for seed in FRESH:
            own = cell(table, method=LEARNED, seed=seed, **key)
            other = best_fixed(table, seed=seed, **key)
            if own is not None and other is not None:
                pairs.append((own, other))
        estimates = [paired(own, other) for own, other in pairs]
        for (own, other), estimate in zip(pairs, estimates, strict=True):
            yield compare(own, other, estimate)
        if len(pairs) == len(FRESH):
            fids = np.mean([[own["fid"], other["fid"]] for own, other in pairs], axis=0)
            own = {**key, "seed": " and ".join(map(str, FRESH)), "fid": fids[0]}
            other = {"method": "the same", "grid": "mean", "fid": fids[1]}
            yield compare(own, other, mean(estimates))


def against_fine(table: pd.DataFrame, dataset: str) -> Iterator[dict[str, str]]:
    """Each shipped plan against methods of many steps, on the main table's seed set, paired."""
    for schedule, nfe in product(SCHEDULES, EVALUATIONS):
        key = {"dataset": dataset, "schedule": schedule, "seed": TABLE_SEED}
        own = cell(table, method=LEARNED, nfe=nfe, **key)
        others = (cell(table, method=name, **key) for name in FINE)
        for other in others if own is not None else ():
            if other is not None:
                yield compare(own, other, paired(own, other))


def compare(
    own: Mapping[str, Any] | pd.Series, other: Mapping[str, Any] | pd.Series, found: Estimate
) -> dict[str, str]:
    """One row: a difference of FID with its 95 % interval."""
    return {
        "schedule": own["schedule"],
        "evaluations": str(own["nfe"]),
        "seed set": str(own["seed"]),
        "learned": f"{own['fid']:.2f}",
        "against": f"{other['method']}, {other['grid']}",
        "its FID": f"{other['fid']:.2f}",
        "difference (95 %)": f"{found.bias_corrected:.2f} ({found.low:.2f} to {found.high:.2f})",
        "learned is": verdict(found.low, found.high),
    }


def shipped(dataset: str) -> list[Learned]:
    """The shipped plans of a dataset's networks, in order."""
    names = [Fit(dataset, *of).name for of in product(SCHEDULES, EVALUATIONS)]
    return [learned.read(name) for name in names if name in learned.names()]


def numbers(table: Learned) -> pd.DataFrame:
    """The rows of a plan: times, the network's times, weights from the newest on, their sum."""
    rows = []
    for i, (node, time, weights) in enumerate(
        zip(table.nodes[:-1], table.times, table.weights, strict=True)
    ):
        newest = " ".join(f"{w:+.2f}" for w in reversed(weights))
        row = {"row": str(i), "t": f"{node.time:.1f}", "network's time": f"{time:.1f}"}
        rows.append({**row, "weights, newest first": newest, "sum": f"{sum(weights):.2f}"})
    return pd.DataFrame(rows)


def lesson(tables: list[Learned]) -> str:
    """What the numbers tell, computed from them."""
    inner = [sum(row) for table in tables for row in table.weights[:-1]]
    last = [sum(table.weights[-1]) for table in tables]
    ends = [table.nodes[-2].time for table in tables]
    told = [table.times[-1] - table.nodes[-2].time for table in tables]
    clock = [
        time - node.time
        for table in tables
        for time, node in zip(table.times[:-1], table.nodes, strict=False)
    ]
    return (
        f"Over the {len(tables)} shipped plans: the weights of a row sum to "
        f"{min(inner):.2f} to {max(inner):.2f} (median {np.median(inner):.2f}) before the last "
        f"step, and to {min(last):.2f} to {max(last):.2f} in it. The last evaluation is at "
        f"t = {min(ends):.1f} to {max(ends):.1f}, where grids that reach 0 stop at 0, and the "
        f"network is given a time later by {min(told):.1f} to {max(told):.1f} there: it is asked "
        "to remove more noise than the schedule says is left. "
        f"Elsewhere the clock differs by {np.median(np.abs(clock)):.0f} "
        f"(median; from {min(clock):.0f} to {max(clock):.0f}) of 1000."
    )


def listing(rows: Iterator[dict[str, str]]) -> str:
    """Rows as a table in Markdown."""
    table = pd.DataFrame(list(rows))
    return markdown(table) if len(table) else "not run"


def document(table: pd.DataFrame, dataset: str) -> str:
    """The page of a dataset, in Markdown."""
    tables, table = shipped(dataset), table[table["dataset"] == dataset]
    parts = [
        f"# Learned plans: {dataset}",
        f"FID of {' or '.join(map(str, sorted(table['samples'].unique())))} images, and in "
        f"brackets the root mean square distance of {IMAGES} images to the fine solution from the "
        "same noise at time 999, by evaluations of the network. No fit has seen these seed sets. "
        "A fixed method is on the grid with its lowest FID on seed set 0 at as many evaluations, "
        f"of {', '.join(GRIDS)}. `both`: times, weights and clock are learned; `times`: times and "
        "clock; `weights`: weights alone. What was not measured has no number.",
        "    python -m experiments.learned.fits\n"
        "    python -m experiments.learned.compare\n"
        "    python -m experiments.learned.page",
        f"![FID and distance by evaluations]({NAME}_{dataset}.png)",
    ]
    for schedule, seed in product(SCHEDULES, sorted(JUDGING)):
        rows = fids(table, dataset=dataset, schedule=schedule, seed=seed)
        if len(rows):
            parts += [f"## {schedule}, seed set {seed}", markdown(rows)]
    parts += [
        "## Against the best fixed method",
        "Differences of FID from the same seeds, bias-corrected, with 95 % intervals; then their "
        "mean over the seed sets, which are independent. The best fixed method is chosen on the "
        "judging seeds themselves, in its favour.",
        listing(against_fixed(table, dataset)),
        "## Against many steps",
        "The same differences on the seeds of the main table.",
        listing(against_fine(table, dataset)),
        "## What was learned",
        f"![Learned times and weights]({NAME}_plans_{dataset}.png)",
        lesson(tables),
    ]
    for plan_ in tables:
        made = plan_.fitted
        how = f"{made['optimizer']['iterations']} iterations of {made['optimizer']['batch_size']}"
        first, best = made["first"], made["best"]
        parts += [
            f"### {plan_.name}",
            f"{how}, {made['images']['fitting']:,} images, {made['seconds']:.0f} s "
            f"({machine(made)}); distance on validation noise {first['rmse']:.3f} at the start, "
            f"{best['rmse']:.3f} at iteration {best['iteration']}.",
            markdown(numbers(plan_)),
        ]
    return "\n\n".join(parts) + "\n"


def machine(made: Mapping[str, Any]) -> str:
    """Where a plan was fitted; the first ones did not note it."""
    if "machine" not in made:
        return "one thread of two cores that also ran other work"
    return f"{made['machine']}, threads: {made['threads']}"


def block(table: pd.DataFrame) -> str:
    """The README's part: learned plans beside the best fixed method, and methods of many steps."""
    few, many = [], []
    for dataset, schedule in product(NETWORKS, SCHEDULES):
        named = {"images": dataset, "schedule": schedule}
        key = {"dataset": dataset, "schedule": schedule, "seed": JUDGING[0]}
        judged = {n: cell(table, method=LEARNED, nfe=n, **key) for n in EVALUATIONS}
        fixed = {n: best_fixed(table, nfe=n, **key) for n in EVALUATIONS}
        for name, found in (("learned", judged), ("best fixed method", fixed)):
            few.append({**named, "": name, **{str(n): fid(found[n]) for n in found}})
        key["seed"] = TABLE_SEED
        own = {n: cell(table, method=LEARNED, nfe=n, **key) for n in EVALUATIONS[2:]}
        fine = {name: cell(table, method=name, **key) for name in FINE}
        shown = {f"learned@{n}": fid(found) for n, found in own.items()}
        many.append({**named, **shown, **{n: fid(x) for n, x in fine.items()}})
    return "\n\n".join(
        [
            "FID by evaluations of the network, of as many images as in the tables above, on "
            f"seeds that no fit has seen. The best of {len(FIXED)} fixed methods is chosen on "
            "these seeds:",
            markdown(pd.DataFrame(few)),
            "On the seeds of the main table, beside methods of many steps:",
            markdown(pd.DataFrame(many)),
        ]
    )


def fid(found: pd.Series | None) -> str:
    """The FID of a measurement."""
    return "not run" if found is None else f"{found['fid']:.2f}"


def draw(table: pd.DataFrame, dataset: str, folder: Path) -> list[Path]:
    """FID and distance against evaluations, for both schedules; the first judging seed set."""
    with figure(11, 8, 4, sharey=False, rows=2) as (fig, axes):
        panels = [(schedule, kind) for kind in ("fid", "rmse") for schedule in SCHEDULES]
        titles = {"fid": "FID", "rmse": "distance to the fine solution"}
        for ax, (schedule, kind) in zip(axes, panels, strict=True):
            for method, colour in COLOURS.items():
                key = [dataset, schedule, method, JUDGING[0]]
                same = (table[["dataset", "schedule", "method", "seed"]] == key).all(axis=1)
                line = table[same].sort_values("nfe")
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


def draw_plans(tables: list[Learned], path: Path) -> list[Path]:
    """Learned times and newest weights against those of the plan that a fit starts from."""
    chosen = [table for table in tables if len(table.times) == 5] or tables[:2]
    count = max(len(chosen), 1)
    with figure(11, 3.6 * count, 2 * count, sharey=False, rows=count) as (fig, axes):
        pairs = zip(axes[::2], axes[1::2], strict=True)
        for (left, right), table in zip(pairs, chosen, strict=False):
            schedule = MAKE_SCHEDULE[table.schedule["name"]]()
            start = to_learned(plan(ipndm(3), schedule, len(table.times), "leading"), "start")
            x = range(len(table.times))
            times = [node.time for node in table.nodes[:-1]]
            left.plot(x, [node.time for node in start.nodes[:-1]], "o--", color="#7F7F7F")
            left.plot(x, times, "o-", color="#000000")
            left.plot(x, table.times, "x", color="#D55E00")
            labels = ("AB3, leading grid", "learned times", "the network's times")
            left.legend(left.lines, labels)
            left.set(title=f"{table.name}: times", xlabel="evaluation", xticks=list(x))
            for j in range(len(table.times)):
                for source, style, colour in ((start, "o--", "#7F7F7F"), (table, "o-", None)):
                    rows = [(i, source.weights[i][i - j]) for i in x if i >= j]
                    colours = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
                    right.plot(*zip(*rows, strict=True), style, color=colour or colours[j % 5])
                right.lines[-1].set_label(f"{j} back" if j else "newest")
            sums = [sum(row) for row in table.weights]
            right.plot(x, sums, ":", color="0.2", label="sum")
            right.set(title="weights (dashed: AB3)", xlabel="evaluation", xticks=list(x))
            right.legend(fontsize=8, ncols=2, loc="upper left")
        return save(fig, path)


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the pages and their figures, of the datasets that have shipped plans."""
    written = []
    for dataset in NETWORKS:
        tables = shipped(dataset)
        if tables:
            path = folder / f"{NAME}_{dataset}.md"
            path.write_text(document(table, dataset), encoding="utf-8")
            written += [path, *draw(table, dataset, folder)]
            written += draw_plans(tables, folder / f"{NAME}_plans_{dataset}")
    return written


if __name__ == "__main__":
    prepare_console()
    table = measured()
    write(table, FOLDER)
    text = readme.PAGE.read_text(encoding="utf-8")
    readme.PAGE.write_text(readme.replace_part(text, "learned", block(table)), encoding="utf-8")
