"""Multistep gradient parts: one direction from the evaluations at this node and at earlier ones.

The paper's weights (eq. 12) are Adams and Bashforth's, which take the nodes for evenly spaced in
the transfer part's own clock. Its successors take the nodes as they stand: they interpolate in
some clock and use the interpolant's exact mean over the step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
    """The newest evaluations, up to `order` of them, weighed anew in every step.

    `weights` are `fixed` (Adams-Bashforth) or exact in the clock `t`, `rho` or `lambda`, for a
    transfer part that is Euler's method in the clock `own`. Where two evaluations are weighed,
    `halfway` takes their line at one place instead of its mean: half-way through the step in λ
    (`bh2`: Lu et al. 2022b), or at ½·h/(1 − e^(−h)) of it (`bh1`: Zhao et al. 2023, B(h) = h).
    With `lower_order_final` the order is at most the number of steps left; None: where they end
    in the image. The last steps to it are the longest in λ, and orders from 3 on swing there.
    """

    order: int
    weights: Weights
    own: Clock
    halfway: Halfway | None = None
    lower_order_final: bool | None = False

    stages = 1
    needs = 0

    def __post_init__(self) -> None:
        most = len(ADAMS_BASHFORTH) if self.weights == "fixed" else 6
        if self.weights not in get_args(Weights) or self.halfway not in (None, *get_args(Halfway)):
            raise InputError(
                f"weights={self.weights} halfway={self.halfway}: these must be "
                f"{', '.join(get_args(Weights))}, and {', '.join(get_args(Halfway))} or none"
            )
        if self.halfway and (self.weights != "lambda" or self.own == "t"):
            raise InputError(
                f"halfway={self.halfway} is of the weights in λ with the pseudo transfer part, "
                f"not of weights={self.weights}"
                + (" with the classical one" if self.own == "t" else "")
            )
        if self.lower_order_final not in (None, False, True):
            raise InputError(
                f"lower_order_final is {self.lower_order_final!r}, but must be true, false or none"
            )
        if not is_whole(self.order) or not 1 <= self.order <= most:
            raise InputError(f"order is {self.order}, but must be a whole number from 1 to {most}")

    def tableau(
        self,
        schedule: Schedule,
        stands: Sequence[Node],
        ends: tuple[Node, Node],
        left: int,
        image: bool,
    ) -> Gradient:
        """The weights of the evaluations at `stands`, the newest first, in the step `ends`.

        `left` steps are to be made, this one included, and the last ends in the `image` or not.
        A step of no length, and one whose end the clock does not reach (λ and 1/ρ are infinite at
        the image), takes the newest alone.
        """
        t, s = ends
        lowered = image if self.lower_order_final is None else self.lower_order_final
        count = min(self.order, len(stands), left if lowered else len(stands))
        if self.weights == "fixed":
            return ADAMS_BASHFORTH[count - 1]
        endless = math.isinf(clock_value(self.weights, s) + clock_value(self.own, s))
        if endless or clock_value(self.own, t) == clock_value(self.own, s):
            return EULER
        # of nodes between which nothing moves (a floored ᾱ) only the newest counts
        used = [i for i, node in enumerate(stands) if i == 0 or node.rho != stands[i - 1].rho]
        found = self._weigh(schedule, [stands[i] for i in used[:count]], ends)
        past = [0.0] * used[len(found) - 1]
        for i, weight in zip(used[1:], found[1:], strict=False):
            past[i - 1] = weight
        return Gradient(f"{self.weights}-weights", b=(1 - sum(past),), past=tuple(past))

    def _weigh(
        self, schedule: Schedule, stands: Sequence[Node], ends: tuple[Node, Node]
    ) -> list[float]:
        assert self.weights != "fixed"
        if self.halfway is None or len(stands) != 2:
            return mean_weights(self.weights, self.own, schedule, stands, ends)
        start, end = (clock_value(self.weights, node) for node in ends)
        h = end - start if self.own == "rho" else start - end
        place = 0.5 if self.halfway == "bh2" else 0.5 * h / math.expm1(h)
        at = [clock_value(self.weights, node) for node in stands]
        return lagrange(at, start + place * (end - start))
