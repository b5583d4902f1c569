"""The solvers, frozen values of a transfer part, a gradient part and a starter.

`base` defines the solver class, `transfer`, `gradient` and `linear_multistep` its parts,
`quadrature` computes exact weights, `paper` and `successors` list the methods.
"""

from collections.abc import Callable

from pndm.solvers.base import ProbabilityFlow, Solver, require_order
from pndm.solvers.paper import ddim, ddpm, f_pndm, fon, fon_released, pf, plms, prk, s_pndm
from pndm.solvers.successors import (
    STARTERS,
    TRANSFERS,
    deis,
    dpmpp_2m,
    dpmpp_3m,
    heun,
    ipndm,
    lms,
    multistep,
    rk4_rho,
    unipc,
)

__all__ = [
    "SOLVERS",
    "STARTERS",
    "TRANSFERS",
    "ProbabilityFlow",
    "Solver",
    "ddim",
    "ddpm",
    "deis",
    "dpmpp_2m",
    "dpmpp_3m",
    "f_pndm",
    "fon",
    "fon_released",
    "heun",
    "ipndm",
    "lms",
    "multistep",
    "pf",
    "plms",
    "prk",
    "require_order",
    "rk4_rho",
    "s_pndm",
    "unipc",
]

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
"""The solvers by their names in `conf/solver`."""
