"""Alternating measurements: two ways to one result, in turn, so that both meet the same load."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """A comparison: ours, another's, and what was aimed at.

    `ratio` is the median over pairs of other ÷ ours, so above 1 ours is the better one; where
    there is no other, what `aim` is about. `difference` is that of the results, relative to the
    largest entry.
    """

    part: str
    case: str
    unit: str
    ours: float | None
    other: float | None
    ratio: float | None
    aim: str
    met: bool | None
    difference: float | None = None
    note: str = ""


Run = Callable[[], object]


def seconds(run: Run) -> float:
    """Wall time of a call, a graphics card's queue empty at both ends."""
    synchronize()
    began = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    """Wait for the graphics card, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(ours: Run, other: Run, pairs: int) -> tuple[float, float, float]:
    """Median seconds of each, and the median of other ÷ ours, over pairs of calls in turn."""
    for run in (ours, other):  # the first one warms up
        run()
    times = [(seconds(ours), seconds(other)) for _ in range(pairs)]
    own, other = zip(*times, strict=True)
    return median(own), median(other), median(b / a for a, b in times)


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()
