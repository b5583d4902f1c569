"""Plans: a solver, a schedule and a grid compiled into one row of numbers per evaluation.

Every fixed-step method is a list of linear combinations, so once its coefficients are known there
is nothing left to decide while it runs. A plan is that list: exact, printable, hashable; the
number of its rows is the number of network evaluations.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from pndm._errors import InputError
from pndm.grids import Grid, times
from pndm.prediction import Prediction, of_output
from pndm.schedules import Node, Schedule
from pndm.solvers import ProbabilityFlow, Solver, require_order
from pndm.solvers.gradient import EULER, Gradient
from pndm.solvers.transfer import Keep, Move, Transfer


class Combination(NamedTuple):
    """scale·base + Σ weight·k_row, the k named by the rows that kept them."""

    scale: float
    terms: tuple[tuple[int, float], ...] = ()


STAY = Combination(1.0)
"""The base as it is."""


class Row(NamedTuple):
    """One evaluation: e = network(point, time); keep k = u·point + v·e, bounded by ±clip.

    Then the base and the point become the combinations `base` and `point` of the old base and
    what was kept, both get noise·z, and the k of the rows in `drop` are forgotten. `ends` is the
    index of the node that the row completes, None inside a step.
    """

    time: float
    keep: tuple[float, float]
    clip: float | None
    base: Combination
    point: Combination
    noise: float
    ends: int | None
    drop: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The rows of a method on its nodes t_0 … t_N; `print(plan)` shows them as a table."""

    solver: Solver
    nodes: tuple[Node, ...]
    rows: tuple[Row, ...]

    @property
    def times(self) -> tuple[float, ...]:
        """The network's time of every evaluation, in order."""
        return tuple(row.time for row in self.rows)

    @property
    def nfe(self) -> int:
        """The number of network evaluations."""
        return len(self.rows)

    @property
    def steps(self) -> int:
        """The number of steps N."""
        return len(self.nodes) - 1

    @property
    def stochastic(self) -> bool:
        """Whether any row adds noise."""
        return any(row.noise for row in self.rows)

    def __str__(self) -> str:
        head = f"{self.solver.name}: {self.steps} steps, {self.nfe} evaluations"
        cells = [("row", "time", "keep", "base", "point", "reaches")]
        for i, row in enumerate(self.rows):
            reaches = "" if row.ends is None else f"{self.nodes[row.ends].time:g}"
            point = "the same" if row.point == row.base else format_combination(row.point)
            keep = format_terms([(row.keep[0], "x"), (row.keep[1], "e")])
            keep += f" within ±{row.clip:g}" if row.clip is not None else ""
            base = format_combination(row.base) + (f" + {row.noise:.6g}·z" if row.noise else "")
            cells.append((str(i), f"{row.time:g}", keep, base, point, reaches))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
        return "\n".join([head, *lines])


def format_combination(combination: Combination) -> str:
    """A combination as a formula: 0.98·base − 0.5·k3 …"""
    terms = [(weight, f"k{row}") for row, weight in combination.terms]
    return format_terms([(combination.scale, "base"), *terms])


def format_terms(terms: Sequence[tuple[float, str]]) -> str:
    """Σ weight·name in writing, without the zeros."""
    text = ""
    for weight, name in terms:
        if weight:
            sign = ("-" if weight < 0 else "") if not text else (" - " if weight < 0 else " + ")
            text += sign + (name if abs(weight) == 1 else f"{abs(weight):.6g}·{name}")
    return text or "0"


def plan(
    solver: Solver,
    schedule: Schedule,
    steps: int | None = None,
    grid: Grid = "leading",
    prediction: Prediction = "noise",
) -> Plan:
    """Compile a solver on a schedule and a grid (a name, or N+1 descending times); cached.

    `prediction` is what the network returns: noise, data or velocity. InputError for one that
    does not exist, for a grid or a number of steps that does not (see `pndm.grids.times`), for
    fewer steps than a solver's order, for what is no solver or schedule, and for `pf`, which
    chooses its steps as it goes.
    """
    require(solver, schedule)
    if isinstance(solver, ProbabilityFlow):
        raise InputError(
            "pf is adaptive and has no plan: pndm.sample and pndm.probability_flow integrate it"
        )
    stands = times(grid, steps, schedule)
    require_order(solver, len(stands) - 1)
    return _compile(solver, schedule, stands, prediction)


def require(solver: object, schedule: object) -> None:
    """InputError for a name, or anything else, in the place of a solver or a schedule."""
    if not isinstance(solver, Solver | ProbabilityFlow):
        raise InputError(f"solver is {solver!r}, but must be a solver, as pndm.solvers.plms()")
    if not isinstance(schedule, Schedule):
        raise InputError(f"schedule is {schedule!r}, but must be one, as pndm.schedules.linear()")


@lru_cache(maxsize=256)
def _compile(
    solver: Solver,
    schedule: Schedule,
    grid: tuple[float, ...],
    prediction: Prediction = "noise",
) -> Plan:
    nodes = tuple(schedule.node(t) for t in grid)
    image = nodes[-1].time < 0
    rows: list[Row] = []
    firsts: list[int] = []  # the row of each step's first evaluation, the newest first
    for step, (t, s) in enumerate(pairwise(nodes)):
        behind, left = nodes[step::-1], len(nodes) - 1 - step
        part = solver.part(step)
        if s.time < 0 and part.stages > 1:
            part = EULER  # no stage below time 0, where no network was trained
        gradient = part.tableau(schedule, behind, (t, s), left, image)
        new = _step(solver.transfer, gradient, schedule, (t, s), step, firsts, len(rows))
        if solver.corrector is not None:
            corrected = _correct(solver, schedule, behind, left + 1, image, [len(rows), *firsts])
            new = [apply_corrector(corrected, row, s == nodes[-1]) for row in new]
        rows += new
        firsts.insert(0, len(rows) - gradient.stages)
    rows = [
        row._replace(keep=of_output(row.keep, prediction, schedule.node(row.time))) for row in rows
    ]
    return Plan(solver, nodes, mark_last_uses(rows))


def _correct(
    solver: Solver,
    schedule: Schedule,
    behind: Sequence[Node],
    left: int,
    image: bool,
    through: Sequence[int],
) -> Combination:
    """The step that led to `behind[0]`, taken again with the evaluation there; `left` as then."""
    if len(behind) == 1 or solver.corrector is None:
        return STAY
    ends = behind[1], behind[0]
    gradient = solver.corrector.tableau(schedule, behind, ends, left + 1, image)
    weights = [*gradient.b, *gradient.past]
    return step_along(solver.transfer.move(*ends), weights, (), through[: len(weights)])


def apply_corrector(corrected: Combination, row: Row, last: bool) -> Row:
    """A row whose base is first corrected; where another follows, the base stays there."""
    x = row.point
    terms = dict(x.terms)
    for used, weight in corrected.terms:
        terms[used] = terms.get(used, 0.0) + x.scale * weight
    point = Combination(x.scale * corrected.scale, tuple(terms.items()))
    return row._replace(base=point if last else corrected, point=point)


def _step(
    transfer: Transfer,
    gradient: Gradient,
    schedule: Schedule,
    ends: tuple[Node, Node],
    step: int,
    firsts: Sequence[int],
    first: int,
) -> list[Row]:
    """The rows of one step from t to s; `first` is the number of rows before it."""
    t, s = ends
    own = range(first, first + gradient.stages)
    stops = [_between(schedule, t, s, c, gradient.clock) for c in gradient.c]
    keeps = [transfer.keep(stop, t) for stop in stops]
    rows = []
    for i, (stop, keep) in enumerate(zip(stops, keeps, strict=True)):
        if i + 1 < gradient.stages:
            c = gradient.c[i + 1]
            weights = [a / c for a in gradient.a[i + 1]]
            point = step_along(transfer.move(t, stops[i + 1]), weights, keeps, own[: i + 1])
            rows.append(Row(stop.time, keep[:2], transfer.clip, STAY, point, 0.0, None))
        else:
            past = tuple(firsts[: len(gradient.past)])
            weights = [*gradient.b, *gradient.past]
            move = transfer.move(t, s)
            x = step_along(move, weights, keeps, [*own, *past])
            rows.append(Row(stop.time, keep[:2], transfer.clip, x, x, move.noise, step + 1))
    return rows


def _between(schedule: Schedule, t: Node, s: Node, c: float, clock: str) -> Node:
    """The node at t + c·(s−t), in the time or in ρ; the ends are what they are.

    Where ᾱ is a staircase (`released`) that ρ may lie beyond the step: then its nearer end.
    """
    if c in (0, 1):
        return s if c else t
    if clock == "rho" and t.rho != s.rho:
        rho = t.rho + c * (s.rho - t.rho)
        inside = schedule.inverse(-math.log1p(rho * rho))
        return schedule.node(min(max(inside, s.time), t.time))
    return schedule.node(t.time + c * (s.time - t.time))


def step_along(
    move: Move, weights: Sequence[float], keeps: Sequence[Keep], rows: Sequence[int]
) -> Combination:
    """`move` along Σ weight·(k_row + b·base), the first of them kept in this step by `keeps`."""
    from_base = sum(w * keep.b for w, keep in zip(weights, keeps, strict=False))
    terms = tuple((row, move.gain * w) for row, w in zip(rows, weights, strict=True) if w)
    return Combination(move.scale + move.gain * from_base, terms)


def mark_last_uses(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Let each k go after the last row that uses it, so that memory is O(order)."""
    last_use = {i: i for i in range(len(rows))}
    for i, row in enumerate(rows):
        for used, _ in (*row.base.terms, *row.point.terms):
            last_use[used] = i
    dying: dict[int, tuple[int, ...]] = {}
    for used, i in last_use.items():
        dying[i] = (*dying.get(i, ()), used)
    return tuple(row._replace(drop=dying.get(i, ())) for i, row in enumerate(rows))
