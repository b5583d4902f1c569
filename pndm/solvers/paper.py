"""The paper's methods, by name: one line each."""

from typing import Literal

from pndm.solvers.base import ProbabilityFlow, Solver
from pndm.solvers.gradient import AB2, AB4, EULER, IMPROVED_EULER, RK4
from pndm.solvers.transfer import Ancestral, Classical, Pseudo, ReleasedClassical


def ddpm(variance: Literal["small", "large"] = "small", clip: bool = True) -> Solver:
    """Ancestral sampling, with x_0 clipped to [−1, 1] as public DDPM code does; NFE = N.

    Source: Ho et al. 2020, algorithm 2.
    """
    return Solver("ddpm", Ancestral(variance, 1.0 if clip else None), EULER)


def ddim(eta: float = 0.0) -> Solver:
    """The transfer part along e, the simplest pseudo numerical method; order 1, NFE = N.

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
    """The probability flow by adaptive RK45; NFE is measured.

    Source: Song et al. 2021 (score SDE), §D.4.
    """
    return ProbabilityFlow("pf", rtol, atol)
