"""Sampling: from noise to images, with any solver of the package."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pndm._errors import InputError
from pndm.execute import Denoiser, describe_tensor, execute
from pndm.grids import Grid
from pndm.plans import plan, require
from pndm.prediction import Prediction
from pndm.schedules import Schedule
from pndm.solvers import ProbabilityFlow, Solver


class Solution(NamedTuple):
    """The images x_0 [B, ...], and the number of network evaluations of each, nfe [B]."""

    x_0: Tensor
    nfe: Tensor


def solve(
    denoiser: Denoiser,
    x_T: Tensor,
    *,
    solver: Solver | ProbabilityFlow,
    schedule: Schedule,
    steps: int | None = None,
    grid: Grid = "leading",
    prediction: Prediction = "noise",
    noise: Callable[[int], Tensor] | None = None,
    callback: Callable[[int, Tensor], object] | None = None,
) -> Solution:
    """Compute x_0 [B, ...] from x_T [B, ...], in the dtype and on the device of x_T.

    `steps` steps on a named `grid`, or along the N+1 descending times that `grid` lists.
    `prediction` says what the denoiser returns: noise, data (x_0) or velocity.
    `noise(row)` gives the z of stochastic methods (see `pndm.noise.step_noise`);
    `callback(row, x)` receives the point after each row of the plan (for `pf` the result only).
    The denoiser may overwrite its input x and its earlier outputs. InputError for an invalid plan
    (see `pndm.plan`), an x_T that is not floating-point, a missing `noise`, and a denoiser or
    `noise` whose output does not have the shape of x_T.
    """
    require(solver, schedule)
    if not isinstance(x_T, Tensor) or not x_T.ndim or not x_T.is_floating_point():
        raise InputError(
            f"x_T must be a floating-point tensor [B, ...], not {describe_tensor(x_T)}"
        )
    if isinstance(solver, ProbabilityFlow):
        from pndm.probability_flow import integrate  # imports torchode, which only this needs

        x_0, nfe = integrate(denoiser, x_T, solver, schedule, grid, prediction, steps)
        if callback is not None:
            callback(0, x_0)
        return Solution(x_0, nfe)
    rows = plan(solver, schedule, steps, grid, prediction)
    x_0 = execute(rows, denoiser, x_T, noise, callback)
    return Solution(x_0, torch.full((len(x_T),), rows.nfe, dtype=torch.int64, device="cpu"))


def sample(
    denoiser: Denoiser,
    x_T: Tensor,
    *,
    solver: Solver | ProbabilityFlow,
    schedule: Schedule,
    steps: int | None = None,
    grid: Grid = "leading",
    prediction: Prediction = "noise",
    noise: Callable[[int], Tensor] | None = None,
    callback: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Return the images x_0 [B, ...] of `solve`."""
    return solve(
        denoiser,
        x_T,
        solver=solver,
        schedule=schedule,
        steps=steps,
        grid=grid,
        prediction=prediction,
        noise=noise,
        callback=callback,
    ).x_0
