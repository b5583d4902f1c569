"""Gradient parts: how evaluations of the network are combined into one direction e'.

All gradient parts of the paper are explicit general linear methods, so one table describes each:
stages inside the step (Runge-Kutta), the first evaluations of earlier steps (multistep), or both.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from pndm._errors import InputError


@dataclass(frozen=True)
class Gradient:
    """An explicit gradient part; coefficients are checked on construction.

    Stage i is evaluated at t + c_i·(s−t), after moving x along Σ_j (a_ij/c_i)·k_j; then
    e' = Σ_i b_i·k_i + Σ_j past_j·(first evaluation j+1 steps ago), the weights summing to 1
    unless they were `fitted`. The c_i are fractions of the step in time, or in ρ (`clock`).
    """

    name: str
    b: tuple[float, ...]
    past: tuple[float, ...] = ()
    c: tuple[float, ...] = (0.0,)
    a: tuple[tuple[float, ...], ...] = ((),)
    clock: Literal["t", "rho"] = "t"
    fitted: bool = False

    def __post_init__(self) -> None:
        stages = len(self.b)
        if len(self.c) != stages or [len(row) for row in self.a] != list(range(stages)):
            raise InputError(f"{self.name}: a, b and c do not make an explicit tableau")
        for c, row in zip(self.c, self.a, strict=True):
            if not math.isclose(sum(row), c, abs_tol=1e-15) or not 0 <= c <= 1:
                raise InputError(f"{self.name}: a row of a sums to {sum(row)}, not to c = {c}")
        if self.c[0] != 0 or any(c == 0 for c in self.c[1:]):
            raise InputError(f"{self.name}: the first stage, and only the first, must have c = 0")
        if not self.fitted and not math.isclose(sum(self.b) + sum(self.past), 1, abs_tol=1e-14):
            raise InputError(f"{self.name}: the weights sum to {sum(self.b) + sum(self.past)}")

    @property
    def stages(self) -> int:
        """Network evaluations per step."""
        return len(self.b)

    @property
    def history(self) -> int:
        """The number of earlier steps that it uses."""
        return len(self.past)

    def tableau(self, *context: object) -> "Gradient":
        """Return itself: unlike `Multistep`'s, its weights do not depend on the step."""
        return self


EULER = Gradient("Euler", b=(1.0,))
"""e' = e_t: DDIM."""

AB2 = Gradient("Adams-Bashforth 2", b=(3 / 2,), past=(-1 / 2,))
"""e' = (3e_t − e_{t+δ})/2: S-PNDM."""

AB3 = Gradient("Adams-Bashforth 3", b=(23 / 12,), past=(-16 / 12, 5 / 12))
"""e' = (23e_t − 16e_{t+δ} + 5e_{t+2δ})/12."""

AB4 = Gradient("Adams-Bashforth 4", b=(55 / 24,), past=(-59 / 24, 37 / 24, -9 / 24))
"""e' = (55e_t − 59e_{t+δ} + 37e_{t+2δ} − 9e_{t+3δ})/24: F-PNDM, eq. 12."""

IMPROVED_EULER = Gradient("improved Euler", b=(1 / 2, 1 / 2), c=(0.0, 1.0), a=((), (1.0,)))
"""e' = (e_1 + e_2)/2, e_2 at the end of the step: the first step of S-PNDM."""

RK4 = Gradient(
    "Runge-Kutta 4",
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 1 / 2, 1 / 2, 1.0),
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
)
"""e' = (e_1 + 2e_2 + 2e_3 + e_4)/6, eq. 13: the first three steps of F-PNDM."""

RK4_RHO = replace(RK4, name="Runge-Kutta 4 in ρ", clock="rho")
"""The same with middle stages halfway in ρ, the clock in which φ is Euler's method: order 4."""
