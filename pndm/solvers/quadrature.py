"""Clocks: variables that replace the time, and exact means of interpolants over a step.

Every transfer part is Euler's method in a clock of its own: the classical one in t, φ (eq. 11) in
ρ where the direction is noise, and in 1/ρ where it is the predicted image. A direction that is
known at a few nodes is interpolated in some clock, by a polynomial; its mean over the step, as
the transfer's own clock measures it, is the exact direction of a multistep method (Zhang & Chen
2023 in t, Karras et al. 2022's reference code in ρ, Lu et al. 2022 in λ).
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Literal

import torch

from pndm.schedules import Node, Schedule

Clock = Literal["t", "rho", "lambda", "1/rho"]


def clock_value(clock: Clock, node: Node) -> float:
    """What a clock shows at a node: t, ρ, λ = −log ρ or 1/ρ, both infinite at ᾱ = 1."""
    return node.time if clock == "t" else _OF_RHO[clock](node.rho)


def mean_weights(
    clock: Clock,
    own: Clock,
    schedule: Schedule,
    stands: Sequence[Node],
    ends: tuple[Node, Node],
) -> list[float]:
    """w_j = ∫ L_j(c) dm / (m_s − m_t) over a step (t, s): c is `clock`, m the transfer's `own`.

    L_j are the Lagrange polynomials on the readings of c at `stands`. The integral is exact but
    for rounding, by Gauss-Legendre on pieces where c is smooth in m.
    """
    edges, points = _pieces(clock, own, schedule, ends)
    convert = _conversion(own, clock, schedule)
    at = [clock_value(clock, node) for node in stands]
    total = [0.0] * len(at)
    for start, end in pairwise(edges):
        for place, weight in _gauss(points) if start != end else ():
            basis = lagrange(at, convert(start + place * (end - start)))
            share = weight * (end - start) / (edges[-1] - edges[0])
            total = [sum_ + share * value for sum_, value in zip(total, basis, strict=True)]
    return total


def _pieces(
    clock: Clock, own: Clock, schedule: Schedule, ends: tuple[Node, Node]
) -> tuple[list[float], int]:
    """The pieces of a step in the clock `own`, and how many points each takes.

    Between times and the other clocks tabulated schedules have a kink at every whole time;
    otherwise no piece more than doubles its clock.
    """
    t, s = ends
    if clock != own and "t" in (clock, own):
        whole = [schedule.node(j) for j in range(math.ceil(t.time) - 1, math.floor(s.time), -1)]
        return [clock_value(own, node) for node in (t, *whole, s)], 4
    start, end = clock_value(own, t), clock_value(own, s)
    if clock == own:
        return [start, end], 4
    count = 1 + int(abs(math.log2(end / start)))
    return [start * (end / start) ** (i / count) for i in range(count + 1)], 10


def lagrange(at: Sequence[float], x: float) -> list[float]:
    """The Lagrange polynomials L_j(x) = Π_{i≠j} (x − at_i)/(at_j − at_i)."""
    return [math.prod((x - other) / (own - other) for other in at if other != own) for own in at]


_OF_RHO: dict[str, Callable[[float], float]] = {
    "rho": lambda rho: rho,
    "lambda": lambda rho: -math.log(rho) if rho else math.inf,
    "1/rho": lambda rho: 1 / rho if rho else math.inf,
}


def _conversion(own: Clock, clock: Clock, schedule: Schedule) -> Callable[[float], float]:
    """From a reading of one clock to that of another at the same moment."""
    if own == clock:
        return lambda m: m

    def convert(m: float) -> float:
        rho = m if own == "rho" else 1 / m if own == "1/rho" else schedule.node(m).rho
        if clock == "t":
            return schedule.inverse(-math.log1p(rho * rho))
        return _OF_RHO[clock](rho)

    return convert


@cache
def _gauss(points: int) -> tuple[tuple[float, float], ...]:
    """Nodes and weights of Gauss-Legendre on [0, 1], by eigenvalues (Golub & Welsch 1969)."""
    ks = torch.arange(1, points, dtype=torch.float64, device="cpu")
    beside = ks / (4 * ks**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return tuple(zip(((1 + nodes) / 2).tolist(), vectors[0].square().tolist(), strict=True))
