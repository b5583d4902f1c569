"""The solvers by name. Each is a frozen value: a transfer part, a gradient part, and a start.

FON and F-PNDM, which the paper's central comparison sets against each other, differ in one field.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pndm.clocks import Clock
from pndm.gradient import AB2, AB4, EULER, IMPROVED_EULER, RK4, RK4_RHO, Gradient
from pndm.grids import is_whole
from pndm.multistep import Halfway, Multistep, Weights
from pndm.transfer import Ancestral, Classical, Data, Pseudo, ReleasedClassical, Transfer


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
                raise ValueError(
                    f"{self.name}: the gradient part of step {step} looks back {part.needs} "
                    "steps: give it as many starters"
                )

    def part(self, step: int) -> Gradient | Multistep:
        """The gradient part of step `step` (from 0), were the network known everywhere."""
        return self.starters[step] if step < len(self.starters) else self.gradient

    def nfe(self, steps: int) -> int:
        """Evaluations of the network in `steps` steps of a named grid.

        Their last step goes below time 0, where no network was trained, and so takes one.
        ValueError for fewer steps than 1, or than a given order.
        """
        if not is_whole(steps) or steps < 1:
            raise ValueError(f"steps is {steps}, but must be a whole number from 1")
        require_order(self, steps)
        return sum(self.part(step).stages for step in range(steps - 1)) + 1


@dataclass(frozen=True)
class ProbabilityFlow:
    """The adaptive Runge-Kutta solution of eq. 10 that `pndm.flow` integrates."""

    name: str = "pf"
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol >= 0 and 0 < self.rtol + self.atol < math.inf):
            raise ValueError(
                f"rtol is {self.rtol} and atol {self.atol}, but one at least must be positive "
                "and none negative or infinite: 1e-5 is the paper's"
            )

    def nfe(self, steps: int) -> None:
        """Not known beforehand: measured for each image."""


def require_order(solver: Solver | ProbabilityFlow, steps: int) -> None:
    """ValueError where a method was given an order for which there are too few steps."""
    order = solver.order if isinstance(solver, Solver) else None
    if order is not None and order > steps:
        raise ValueError(
            f"{solver.name} of order {order} needs as many steps, not {steps}: "
            "take more steps or a lower order"
        )


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


TRANSFERS: dict[tuple[str, str], tuple[Callable[..., Transfer], Clock]] = {
    ("pseudo", "noise"): (Pseudo, "rho"),
    ("pseudo", "data"): (Data, "1/rho"),
    ("classical", "noise"): (Classical, "t"),
}
"""Transfer parts by kind and by what directions are, each with the clock that is its own."""

STARTERS: dict[str, tuple[Gradient, ...]] = {
    "ramp": (),
    "improved_euler": (IMPROVED_EULER,),
    "prk": (RK4,) * 3,
}
"""The first steps of multistep methods, after which the order rises by one a step."""


def multistep(
    order: int | None = None,
    weights: Weights = "fixed",
    predict: Literal["noise", "data"] = "noise",
    transfer: Literal["pseudo", "classical"] = "pseudo",
    starter: Literal["ramp", "improved_euler", "prk"] = "ramp",
    lower_order_final: bool | None = False,
    clip: bool = False,
    halfway: Halfway | None = None,
) -> Solver:
    """Any linear multistep method of the frame; NFE = N with the `ramp`, which starts at order 1.

    `order` is 4, or as many as there are steps, unless given. `weights` are Adams-Bashforth's
    (`fixed`) or exact in t, ρ or λ; directions are noise or images (`predict`), these within ±1
    with `clip`. `starter` takes one improved Euler step, or Runge-Kutta steps, first;
    `lower_order_final` is told at `Multistep`.
    """
    if (transfer, predict) not in TRANSFERS or starter not in STARTERS:
        raise ValueError(
            f"transfer={transfer} predict={predict} starter={starter}: these must be pseudo with "
            f"noise or data, or classical with noise, and {', '.join(STARTERS)}"
        )
    if clip and predict == "noise":
        raise ValueError("clip bounds the image: predict must be data")
    move, own = TRANSFERS[transfer, predict]
    part = Multistep(4 if order is None else order, weights, own, halfway, lower_order_final)
    starters = STARTERS[starter][: part.order - 1]
    return Solver("multistep", move(clip=1.0 if clip else None), part, starters, order=order)


def ipndm(order: int | None = None, lower_order_final: bool | None = False) -> Solver:
    """PNDM's weights with a ramp for a start: AB1, AB2, AB3, then AB4; order 2, NFE = N.

    Source: Zhang & Chen 2023 (DEIS), who name it so; latent-diffusion's PLMS but for the start.
    """
    return replace(multistep(order, lower_order_final=lower_order_final), name="ipndm")


def deis(order: int | None = None, lower_order_final: bool | None = False) -> Solver:
    """Exact weights in t, of order 4 unless given; NFE = N.

    Source: Zhang & Chen 2023 (DEIS), the variant tAB.
    """
    return replace(multistep(order, "t", lower_order_final=lower_order_final), name="deis")


def lms(order: int | None = None, lower_order_final: bool | None = False) -> Solver:
    """Exact weights in ρ, in which φ is Euler's method; of order 4 unless given; NFE = N.

    Source: the linear multistep sampler of Karras et al. 2022's followers (k-diffusion, `lms`).
    """
    return replace(multistep(order, "rho", lower_order_final=lower_order_final), name="lms")


def dpmpp_2m(clip: bool = False, lower_order_final: bool | None = None) -> Solver:
    """x_0-predictions by [1 + 1/2r, −1/2r], r the last step over this one in λ; order 2, NFE = N.

    Source: Lu et al. 2022b (DPM-Solver++), algorithm 2.
    """
    made = multistep(2, "lambda", "data", "pseudo", "ramp", lower_order_final, clip, "bh2")
    return replace(made, name="dpmpp_2m", order=None)


def dpmpp_3m(clip: bool = False, lower_order_final: bool | None = None) -> Solver:
    """x_0-predictions with exact weights in λ; order 3, NFE = N.

    Source: Lu et al. 2022b (DPM-Solver++), with the whole quadratic term: diffusers has half of
    it, and order 2. Its second step is `dpmpp_2m`'s.
    """
    made = multistep(3, "lambda", "data", "pseudo", "ramp", lower_order_final, clip, "bh2")
    return replace(made, name="dpmpp_3m", order=None)


def unipc(
    order: int | None = None,
    variant: Halfway = "bh2",
    predict: Literal["noise", "data"] = "data",
    lower_order_final: bool | None = None,
    clip: bool = False,
) -> Solver:
    """Predictor UniP of order 2 or 3 (3 unless given) and its corrector UniC, in λ; NFE = N.

    The evaluation at a predicted point corrects it, and then begins the next step as it is.
    Source: Zhao et al. 2023 (UniPC), with B(h) = h (bh1) or e^h − 1 (bh2).
    """
    if order not in (None, 2, 3):
        raise ValueError(f"order is {order}, but must be 2 or 3")
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"variant is {variant!r}, but must be bh1 or bh2")
    made = multistep(
        order or 3, "lambda", predict, "pseudo", "ramp", lower_order_final, clip, variant
    )
    assert isinstance(made.gradient, Multistep)
    corrector = replace(made.gradient, order=made.gradient.order + 1)
    return replace(made, name="unipc", corrector=corrector, order=order)


def heun() -> Solver:
    """Pseudo improved Euler in every step, which is Heun's method in ρ; order 2, NFE = 2N−1.

    Source: Karras et al. 2022 (EDM), algorithm 1.
    """
    return Solver("heun", Pseudo(), IMPROVED_EULER)


def rk4_rho() -> Solver:
    """Runge-Kutta with its middle at the middle of ρ, not of t; order 4, NFE = 4N−3."""
    return Solver("rk4_rho", Pseudo(), RK4_RHO)


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
    "ipndm": ipndm,
    "deis": deis,
    "lms": lms,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "unipc": unipc,
    "heun": heun,
    "rk4_rho": rk4_rho,
    "multistep": multistep,
}
"""The solvers by the names that `conf/solver` gives them."""
