"""The solvers by name. Each is a frozen value: a transfer part, a gradient part, and a start.

FON and F-PNDM, which the paper's central comparison sets against each other, differ in one field.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pndm.gradient import AB2, AB4, EULER, IMPROVED_EULER, RK4, Gradient
from pndm.transfer import Ancestral, Classical, Pseudo, ReleasedClassical, Transfer


@dataclass(frozen=True)
class Solver:
    """A fixed-step method: step i takes `starters[i]` where there is one, then `gradient`."""

    name: str
    transfer: Transfer
    gradient: Gradient
    starters: tuple[Gradient, ...] = ()

    def __post_init__(self) -> None:
        for step, part in enumerate((*self.starters, self.gradient)):
            if len(part.past) > step:
                raise ValueError(
                    f"{self.name}: {part.name} looks back {len(part.past)} steps in step {step}: "
                    "give it as many starters"
                )

    def part(self, step: int) -> Gradient:
        """The gradient part of step `step` (from 0), were the network known everywhere."""
        return self.starters[step] if step < len(self.starters) else self.gradient

    def nfe(self, steps: int) -> int:
        """Evaluations of the network in `steps` steps of a named grid.

        Their last step goes below time 0, where no network was trained, and so takes one.
        """
        return sum(self.part(step).stages for step in range(steps - 1)) + 1


@dataclass(frozen=True)
class ProbabilityFlow:
    """The adaptive Runge-Kutta solution of eq. 10 that `pndm.flow` integrates."""

    name: str = "pf"
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise ValueError(
                f"rtol is {self.rtol} and atol {self.atol}, but one at least must be positive "
                "and none negative: 1e-5 is the paper's"
            )

    def nfe(self, steps: int) -> None:
        """Not known beforehand: measured for each image."""


def ddpm(variance: Literal["small", "large"] = "small", clip: bool = True) -> Solver:
    """Ancestral sampling, with x_0 clipped to [−1, 1] as public DDPM code does; NFE = N.

    Source: Ho et al. 2020, algorithm 2.
    """
    return Solver("ddpm", Ancestral(variance, 1.0 if clip else None), EULER)


def ddim(eta: float = 0.0) -> Solver:
    """The transfer part along e itself: the simplest pseudo numerical method; order 1, NFE = N.

    Source: Song et al. 2021 (DDIM), eq. 12; `eta` from 0 (deterministic) to 1.
    """
    return Solver("ddim", Pseudo(eta), EULER)


def s_pndm() -> Solver:
    """Second-order PNDM: one pseudo improved Euler step, then AB2; order 2, NFE = N+1."""
    return Solver("s_pndm", Pseudo(), AB2, (IMPROVED_EULER,))


def plms() -> Solver:
    """F-PNDM, pseudo linear multistep: three pseudo Runge-Kutta steps, then AB4 (algorithm 2).

    Order 2 (property 3.2), NFE = N+9 from four steps on, 4N−3 below.
    """
    return Solver("plms", Pseudo(), AB4, (RK4,) * 3)


f_pndm = plms


def prk() -> Solver:
    """Pseudo Runge-Kutta in every step (eq. 13); order 2, NFE = 4N−3."""
    return Solver("prk", Pseudo(), RK4)


def fon() -> Solver:
    """The fourth-order classical method that F-PNDM is compared with: RK4, then AB4, on eq. 10."""
    return Solver("fon", Classical(), AB4, (RK4,) * 3)


def fon_released() -> Solver:
    """FON as the authors' code runs it (see `ReleasedClassical`)."""
    return Solver("fon_released", ReleasedClassical(), AB4, (RK4,) * 3)


def pf(rtol: float = 1e-5, atol: float = 1e-5) -> ProbabilityFlow:
    """The probability flow by adaptive RK45, as in Song et al. 2021 §D.4; NFE is measured."""
    return ProbabilityFlow("pf", rtol, atol)


SOLVERS: dict[str, Callable[..., Solver | ProbabilityFlow]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "s_pndm": s_pndm,
    "plms": plms,
    "f_pndm": f_pndm,
    "prk": prk,
    "fon": fon,
    "fon_released": fon_released,
    "pf": pf,
}
"""The solvers by the names that `conf/solver` gives them."""
