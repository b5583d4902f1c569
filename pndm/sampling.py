"""Sampling: from noise to images, with any solver of the package."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pndm import plans
from pndm._errors import InputError
from pndm.execute import Denoiser, describe_tensor, execute
from pndm.grids import Grid
from pndm.plans import Plan, require
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
    solver: Solver | ProbabilityFlow | None = None,
    schedule: Schedule,
    steps: int | None = None,
    grid: Grid = "leading",
    prediction: Prediction = "noise",
    noise: Callable[[int], Tensor] | None = None,
    callback: Callable[[int, Tensor], object] | None = None,
    plan: Plan | str | Path | None = None,
) -> Solution:
    """Compute x_0 [B, ...] from x_T [B, ...], in the dtype and on the device of x_T.

    `steps` steps on a named `grid`, or along the N+1 descending times that `grid` lists.
    `prediction` says what the denoiser returns: noise, data (x_0) or velocity. A `plan`, or
    the file or name of a learned one (see `pndm.plans.load`), takes the place of solver, steps
    and grid, and a compiled one that of `prediction`. `noise(row)` gives the z of stochastic
    methods (see `pndm.noise.step_noise`); `callback(row, x)` receives the point after each row
    of the plan (for `pf` the result only). The denoiser may overwrite its input x and its
    earlier outputs. InputError for an invalid plan (see `pndm.plan`), a learned plan of
    another schedule, prediction or network (as far as the denoiser tells its `provenance`), an
    x_T that is not floating-point, a missing `noise`, and a denoiser or `noise` whose output
    does not have the shape of x_T.
    """
    if plan is not None:
        if solver is not None or steps is not None or grid != "leading":
            raise InputError("a plan takes the place of solver, steps and grid: leave them out")
        rows = plan if isinstance(plan, Plan) else plans.load(plan)
        solver = rows.solver
    elif solver is None:
        raise InputError("give a solver, such as solver=pndm.solvers.plms(), or a plan")
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
    if plan is None:
        rows = plans.plan(solver, schedule, steps, grid, prediction)
    elif rows.learned is not None:
        rows.learned.require_schedule(schedule, prediction)
        rows.learned.require_network(getattr(denoiser, "provenance", {}).get("sha256"))
    elif any(schedule.node(node.time) != node for node in rows.nodes):
        raise InputError(f"the plan was compiled for another schedule than {schedule.name}")
    x_0 = execute(rows, denoiser, x_T, noise, callback)
    return Solution(x_0, torch.full((len(x_T),), rows.nfe, dtype=torch.int64, device="cpu"))


def sample(
    denoiser: Denoiser,
    x_T: Tensor,
    *,
    solver: Solver | ProbabilityFlow | None = None,
    schedule: Schedule,
    steps: int | None = None,
    grid: Grid = "leading",
    prediction: Prediction = "noise",
    noise: Callable[[int], Tensor] | None = None,
    callback: Callable[[int, Tensor], object] | None = None,
    plan: Plan | str | Path | None = None,
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
        plan=plan,
    ).x_0
