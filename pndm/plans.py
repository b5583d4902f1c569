"""Plans: a solver, a schedule and a grid compiled into one row of coefficients per evaluation.

Every fixed-step method is a list of linear combinations whose coefficients are known in advance.
A plan is that list: exact, printable, hashable; the number of its rows is the number of network
evaluations.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from pndm import learned
from pndm._errors import InputError, file_errors
from pndm.grids import Grid, times
from pndm.learned import Learned
from pndm.prediction import Prediction, of_output
from pndm.schedules import Node, Schedule
from pndm.solvers import ProbabilityFlow, Solver, require_order
from pndm.solvers.gradient import EULER, Gradient
from pndm.solvers.transfer import Keep, Move, Pseudo, Transfer, x_0


class Combination(NamedTuple):
    """scale·base + Σ weight·k_row, each k identified by the row that computed it."""

    scale: float
    terms: tuple[tuple[int, float], ...] = ()


STAY = Combination(1.0)
"""The base unchanged."""


class Bound(NamedTuple):
    """The clipping of the predicted image x_0 = u·point + v·e of a step to ±limit.

    gain·(clipped x_0 − x_0) is added to base and point; the direction is unchanged.
    """

    x_0: tuple[float, float]
    limit: float
    gain: float


class Row(NamedTuple):
    """One evaluation: e = network(point, time), and k = u·point + v·e clipped to ±clip is stored.

    `keep` is (u, v). Then the base and the point become the combinations `base` and `point` of
    the old base and the stored k, noise·z is added to both, and the k of the rows in `drop` are
    freed. `ends` is the index of the node that the row reaches, None inside a step. `bound` is
    set by `bound_images`.
    """

    time: float
    keep: tuple[float, float]
    clip: float | None
    base: Combination
    point: Combination
    noise: float
    ends: int | None
    drop: tuple[int, ...] = ()
    bound: Bound | None = None


@dataclass(frozen=True, repr=False)
class Plan:
    """The rows of a method on its nodes t_0 … t_N; `print(plan)` prints them as a table.

    `learned` are the numbers that it was compiled from, where those were fitted.
    """

    solver: Solver
    nodes: tuple[Node, ...]
    rows: tuple[Row, ...]
    learned: Learned | None = None

    @property
    def times(self) -> tuple[float, ...]:
        """The network time of every evaluation, in order."""
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

    def __repr__(self) -> str:
        return f"<Plan of {self.solver.name}: {self.steps} steps, {self.nfe} evaluations>"

    def __str__(self) -> str:
        title = f"{self.solver.name}: {self.steps} steps, {self.nfe} evaluations"
        title += f"\n{self.learned.description}" if self.learned is not None else ""
        cells = [("row", "time", "keep", "base", "point", "reaches")]
        for i, row in enumerate(self.rows):
            reaches = "" if row.ends is None else f"{self.nodes[row.ends].time:g}"
            point = "the same" if row.point == row.base else format_combination(row.point)
            keep = format_terms([(row.keep[0], "x"), (row.keep[1], "e")])
            keep += f" within ±{row.clip:g}" if row.clip is not None else ""
            base = format_combination(row.base) + (f" + {row.noise:.6g}·z" if row.noise else "")
            if row.bound is not None:
                base += f" + {row.bound.gain:.6g}·(x_0 within ±{row.bound.limit:g} − x_0)"
            cells.append((str(i), f"{row.time:g}", keep, base, point, reaches))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
        return "\n".join([title, *lines])


def format_combination(combination: Combination) -> str:
    """Format a combination: 0.98·base − 0.5·k3 …"""
    terms = [(weight, f"k{row}") for row, weight in combination.terms]
    return format_terms([(combination.scale, "base"), *terms])


def format_terms(terms: Sequence[tuple[float, str]]) -> str:
    """Format Σ weight·name, omitting zero weights."""
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

    `prediction` is what the network returns: noise, data or velocity. InputError for an unknown
    prediction type, an invalid grid or number of steps (see `pndm.grids.times`), fewer steps than
    the solver's order, a solver or schedule of the wrong type, and for `pf`, whose steps are
    adaptive.
    """
    require(solver, schedule)
    if isinstance(solver, ProbabilityFlow):
        raise InputError(
            "pf is adaptive and has no plan: pndm.sample and pndm.probability_flow integrate it"
        )
    nodes = times(grid, steps, schedule)
    require_order(solver, len(nodes) - 1)
    return _compile(solver, schedule, nodes, prediction)


def load(source: str | Path, override: bool = False) -> Plan:
    """The learned plan of a file, or the shipped one of that name (`digits_linear-5`).

    With `override` it may be used with another network than it was fitted to, after a warning.
    InputError for a file that is missing or holds no plan.
    """
    return of_learned(learned.read(source, override))


def save(plan: Plan, path: Path) -> None:
    """Write a learned plan as JSON; InputError for a plan that was not learned."""
    if plan.learned is None:
        raise InputError(f"{plan!r} was not learned: its solver, schedule and grid determine it")
    text = json.dumps(plan.learned.to_json(), indent=2, allow_nan=False) + "\n"
    with file_errors():
        Path(path).write_text(text, encoding="utf-8")


def of_learned(table: Learned) -> Plan:
    """Compile the numbers of a learned plan, with the transfer part φ."""
    parts = tuple(
        Gradient(f"row {i}", b=row[-1:], past=row[-2::-1] if i else (), fitted=True)
        for i, row in enumerate(table.weights)
    )
    solver = Solver("learned", Pseudo(), parts[-1], parts[:-1])
    rows = []
    for i, (t, s) in enumerate(pairwise(table.nodes)):
        keep = of_output((0.0, 1.0), table.prediction, t)
        x = step_along(solver.transfer.move(t, s), table.weights[i], (), range(i + 1))
        rows.append(Row(table.times[i], keep, None, x, x, 0.0, i + 1))
    return Plan(solver, table.nodes, mark_last_uses(rows), table)


def to_learned(plan: Plan, name: str, prediction: Prediction = "noise") -> Learned:
    """The inverse of `of_learned`: the weights w_ij of a plan of one evaluation per step.

    A step of zero length has the weight 1 on its own evaluation. InputError for plans of other
    methods: Runge-Kutta stages, directions that are not the noise, correctors, added noise.
    """
    solver, weights = plan.solver, []
    require_multistep(solver)
    for i, (t, s) in enumerate(pairwise(plan.nodes)):
        gain, terms = solver.transfer.move(t, s).gain, dict(plan.rows[i].base.terms)
        row = [terms.get(j, 0.0) / gain if gain else float(j == i) for j in range(i + 1)]
        weights.append(tuple(row))
    nodes = tuple(node._replace(slope=0.0) for node in plan.nodes)
    return Learned(name, nodes, plan.times, tuple(weights), prediction)


def require_multistep(solver: Solver | ProbabilityFlow) -> None:
    """Raise InputError unless a solver is a linear multistep method on the noise."""
    reason = None
    if isinstance(solver, ProbabilityFlow):
        reason = "is adaptive"
    elif not isinstance(solver.transfer, Pseudo) or solver.transfer.clip is not None:
        reason = "does not combine predicted noise by the transfer part φ"
    elif solver.transfer.eta:
        reason = "adds noise"
    elif solver.corrector is not None:
        reason = "has a corrector"
    elif any(part.stages > 1 for part in (*solver.starters, solver.gradient)):
        reason = "has Runge-Kutta steps"
    if reason is not None:
        raise InputError(
            f"solver={solver.name} {reason}, so it cannot be fitted: use ddim, ipndm, deis, lms, "
            "or multistep with predict=noise transfer=pseudo starter=ramp"
        )


def require(solver: object, schedule: object) -> None:
    """Raise InputError unless given a solver and a schedule (a name is neither)."""
    if not isinstance(solver, Solver | ProbabilityFlow):
        raise InputError(
            f"solver is {solver!r}, but must be a solver, such as pndm.solvers.plms()"
        )
    if not isinstance(schedule, Schedule):
        raise InputError(
            f"schedule is {schedule!r}, but must be one, such as pndm.schedules.linear()"
        )


@lru_cache(maxsize=256)
def _compile(
    solver: Solver,
    schedule: Schedule,
    grid: tuple[float, ...],
    prediction: Prediction = "noise",
) -> Plan:
    nodes = tuple(schedule.node(t) for t in grid)
    ends_in_image = nodes[-1].time < 0
    rows: list[Row] = []
    first_rows: list[int] = []  # of each step's first evaluation, newest first
    for step, (t, s) in enumerate(pairwise(nodes)):
        history, left = nodes[step::-1], len(nodes) - 1 - step
        part = solver.part(step)
        if s.time < 0 and part.stages > 1:
            part = EULER  # no stage below time 0, where the network was not trained
        gradient = part.tableau(schedule, history, (t, s), left, ends_in_image)
        new = _step(solver.transfer, gradient, schedule, (t, s), step, first_rows, len(rows))
        if solver.corrector is not None:
            corrected = _correct(
                solver, schedule, history, left + 1, ends_in_image, [len(rows), *first_rows]
            )
            new = [apply_corrector(corrected, row, s == nodes[-1]) for row in new]
        rows += new
        first_rows.insert(0, len(rows) - gradient.stages)
    rows = [
        row._replace(keep=of_output(row.keep, prediction, schedule.node(row.time))) for row in rows
    ]
    return Plan(solver, nodes, mark_last_uses(rows))


def _correct(
    solver: Solver,
    schedule: Schedule,
    history: Sequence[Node],
    left: int,
    ends_in_image: bool,
    rows: Sequence[int],
) -> Combination:
    """Repeat the step to `history[0]` with the evaluation there; `left` counts from its start."""
    if len(history) == 1 or solver.corrector is None:
        return STAY
    ends = history[1], history[0]
    gradient = solver.corrector.tableau(schedule, history, ends, left + 1, ends_in_image)
    weights = [*gradient.b, *gradient.past]
    return step_along(solver.transfer.move(*ends), weights, (), rows[: len(weights)])


def apply_corrector(corrected: Combination, row: Row, last: bool) -> Row:
    """Correct the base of a row first; unless it is the last row, the base stays corrected."""
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
    first_rows: Sequence[int],
    first: int,
) -> list[Row]:
    """The rows of one step from t to s; `first` is the number of rows before it."""
    t, s = ends
    own = range(first, first + gradient.stages)
    stages = [_between(schedule, t, s, c, gradient.clock) for c in gradient.c]
    keeps = [transfer.keep(node, t) for node in stages]
    rows = []
    for i, (node, keep) in enumerate(zip(stages, keeps, strict=True)):
        if i + 1 < gradient.stages:
            c = gradient.c[i + 1]
            weights = [a / c for a in gradient.a[i + 1]]
            point = step_along(transfer.move(t, stages[i + 1]), weights, keeps, own[: i + 1])
            rows.append(Row(node.time, keep[:2], transfer.clip, STAY, point, 0.0, None))
        else:
            past = tuple(first_rows[: len(gradient.past)])
            weights = [*gradient.b, *gradient.past]
            move = transfer.move(t, s)
            x = step_along(move, weights, keeps, [*own, *past])
            rows.append(Row(node.time, keep[:2], transfer.clip, x, x, move.noise, step + 1))
    return rows


def _between(schedule: Schedule, t: Node, s: Node, c: float, clock: str) -> Node:
    """The node at t + c·(s−t) in time or in ρ; for c = 0 or 1 exactly t or s.

    Where ᾱ is a staircase (`released`) that ρ may be outside the step: then the nearer end.
    """
    if c in (0, 1):
        return s if c else t
    if clock == "rho" and t.rho != s.rho:
        rho = t.rho + c * (s.rho - t.rho)
        time = schedule.inverse(-math.log1p(rho * rho))
        return schedule.node(min(max(time, s.time), t.time))
    return schedule.node(t.time + c * (s.time - t.time))


def step_along(
    move: Move, weights: Sequence[float], keeps: Sequence[Keep], rows: Sequence[int]
) -> Combination:
    """Move along Σ weight·(k_row + b·base); the first rows belong to this step, with `keeps`."""
    from_base = sum(w * keep.b for w, keep in zip(weights, keeps, strict=False))
    terms = tuple((row, move.gain * w) for row, w in zip(rows, weights, strict=True) if w)
    return Combination(move.scale + move.gain * from_base, terms)


def remainder(whole: Plan, first: int, schedule: Schedule, prediction: Prediction) -> Plan:
    """The plan that starts at row `first` of another and evaluates at the same times.

    Of a learned plan the nodes remain, its clock and weights do not. No evaluations of earlier
    rows are used (see `Solver.after`). The rest of an unfinished step is replaced by Euler steps
    from each of its evaluations to the next, and to its end.
    """
    reached = [row.ends for row in whole.rows[:first] if row.ends is not None]
    step = reached[-1] if reached else 0
    if first == 0 or whole.rows[first - 1].ends is not None:
        times = tuple(node.time for node in whole.nodes[step:])
        return _compile(whole.solver.after(step), schedule, times, prediction)
    last = next(i for i in range(first, whole.nfe) if whole.rows[i].ends is not None)
    stops = [schedule.node(time) for time in whole.times[first : last + 1]]
    ends = [*stops, whole.nodes[step + 1]]
    transfer = whole.solver.transfer
    rows = []
    for i, (t, s) in enumerate(pairwise(ends)):
        (row,) = _step(transfer, EULER, schedule, (t, s), 0, (), i)
        keep = of_output(row.keep, prediction, t)
        rows.append(row._replace(keep=keep, ends=1 if i == last - first else None, drop=(i,)))
    if last + 1 < whole.nfe:
        rest = remainder(whole, last + 1, schedule, prediction)
        rows += [shift(row, len(rows)) for row in rest.rows]
    return Plan(whole.solver, (stops[0], *whole.nodes[step + 1 :]), tuple(rows))


def bound_images(whole: Plan, limit: float, prediction: Prediction) -> Plan:
    """A plan of DDIM steps with predicted images clipped to ±limit, and the noise as predicted.

    x_s = √ᾱ_s·clip(x_0) + √(1−ᾱ_s−σ²)·e + σ·z, as in public DDIM code with `clip_sample`.
    """
    rows = [
        row._replace(
            bound=Bound(of_output(x_0(t)[:2], prediction, t), limit, math.sqrt(s.alpha_bar))
        )
        for row, (t, s) in zip(whole.rows, pairwise(whole.nodes), strict=True)
    ]
    return replace(whole, rows=tuple(rows))


def shift(row: Row, count: int) -> Row:
    """Shift a row by `count` rows that make up an additional first step."""

    def shift_terms(combination: Combination) -> Combination:
        return Combination(combination.scale, tuple((i + count, w) for i, w in combination.terms))

    return row._replace(
        base=shift_terms(row.base),
        point=shift_terms(row.point),
        ends=None if row.ends is None else row.ends + 1,
        drop=tuple(i + count for i in row.drop),
    )


def mark_last_uses(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Free each k after the last row that uses it, so that memory is O(order)."""
    last_use = {i: i for i in range(len(rows))}
    for i, row in enumerate(rows):
        for used, _ in (*row.base.terms, *row.point.terms):
            last_use[used] = i
    dying: dict[int, tuple[int, ...]] = {}
    for used, i in last_use.items():
        dying[i] = (*dying.get(i, ()), used)
    return tuple(row._replace(drop=dying.get(i, ())) for i, row in enumerate(rows))
