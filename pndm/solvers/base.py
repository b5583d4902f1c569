"""The solvers by name. Each is a frozen value: a transfer part, a gradient part, and a start.

FON and F-PNDM, which the paper's central comparison sets against each other, differ in one field.
"""

import math
from dataclasses import dataclass, replace

from pndm._errors import InputError
from pndm.grids import is_whole
from pndm.solvers.gradient import Gradient
from pndm.solvers.linear_multistep import ADAMS_BASHFORTH, Multistep
from pndm.solvers.transfer import Transfer


@dataclass(frozen=True)
class Solver:
    """A fixed-step method: step i takes `starters[i]` where there is one, then `gradient`.

    With a `corrector` the evaluation at the end of a step first takes that step again, and the
    next one begins where this leads. `order` steps are needed where it is given.
    """

    name: str
    transfer: Transfer
    gradient: Gradient | Multistep
    starters: tuple[Gradient, ...] = ()
    corrector: Multistep | None = None
    order: int | None = None

    def __post_init__(self) -> None:
        for step, part in enumerate((*self.starters, self.gradient)):
            if part.needs > step:
                raise InputError(
                    f"{self.name}: the gradient part of step {step} looks back {part.needs} "
                    "steps: give it as many starters"
                )

    def part(self, step: int) -> Gradient | Multistep:
        """The gradient part of step `step` (from 0), were the network known everywhere."""
        return self.starters[step] if step < len(self.starters) else self.gradient

    def after(self, steps: int) -> "Solver":
        """The method from step `steps` on where nothing is kept of the steps before it.

        The starters that are still due are taken. A gradient part that looks back further than
        there are steps gives way to Adams and Bashforth's of a lower order: AB1, AB2, …
        """
        if steps == 0:
            return self
        due = list(self.starters[steps:])
        if isinstance(self.gradient, Gradient):
            due += [self.gradient] * (self.gradient.needs - len(due))
        ramp = (part if part.needs <= i else ADAMS_BASHFORTH[i] for i, part in enumerate(due))
        return replace(self, starters=tuple(ramp), order=None)

    def nfe(self, steps: int) -> int:
        """Evaluations of the network in `steps` steps of a named grid.

        Their last step goes below time 0, where no network was trained, and so takes one.
        InputError for fewer steps than 1, or than a given order.
        """
        if not is_whole(steps) or steps < 1:
            raise InputError(f"steps is {steps}, but must be a whole number from 1")
        require_order(self, steps)
        return sum(self.part(step).stages for step in range(steps - 1)) + 1


@dataclass(frozen=True)
class ProbabilityFlow:
    """The adaptive Runge-Kutta solution of eq. 10 that `pndm.probability_flow` integrates."""

    name: str = "pf"
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol >= 0 and 0 < self.rtol + self.atol < math.inf):
            raise InputError(
                f"rtol is {self.rtol} and atol {self.atol}, but one at least must be positive "
                "and none negative or infinite: 1e-5 is the paper's"
            )

    def nfe(self, steps: int) -> None:
        """Not known beforehand: measured for each image."""


def require_order(solver: Solver | ProbabilityFlow, steps: int) -> None:
    """InputError where a method was given an order for which there are too few steps."""
    order = solver.order if isinstance(solver, Solver) else None
    if order is not None and order > steps:
        raise InputError(
            f"{solver.name} of order {order} needs as many steps, not {steps}: "
            "take more steps or a lower order"
        )
