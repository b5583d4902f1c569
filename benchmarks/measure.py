"""Alternating measurements of two implementations, so that both see the same load."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """A comparison: our time, the other's, and the target.

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
    """Wall time of a call, with the GPU's work queue empty before and after."""
    synchronize()
    began = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    """Synchronise the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(ours: Run, other: Run, pairs: int) -> tuple[float, float, float]:
    """Median seconds of each, and the median of other ÷ ours, over alternating pairs of calls."""
    for run in (ours, other):  # warm-up
        run()
    times = [(seconds(ours), seconds(other)) for _ in range(pairs)]
    own, other = zip(*times, strict=True)
    return median(own), median(other), median(b / a for a, b in times)


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()
