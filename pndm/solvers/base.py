"""The solver classes: frozen values of a transfer part, a gradient part and a starter.

FON and F-PNDM, the two sides of the paper's central comparison, differ in one field.
"""

import math
from dataclasses import dataclass, replace

from pndm._errors import InputError
from pndm.grids import is_whole
from pndm.schedules import is_number
from pndm.solvers.gradient import Gradient
from pndm.solvers.linear_multistep import ADAMS_BASHFORTH, Multistep
from pndm.solvers.transfer import Transfer


@dataclass(frozen=True)
class Solver:
    """A fixed-step method: step i uses `starters[i]` while there are any, then `gradient`.

    With a `corrector`, the evaluation at the end of a step is first used to repeat that step, and
    the next step starts from the corrected point. If `order` is set, a plan needs that many steps.
    """

    name: str
    transfer: Transfer
    gradient: Gradient | Multistep
    starters: tuple[Gradient, ...] = ()
    corrector: Multistep | None = None
    order: int | None = None

    def __post_init__(self) -> None:
        for step, part in enumerate((*self.starters, self.gradient)):
            if part.history > step:
                raise InputError(
                    f"{self.name}: the gradient part of step {step} uses {part.history} "
                    "earlier steps: give it as many starters"
                )

    def part(self, step: int) -> Gradient | Multistep:
        """The gradient part of step `step` (from 0), except for the step below time 0."""
        return self.starters[step] if step < len(self.starters) else self.gradient

    def after(self, steps: int) -> "Solver":
        """The method from step `steps` on, without the evaluations of earlier steps.

        Remaining starters are used. A gradient part that needs more earlier steps than there are
        is replaced by Adams-Bashforth of a lower order: AB1, AB2, …
        """
        if steps == 0:
            return self
        parts = list(self.starters[steps:])
        if isinstance(self.gradient, Gradient):
            parts += [self.gradient] * (self.gradient.history - len(parts))
        highest = len(ADAMS_BASHFORTH) - 1
        ramp = (
            part if part.history <= i else ADAMS_BASHFORTH[min(i, highest)]
            for i, part in enumerate(parts)
        )
        return replace(self, starters=tuple(ramp), order=None)

    def nfe(self, steps: int) -> int:
        """The number of network evaluations in `steps` steps of a named grid.

        The last step ends below time 0, where the network was not trained, and so takes one.
        InputError for fewer steps than 1, or than `order`.
        """
        if not is_whole(steps) or steps < 1:
            raise InputError(f"steps is {steps}, but must be a whole number from 1")
        require_order(self, steps)
        return sum(self.part(step).stages for step in range(steps - 1)) + 1


@dataclass(frozen=True)
class ProbabilityFlow:
    """The adaptive Runge-Kutta method for eq. 10, run by `pndm.probability_flow`."""

    name: str = "pf"
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        numbers = is_number(self.rtol) and is_number(self.atol)
        if not (numbers and min(self.rtol, self.atol) >= 0 < self.rtol + self.atol < math.inf):
            raise InputError(
                f"rtol is {self.rtol} and atol {self.atol}, but at least one must be positive "
                "and none negative or infinite: the paper uses 1e-5"
            )

    def nfe(self, steps: int) -> None:
        """None: the number of evaluations is measured for each image."""


def require_order(solver: Solver | ProbabilityFlow, steps: int) -> None:
    """Raise InputError if there are fewer steps than the solver's order."""
    order = solver.order if isinstance(solver, Solver) else None
    if order is not None and order > steps:
        raise InputError(
            f"{solver.name} of order {order} needs as many steps, not {steps}: "
            "use more steps or a lower order"
        )
