"""The fine solution, the reference for trajectories, and the distance to it."""

from torch import Tensor

import pndm
from pndm.execute import Denoiser
from pndm.schedules import Schedule

STEPS = 250
"""Steps of Runge-Kutta in ρ (order 4), between integer times."""


def solution(network: Denoiser, schedule: Schedule, x_T: Tensor, start: float) -> Tensor:
    """Compute images from x_T [B, ...] at a start time by a fine fourth-order method."""
    nodes = sorted({round(start * i / STEPS) for i in range(STEPS)} | {start}, reverse=True)
    return pndm.sample(
        network, x_T, solver=pndm.solvers.rk4_rho(), schedule=schedule, grid=[*nodes, -1]
    )


def rms(x: Tensor) -> float:
    """The root mean square of a difference of images."""
    return x.square().mean().sqrt().item()
