"""Multistep gradient parts: one direction from the evaluations at this and earlier nodes.

The paper's weights (eq. 12) are Adams-Bashforth weights, which assume evenly spaced nodes in the
transfer part's own clock. Its successors use the actual nodes: they interpolate in some clock and
use the interpolant's exact mean over the step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

from pndm._errors import InputError
from pndm.grids import is_whole
from pndm.schedules import Node, Schedule
from pndm.solvers.gradient import AB2, AB3, AB4, EULER, Gradient
from pndm.solvers.quadrature import Clock, clock_value, lagrange, mean_weights

Weights = Literal["fixed", "t", "rho", "lambda"]
Halfway = Literal["bh1", "bh2"]
ADAMS_BASHFORTH = (EULER, AB2, AB3, AB4)


@dataclass(frozen=True)
class Multistep:
    """The newest evaluations, up to `order` of them, with weights computed for every step.

    `weights` are `fixed` (Adams-Bashforth) or exact in the clock `t`, `rho` or `lambda`, for a
    transfer part that is Euler's method in `transfer_clock`. With two evaluations, `halfway` uses
    their linear interpolant at one point instead of its mean: halfway through the step in λ
    (`bh2`: Lu et al. 2022b), or at ½·h/(1 − e^(−h)) of it for images and ½·h/(e^h − 1) for noise
    (`bh1`: Zhao et al. 2023, B(h) = h).
    With `lower_order_final` the order is at most the number of steps left; None: only if they end
    in the image. The last steps to it are the longest in λ, and orders ≥ 3 oscillate there.
    """

    order: int
    weights: Weights
    transfer_clock: Clock
    halfway: Halfway | None = None
    lower_order_final: bool | None = False

    stages = 1
    history = 0

    def __post_init__(self) -> None:
        max_order = len(ADAMS_BASHFORTH) if self.weights == "fixed" else 6
        if self.weights not in get_args(Weights) or self.halfway not in (None, *get_args(Halfway)):
            raise InputError(
                f"weights={self.weights} halfway={self.halfway}: these must be "
                f"{', '.join(get_args(Weights))}, and {', '.join(get_args(Halfway))} or none"
            )
        if self.halfway and (self.weights != "lambda" or self.transfer_clock == "t"):
            raise InputError(
                f"halfway={self.halfway} requires weights=lambda and the pseudo transfer part, "
                f"not weights={self.weights}"
                + (" with the classical one" if self.transfer_clock == "t" else "")
            )
        if self.lower_order_final not in (None, False, True):
            raise InputError(
                f"lower_order_final is {self.lower_order_final!r}, but must be true, false or none"
            )
        if not is_whole(self.order) or not 1 <= self.order <= max_order:
            raise InputError(
                f"order is {self.order}, but must be a whole number from 1 to {max_order}"
            )

    def tableau(
        self,
        schedule: Schedule,
        nodes: Sequence[Node],
        ends: tuple[Node, Node],
        left: int,
        ends_in_image: bool,
    ) -> Gradient:
        """The weights of the evaluations at `nodes`, newest first, in the step `ends` = (t, s).

        `left` steps remain, this one included; `ends_in_image` says whether the last reaches the
        image. A step of zero length, and one whose end has an infinite clock value (λ and 1/ρ at
        the image), uses the newest evaluation alone.
        """
        t, s = ends
        lowered = ends_in_image if self.lower_order_final is None else self.lower_order_final
        count = min(self.order, len(nodes), left if lowered else len(nodes))
        if self.weights == "fixed":
            return ADAMS_BASHFORTH[count - 1]
        is_infinite = math.isinf(
            clock_value(self.weights, s) + clock_value(self.transfer_clock, s)
        )
        if is_infinite or clock_value(self.transfer_clock, t) == clock_value(
            self.transfer_clock, s
        ):
            return EULER
        # of consecutive nodes with the same (floored) ᾱ only the newest is used
        distinct = (i for i, node in enumerate(nodes) if i == 0 or node.rho != nodes[i - 1].rho)
        used = list(islice(distinct, count))
        weights = self._weights(schedule, [nodes[i] for i in used], ends)
        past = [0.0] * used[len(weights) - 1]
        for i, weight in zip(used[1:], weights[1:], strict=False):
            past[i - 1] = weight
        return Gradient(f"{self.weights}-weights", b=(1 - sum(past),), past=tuple(past))

    def _weights(
        self, schedule: Schedule, nodes: Sequence[Node], ends: tuple[Node, Node]
    ) -> list[float]:
        assert self.weights != "fixed"
        if self.halfway is None or len(nodes) != 2:
            return mean_weights(self.weights, self.transfer_clock, schedule, nodes, ends)
        start, end = (clock_value(self.weights, node) for node in ends)
        h = end - start if self.transfer_clock == "rho" else start - end
        fraction = 0.5 if self.halfway == "bh2" else 0.5 * h / math.expm1(h)
        values = [clock_value(self.weights, node) for node in nodes]
        return lagrange(values, start + fraction * (end - start))
