"""Sampling: one short loop for every method; all that it does was written down in its plan."""

from collections.abc import Callable

import torch
from torch import Tensor

from pndm.grids import Grid
from pndm.plans import Combination, Plan, Row, plan, require
from pndm.prediction import Prediction
from pndm.schedules import Schedule
from pndm.solvers import ProbabilityFlow, Solver

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x [B, ...], t [B] real times of the network) -> the predicted noise e [B, ...]."""


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
    """Take x_T [B, ...] to x_0 [B, ...], in the dtype and on the device of x_T.

    `steps` steps on a named `grid`, or along the N+1 descending times that `grid` lists.
    `prediction` says what the denoiser returns: noise, data (x_0) or velocity.
    `noise(row)` gives the z of stochastic methods (see `pndm.noise.step_noise`);
    `callback(row, x)` sees the point after each row of the plan (of `pf` the end alone). What the
    denoiser returns is kept, not copied: it must be a new tensor each time. ValueError for what
    cannot be planned, an x_T of whole numbers, a missing `noise`, and a denoiser or `noise` that
    returns another shape than that of x_T.
    """
    require(solver, schedule)
    if not isinstance(x_T, Tensor) or not x_T.ndim or not x_T.is_floating_point():
        raise ValueError(f"x_T must be a floating-point tensor [B, ...], not {kind(x_T)}")
    if isinstance(solver, ProbabilityFlow):
        from pndm import flow

        x_0 = flow.integrate(denoiser, x_T, solver, schedule, grid, prediction, steps)[0]
        if callback is not None:
            callback(0, x_0)
        return x_0
    table = plan(solver, schedule, steps, grid, prediction)
    return execute(table, denoiser, x_T, noise, callback)


@torch.no_grad()
def execute(
    plan: Plan,
    denoiser: Denoiser,
    x_T: Tensor,
    noise: Callable[[int], Tensor] | None = None,
    callback: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Run a plan; see `sample`. Holds the base, the point and at most order + 3 kept tensors."""
    if noise is None and plan.stochastic:
        raise ValueError(
            f"{plan.solver.name} adds noise: pass noise=pndm.noise.step_noise(seeds, shape)"
        )
    clock = torch.tensor(
        plan.times, dtype=torch.promote_types(x_T.dtype, torch.float32), device=x_T.device
    )
    times = clock[:, None].expand(-1, len(x_T)).unbind()
    base = point = x_T
    kept: dict[int, Tensor] = {}
    for i, (row, t) in enumerate(zip(plan.rows, times, strict=True)):
        e = denoiser(point, t)
        if not isinstance(e, Tensor) or e.shape != x_T.shape:
            raise ValueError(f"evaluation {i} at time {row.time:g}: {told('denoiser', e, x_T)}")
        z = noise(i) if row.noise and noise is not None else None
        if row.noise and (not isinstance(z, Tensor) or z.shape != x_T.shape):
            raise ValueError(told(f"noise of row {i}", z, x_T))
        base, point = advance(i, row, e.to(x_T.dtype), base, point, kept, z)
        if callback is not None:
            callback(i, point)
    return point


def told(what: str, found: object, x: Tensor) -> str:
    """What was returned for x in the place of a tensor of its shape."""
    return f"the {what} returned {kind(found)} for x of shape {tuple(x.shape)}"


def kind(found: object) -> str:
    """What something is, for an error."""
    if not isinstance(found, Tensor):
        return f"a {type(found).__name__}"
    return f"shape {tuple(found.shape)} of {found.dtype}"


def advance(
    i: int,
    row: Row,
    e: Tensor,
    base: Tensor,
    point: Tensor,
    kept: dict[int, Tensor],
    z: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The base and the point after row i, whose evaluation at `point` was e; `kept` is updated."""
    kept[i] = _keep(row.keep, row.clip, point, e)
    if row.point == row.base:
        base = point = _combine(row.base, base, kept)
    else:
        point = _combine(row.point, base, kept)
        base = _combine(row.base, base, kept)
    if z is not None:
        base = point = base + row.noise * z.to(base)
    for used in row.drop:
        del kept[used]
    return base, point


def _keep(keep: tuple[float, float], clip: float | None, point: Tensor, e: Tensor) -> Tensor:
    """k = u·point + v·e, bounded by ±clip."""
    k = e if keep == (0.0, 1.0) else torch.mul(point, keep[0]).add_(e, alpha=keep[1])
    return k if clip is None else k.clamp(-clip, clip)


def _combine(combination: Combination, base: Tensor, kept: dict[int, Tensor]) -> Tensor:
    """scale·base + Σ weight·k, in the dtype of the state."""
    if not combination.terms and combination.scale == 1:
        return base
    x = torch.mul(base, combination.scale)
    for row, weight in combination.terms:
        x.add_(kept[row], alpha=weight)
    return x
