"""Grids: the times between which a method steps, from nearly pure noise down to the image.

N nodes t_0 > … > t_{N−1} ≥ 0 where the network is evaluated, then the end t_N, which is −1 (the
image) on every named grid.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import SupportsInt, TypeGuard

from pndm._errors import InputError
from pndm.schedules import Schedule, linspace, number

Grid = str | Sequence[float]


def leading(steps: int, schedule: Schedule) -> list[float]:
    """⌊i·T/N⌋: the paper's grid where N divides T."""
    if steps == 1:
        warnings.warn(
            "grid=leading with one step would start at time 0 and return noise: "
            f"it starts at {schedule.timesteps - 1} instead",
            stacklevel=2,
        )
        return [schedule.timesteps - 1]
    return [i * schedule.timesteps // steps for i in range(steps)]


def linspace_(steps: int, schedule: Schedule) -> list[float]:
    """round((T−1)·i/(N−1)): from the first time to the last."""
    last = schedule.timesteps - 1
    return [round(last * i / (steps - 1)) for i in range(steps)] if steps > 1 else [last]


def trailing(steps: int, schedule: Schedule) -> list[float]:
    """round(T·i/N) − 1 for i ≥ 1: spaced from the last time downwards."""
    return [round(schedule.timesteps * i / steps) - 1 for i in range(1, steps + 1)]


def quadratic(steps: int, schedule: Schedule) -> list[float]:
    """0.8·T·(i/(N−1))², real: DDIM's grid for Cifar10, without its rounding collisions."""
    last = schedule.timesteps - 1
    first = min(0.8 * schedule.timesteps, last)
    return [first * (i / (steps - 1)) ** 2 for i in range(steps)] if steps > 1 else [last]


def uniform_lambda(steps: int, schedule: Schedule) -> list[float]:
    """Real times evenly spaced in λ, from T−1 to 0 (Lu et al. 2022)."""
    return _clock_grid(steps, schedule, lambda rho: math.log(rho), lambda y: math.exp(y))


def karras(steps: int, schedule: Schedule) -> list[float]:
    """Real times evenly spaced in ρ^(1/7), from T−1 to 0 (Karras et al. 2022, eq. 5)."""
    return _clock_grid(steps, schedule, lambda rho: rho ** (1 / 7), lambda y: y**7)


def _clock_grid(
    steps: int,
    schedule: Schedule,
    clock: Callable[[float], float],
    inverse: Callable[[float], float],
) -> list[float]:
    """Real times evenly spaced in a function of ρ; the two ends are exact."""
    last = schedule.timesteps - 1
    ends = schedule.node(0).rho, schedule.node(last).rho
    even = linspace(clock(ends[0]), clock(ends[1]), steps)[1:-1]
    inner = [schedule.time_at(-math.log1p(inverse(y) ** 2)) for y in even]
    return [0, *inner, last] if steps > 1 else [last]


GRIDS: dict[str, Callable[[int, Schedule], list[float]]] = {
    "leading": leading,
    "linspace": linspace_,
    "trailing": trailing,
    "quadratic": quadratic,
    "uniform_lambda": uniform_lambda,
    "karras": karras,
}
"""The grids by name: (N, schedule) -> N ascending times."""


def named(grid: str) -> Callable[[int, Schedule], list[float]]:
    """Return the grid of that name; InputError if there is none."""
    if grid not in GRIDS:
        raise InputError(f"no grid {grid!r}: use {', '.join(GRIDS)}, or a list of times")
    return GRIDS[grid]


def is_whole(number: object) -> TypeGuard[SupportsInt]:
    """Whether a value is an integer, Python's or NumPy's; booleans do not count."""
    return isinstance(number, Integral) and not isinstance(number, bool)


def times(grid: Grid, steps: int | None, schedule: Schedule) -> tuple[float, ...]:
    """The N+1 descending times [t_0, …, t_N] of a named grid, or a list of them, checked.

    InputError for an unknown name, steps outside 1…T, and a list that is not strictly descending,
    leaves [−1, T−1], goes below 0 before its end, or disagrees with `steps`; and for a schedule
    that has no signal or no noise where the network is evaluated (see `Schedule.node`).
    """
    if isinstance(grid, str):
        grid_times = named(grid)
        if not is_whole(steps) or not 1 <= (count := int(steps)) <= schedule.timesteps:
            raise InputError(
                f"steps is {steps}, but must be a whole number from 1 to {schedule.timesteps}"
            )
        if grid_times in (uniform_lambda, karras):
            schedule.time_at(
                schedule.log_alpha_bar(0)
            )  # raises InputError if the clock has no inverse
        nodes = (*(float(t) for t in reversed(grid_times(count, schedule))), -1.0)
    else:
        nodes = _checked(grid, steps, schedule)
    for t in (nodes[0], nodes[-2]):
        schedule.node(t)  # raises InputError where no method can divide by its signal or noise
    return nodes


def _checked(grid: object, steps: int | None, schedule: Schedule) -> tuple[float, ...]:
    """The times of a list, or InputError."""
    if not isinstance(grid, Iterable):
        raise InputError(f"grid is {grid!r}, but must be a name or a list of times")
    try:
        nodes = tuple(map(number, grid))
    except (TypeError, ValueError):
        raise InputError(f"grid is {grid!r}, but must be a name or a list of times") from None
    if len(nodes) < 2 or any(not t > s for t, s in pairwise(nodes)):
        raise InputError("a list of times must be strictly descending, with two entries at least")
    if steps is not None and steps != len(nodes) - 1:
        raise InputError(
            f"steps is {steps}, but the list of {len(nodes)} times has {len(nodes) - 1}"
        )
    for t in (nodes[0], nodes[-1]):
        schedule.check(t)
    if nodes[-2] < 0:
        raise InputError(
            f"the network would be evaluated at {nodes[-2]}: only the last time may be below 0"
        )
    return nodes
