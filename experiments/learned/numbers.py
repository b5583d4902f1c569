"""What was learned: times, weights and the network's times of the shipped plans."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.figures import figure, save
from experiments.learned.cells import EVALUATIONS, SCHEDULES, Fit
from experiments.pages import markdown
from pndm import learned
from pndm.learned import Learned
from pndm.plans import plan, to_learned
from pndm.schedules import SCHEDULES as MAKE_SCHEDULE
from pndm.solvers import ipndm


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


def lesson(tables: Sequence[Learned]) -> str:
    """What the numbers tell, computed from them."""
    inner = [sum(row) for table in tables for row in table.weights[:-1]]
    last = [sum(table.weights[-1]) for table in tables]
    ends = [table.nodes[-2].time for table in tables]
    offsets = [table.times[-1] - table.nodes[-2].time for table in tables]
    clock = [
        time - node.time
        for table in tables
        for time, node in zip(table.times[:-1], table.nodes, strict=False)
    ]
    return (
        f"Over the {len(tables)} shipped plans: the weights of a row sum to "
        f"{min(inner):.2f} to {max(inner):.2f} (median {np.median(inner):.2f}) before the last "
        f"step, and to {min(last):.2f} to {max(last):.2f} in it. The last evaluation is at "
        f"t = {min(ends):.1f} to {max(ends):.1f}, where fixed grids evaluate at t = 0, and in "
        f"{sum(offset > 0 for offset in offsets)} plans the network is given a larger time there, "
        f"by up to {max(offsets):.1f}: it predicts as if more noise were left. "
        f"Elsewhere the clock differs by {np.median(np.abs(clock)):.0f} "
        f"(median; from {min(clock):.0f} to {max(clock):.0f}) of 1000."
    )


def sections(tables: Sequence[Learned]) -> list[str]:
    """Each plan: how it was fitted, and its numbers."""
    parts = []
    for plan_ in tables:
        fitted = plan_.fitted
        optimizer, first, best = (fitted[name] for name in ("optimizer", "first", "best"))
        parts += [
            f"### {plan_.name}",
            f"{optimizer['iterations']} iterations of {optimizer['batch_size']}, "
            f"{fitted['images']['fitting']:,} images, {loss(fitted)}, {fitted['seconds']:.0f} s "
            f"({machine(fitted)}); distance on validation noise {first['rmse']:.3f} at the start, "
            f"{best['rmse']:.3f} at iteration {best['iteration']}.",
            markdown(numbers(plan_)),
        ]
    return parts


def loss(fitted: Mapping[str, Any]) -> str:
    """How distances count; plans from before there was a choice have squares."""
    huber = fitted["loss"].get("huber", 0)
    return f"distances above {huber:g} linear" if huber else "distances squared"


def machine(fitted: Mapping[str, Any]) -> str:
    """Where a plan was fitted, as far as it was recorded."""
    if "machine" not in fitted:
        return "machine not recorded"
    return f"{fitted['machine']}, threads: {fitted['threads']}"


def draw(tables: Sequence[Learned], path: Path) -> list[Path]:
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
