"""Clocks: variables that replace the time, and exact means of interpolants over a step.

Every transfer part is Euler's method in its own clock: the classical one in t, φ (eq. 11) in ρ
where the direction is noise, and in 1/ρ where it is the predicted image. A direction known at a
few nodes is interpolated in some clock, by a polynomial; its mean over the step with respect to
the transfer part's clock is the exact direction of a multistep method (Zhang & Chen
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
    """The value of a clock at a node: t, ρ, λ = −log ρ or 1/ρ, the last two infinite at ᾱ = 1."""
    return node.time if clock == "t" else _OF_RHO[clock](node.rho)


def mean_weights(
    clock: Clock,
    transfer_clock: Clock,
    schedule: Schedule,
    nodes: Sequence[Node],
    ends: tuple[Node, Node],
) -> list[float]:
    """w_j = ∫ L_j(c) dm / (m_s − m_t) over a step (t, s), c being `clock`, m `transfer_clock`.

    L_j are the Lagrange polynomials on the values of c at `nodes`. The integral is exact up to
    rounding, by Gauss-Legendre quadrature on pieces where c is smooth in m.
    """
    edges, points = _pieces(clock, transfer_clock, schedule, ends)
    convert = _conversion(transfer_clock, clock, schedule)
    values = [clock_value(clock, node) for node in nodes]
    total = [0.0] * len(values)
    for start, end in pairwise(edges):
        for fraction, weight in _gauss(points) if start != end else ():
            basis = lagrange(values, convert(start + fraction * (end - start)))
            share = weight * (end - start) / (edges[-1] - edges[0])
            total = [sum_ + share * value for sum_, value in zip(total, basis, strict=True)]
    return total


def _pieces(
    clock: Clock, transfer_clock: Clock, schedule: Schedule, ends: tuple[Node, Node]
) -> tuple[list[float], int]:
    """The pieces of a step in `transfer_clock`, and the number of quadrature points of each.

    Tabulated schedules have a kink at every integer time between t and the other clocks;
    otherwise the clock at most doubles on each piece.
    """
    t, s = ends
    if clock != transfer_clock and "t" in (clock, transfer_clock):
        whole = [schedule.node(j) for j in range(math.ceil(t.time) - 1, math.floor(s.time), -1)]
        return [clock_value(transfer_clock, node) for node in (t, *whole, s)], 4
    start, end = clock_value(transfer_clock, t), clock_value(transfer_clock, s)
    if clock == transfer_clock:
        return [start, end], 4
    count = 1 + int(abs(math.log2(end / start)))
    return [start * (end / start) ** (i / count) for i in range(count + 1)], 10


def lagrange(nodes: Sequence[float], x: float) -> list[float]:
    """The Lagrange polynomials L_j(x) = Π_{i≠j} (x − n_i)/(n_j − n_i) on nodes n."""
    return [math.prod((x - i) / (j - i) for i in nodes if i != j) for j in nodes]


_OF_RHO: dict[str, Callable[[float], float]] = {
    "rho": lambda rho: rho,
    "lambda": lambda rho: -math.log(rho) if rho else math.inf,
    "1/rho": lambda rho: 1 / rho if rho else math.inf,
}


def _conversion(
    transfer_clock: Clock, clock: Clock, schedule: Schedule
) -> Callable[[float], float]:
    """The function from a value of `transfer_clock` to that of `clock` at the same time."""
    if transfer_clock == clock:
        return lambda m: m

    def convert(m: float) -> float:
        rho = (
            m
            if transfer_clock == "rho"
            else 1 / m
            if transfer_clock == "1/rho"
            else schedule.node(m).rho
        )
        if clock == "t":
            return schedule.inverse(-math.log1p(rho * rho))
        return _OF_RHO[clock](rho)

    return convert


@cache
def _gauss(points: int) -> tuple[tuple[float, float], ...]:
    """Gauss-Legendre nodes and weights on [0, 1], by eigenvalues (Golub & Welsch 1969)."""
    ks = torch.arange(1, points, dtype=torch.float64, device="cpu")
    off_diagonal = ks / (4 * ks**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return tuple(zip(((1 + values) / 2).tolist(), vectors[0].square().tolist(), strict=True))
