"""The ingredients of multistep methods, as data: the cells of the comparisons beyond the paper."""

from collections.abc import Iterator
from typing import NamedTuple

from pndm.grids import GRIDS
from pndm.solvers import Solver, multistep, unipc


class Method(NamedTuple):
    """A combination of transfer part, prediction, weights and starter.

    `weights` are those of `solvers.multistep`, or `unipc` for exact ones in λ with a corrector.
    """

    transfer: str
    predict: str
    weights: str
    order: int
    starter: str = "ramp"

    def words(self) -> list[str]:
        """The solver as overrides of run.py."""
        if self.weights == "unipc":
            return ["solver=unipc", f"solver.order={self.order}"]
        options = {"order": self.order, "weights": self.weights, "predict": self.predict}
        options |= {"transfer": self.transfer, "starter": self.starter}
        return ["solver=multistep", *(f"solver.{name}={value}" for name, value in options.items())]

    def solver(self) -> Solver:
        """The solver."""
        if self.weights == "unipc":
            return unipc(self.order)
        return multistep(self.order, self.weights, self.predict, self.transfer, self.starter)

    def steps(self, nfe: int) -> int | None:
        """The number of steps within `nfe` evaluations, None if there are fewer than the order."""
        extra = {"ramp": 0, "improved_euler": 1, "prk": 3 * (self.order - 1)}[self.starter]
        steps = nfe - extra
        return steps if steps > self.order - (self.starter == "ramp") else None

    def __str__(self) -> str:
        weights = {"fixed": f"AB{self.order}", "unipc": f"UniPC-{self.order}"}.get(
            self.weights, f"exact {self.order} in {SIGNS.get(self.weights, self.weights)}"
        )
        of = " of images" if self.predict == "data" and self.weights != "unipc" else ""
        start = "" if self.starter == "ramp" else f", {self.starter.replace('_', ' ')} first"
        return f"{self.transfer}, {weights}{of}{start}"


SIGNS = {"rho": "ρ", "lambda": "λ"}


class Cell(NamedTuple):
    """A method at a number of evaluations on a grid, on a schedule's network."""

    schedule: str
    method: Method
    grid: str
    nfe: int

    @property
    def steps(self) -> int:
        steps = self.method.steps(self.nfe)
        assert steps is not None
        return steps


SCHEDULES = ("linear", "cosine")
EVALUATIONS = (5, 10, 15, 20, 50)
SOME_GRIDS = ("leading", "quadratic")
FIXED = [("fixed", k) for k in (1, 2, 3, 4)]
EXACT = [(clock, k) for clock in ("t", "rho", "lambda") for k in (2, 3, 4)]
PSEUDO = [Method("pseudo", "noise", *kind) for kind in (*FIXED, *EXACT)]
CLASSICAL = [Method("classical", "noise", *kind) for kind in (*FIXED, *EXACT)]
STARTED = [
    method._replace(starter=starter)
    for method in PSEUDO
    if method.order > 1
    for starter in ("improved_euler", "prk")
]
OF_IMAGES = [
    *(Method("pseudo", "data", "lambda", k) for k in (2, 3)),
    *(Method("pseudo", "data", "unipc", k) for k in (2, 3)),
]


def trajectories() -> Iterator[Cell]:
    """The cells compared with the fine solution: all, but starters on some grids only."""
    for methods, grids in (((*PSEUDO, *CLASSICAL, *OF_IMAGES), GRIDS), (STARTED, SOME_GRIDS)):
        yield from _cells(methods, grids, EVALUATIONS)


def distances() -> list[Cell]:
    """The cells whose FID is measured, those of ten and five evaluations first."""
    few = [method for method in CLASSICAL if method.weights in ("fixed", "t")]
    started = [
        method for method in STARTED if method.weights == "fixed" and method.order in (2, 4)
    ]
    best = [method for method in (*PSEUDO, *OF_IMAGES) if method.order in (2, 3)]
    cells_by_nfe = {
        nfe: [
            *_cells((*PSEUDO, *OF_IMAGES, *few, *started), SOME_GRIDS, (nfe,)),
            *(_cells(best, ("linspace", "trailing"), (nfe,)) if nfe == 10 else ()),
            *(_cells(best, ("uniform_lambda", "karras"), (nfe,)) if nfe == 10 else ()),
        ]
        for nfe in (10, 5, 20, 15, 50)
    }
    return [cell for cells in cells_by_nfe.values() for cell in cells]


def _cells(methods, grids, evaluations) -> Iterator[Cell]:
    for schedule in SCHEDULES:
        for nfe in evaluations:
            for grid in grids:
                for method in methods:
                    if method.steps(nfe) is not None:
                        yield Cell(schedule, method, grid, nfe)
