"""The successors of PNDM as solvers: multistep, predictor-corrector, Runge-Kutta."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from pndm._errors import InputError
from pndm.solvers.base import Solver
from pndm.solvers.gradient import IMPROVED_EULER, RK4, RK4_RHO, Gradient
from pndm.solvers.linear_multistep import Halfway, Multistep, Weights
from pndm.solvers.quadrature import Clock
from pndm.solvers.transfer import Classical, Data, Pseudo, Transfer

TRANSFERS: dict[tuple[str, str], tuple[Callable[..., Transfer], Clock]] = {
    ("pseudo", "noise"): (Pseudo, "rho"),
    ("pseudo", "data"): (Data, "1/rho"),
    ("classical", "noise"): (Classical, "t"),
}
"""Transfer parts by kind and by direction (noise or data), each with its own clock."""

STARTERS: dict[str, tuple[Gradient, ...]] = {
    "ramp": (),
    "improved_euler": (IMPROVED_EULER,),
    "prk": (RK4,) * 3,
}
"""The first steps of multistep methods, after which the order rises by one per step."""


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
    """Any linear multistep method; NFE = N with the `ramp` starter, which starts at order 1.

    `order` None is 4, or the number of steps if there are fewer. `weights` are Adams-Bashforth's
    (`fixed`) or exact in t, ρ or λ; directions are noise or images (`predict`), images clipped to
    ±1 with `clip`. `starter` is one improved Euler step, or Runge-Kutta steps; for
    `lower_order_final` and `halfway` see `Multistep`.
    """
    if (transfer, predict) not in list(TRANSFERS) or starter not in list(STARTERS):
        raise InputError(
            f"transfer={transfer} predict={predict} starter={starter}: these must be pseudo with "
            f"noise or data, or classical with noise, and {', '.join(STARTERS)}"
        )
    if clip and predict == "noise":
        raise InputError("clip applies to the predicted image: predict must be data")
    transfer_part, clock = TRANSFERS[transfer, predict]
    part = Multistep(4 if order is None else order, weights, clock, halfway, lower_order_final)
    starters = STARTERS[starter][: part.order - 1]
    return Solver(
        "multistep", transfer_part(clip=1.0 if clip else None), part, starters, order=order
    )


def ipndm(order: int | None = None, lower_order_final: bool | None = False) -> Solver:
    """PNDM's weights with a ramp as starter: AB1, AB2, AB3, then AB4; order 2, NFE = N.

    Source: Zhang & Chen 2023 (DEIS); latent-diffusion's PLMS except for the starter.
    """
    return replace(multistep(order, lower_order_final=lower_order_final), name="ipndm")


def deis(order: int | None = None, lower_order_final: bool | None = False) -> Solver:
    """Exact weights in t, of order 4 unless given; NFE = N.

    Source: Zhang & Chen 2023 (DEIS), the variant tAB.
    """
    return replace(multistep(order, "t", lower_order_final=lower_order_final), name="deis")


def lms(order: int | None = None, lower_order_final: bool | None = False) -> Solver:
    """Exact weights in ρ, in which φ is Euler's method; of order 4 unless given; NFE = N.

    Source: `sample_lms` of k-diffusion (Crowson 2022).
    """
    return replace(multistep(order, "rho", lower_order_final=lower_order_final), name="lms")


def dpmpp_2m(clip: bool = False, lower_order_final: bool | None = None) -> Solver:
    """x_0-predictions weighted [1 + 1/2r, −1/2r], r = last/this step in λ; order 2, NFE = N.

    Source: Lu et al. 2022b (DPM-Solver++), algorithm 2.
    """
    solver = multistep(2, "lambda", "data", "pseudo", "ramp", lower_order_final, clip, "bh2")
    return replace(solver, name="dpmpp_2m", order=None)


def dpmpp_3m(clip: bool = False, lower_order_final: bool | None = None) -> Solver:
    """x_0-predictions with exact weights in λ; order 3, NFE = N.

    Source: Lu et al. 2022b (DPM-Solver++), with the full quadratic term: diffusers has half of
    it, and order 2. The second step is that of `dpmpp_2m`.
    """
    solver = multistep(3, "lambda", "data", "pseudo", "ramp", lower_order_final, clip, "bh2")
    return replace(solver, name="dpmpp_3m", order=None)


def unipc(
    order: int | None = None,
    variant: Halfway = "bh2",
    predict: Literal["noise", "data"] = "data",
    lower_order_final: bool | None = None,
    clip: bool = False,
) -> Solver:
    """Predictor UniP of order 2 or 3 (3 unless given) and its corrector UniC, in λ; NFE = N.

    The evaluation at a predicted point corrects it, and is reused unchanged in the next step.
    Source: Zhao et al. 2023 (UniPC), with B(h) = h (bh1) or e^h − 1 (bh2).
    """
    if order not in (None, 2, 3):
        raise InputError(f"order is {order}, but must be 2 or 3")
    if variant not in ("bh1", "bh2"):
        raise InputError(f"variant is {variant!r}, but must be bh1 or bh2")
    solver = multistep(
        order or 3, "lambda", predict, "pseudo", "ramp", lower_order_final, clip, variant
    )
    assert isinstance(solver.gradient, Multistep)
    corrector = replace(solver.gradient, order=solver.gradient.order + 1)
    return replace(solver, name="unipc", corrector=corrector, order=order)


def heun() -> Solver:
    """Pseudo improved Euler in every step, which is Heun's method in ρ; order 2, NFE = 2N−1.

    Source: Karras et al. 2022 (EDM), algorithm 1.
    """
    return Solver("heun", Pseudo(), IMPROVED_EULER)


def rk4_rho() -> Solver:
    """Runge-Kutta with its middle stages halfway in ρ, not in t; order 4, NFE = 4N−3."""
    return Solver("rk4_rho", Pseudo(), RK4_RHO)
