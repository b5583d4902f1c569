"""The one loop that runs every method, row by row of its plan."""

from collections.abc import Callable

import torch
from torch import Tensor

from pndm._errors import InputError
from pndm.plans import Bound, Combination, Plan, Row

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x [B, ...], t [B] real times of the network) -> the predicted noise e [B, ...].

It may overwrite x, and a tensor that it returned earlier: both are copied. The times of a batch
are one expanded value (stride 0), so that a network can embed them once.
"""


@torch.no_grad()
def execute(
    plan: Plan,
    denoiser: Denoiser,
    x_T: Tensor,
    noise: Callable[[int], Tensor] | None = None,
    callback: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Run a plan; see `sample`. Each evaluation is stored until its last use."""
    if noise is None and plan.stochastic:
        raise InputError(
            f"{plan.solver.name} adds noise: pass noise=pndm.noise.step_noise(seeds, shape)"
        )
    clock = torch.tensor(
        plan.times, dtype=torch.promote_types(x_T.dtype, torch.float32), device=x_T.device
    )
    times = clock[:, None].expand(-1, len(x_T)).unbind()
    base = point = x_T
    stored: dict[int, Tensor] = {}
    for i, (row, t) in enumerate(zip(plan.rows, times, strict=True)):
        e = denoiser(point.clone(), t)
        if not is_prediction(e, x_T):
            raise InputError(
                f"evaluation {i} at time {row.time:g}: {shape_error('denoiser', e, x_T)}"
            )
        z = noise(i) if row.noise and noise is not None else None
        if row.noise and (not isinstance(z, Tensor) or z.shape != x_T.shape):
            raise InputError(shape_error(f"noise of row {i}", z, x_T))
        is_stored = row.keep == (0.0, 1.0) and i not in row.drop
        e = e.to(x_T.device, x_T.dtype, copy=is_stored)
        base, point = advance(i, row, e, base, point, stored, z)
        if callback is not None:
            callback(i, point)
    return point


def is_prediction(e: object, x: Tensor) -> bool:
    """Whether a denoiser's output is a real tensor of the shape of x."""
    return isinstance(e, Tensor) and e.shape == x.shape and not e.is_complex()


def shape_error(what: str, value: object, x: Tensor) -> str:
    """The message for an output that is not a tensor of the shape of x."""
    return f"the {what} returned {describe_tensor(value)} for x of shape {tuple(x.shape)}"


def describe_tensor(value: object) -> str:
    """Describe a value for an error message: its type, or a tensor's shape and dtype."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"shape {tuple(value.shape)} of {value.dtype}"


def advance(
    i: int,
    row: Row,
    e: Tensor,
    base: Tensor,
    point: Tensor,
    stored: dict[int, Tensor],
    z: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return base and point after row i, whose evaluation at `point` was e; update `stored`."""
    stored[i] = _keep(row.keep, row.clip, point, e)
    correction = None if row.bound is None else _clipping(row.bound, point, e)
    if row.point == row.base:
        base = point = _combine(row.base, base, stored)
    else:
        point = _combine(row.point, base, stored)
        base = _combine(row.base, base, stored)
    if correction is not None:
        base = point = base + correction
    if z is not None:
        base = point = base + row.noise * z.to(base)
    for used in row.drop:
        del stored[used]
    return base, point


def _keep(keep: tuple[float, float], clip: float | None, point: Tensor, e: Tensor) -> Tensor:
    """k = u·point + v·e, clipped to ±clip."""
    k = e if keep == (0.0, 1.0) else torch.mul(point, keep[0]).add_(e, alpha=keep[1])
    return k if clip is None else k.clamp(-clip, clip)


def _clipping(bound: Bound, point: Tensor, e: Tensor) -> Tensor:
    """gain·(clipped x_0 − x_0) of the predicted image."""
    x_0 = _keep(bound.x_0, None, point, e)
    return bound.gain * (x_0.clamp(-bound.limit, bound.limit) - x_0)


def _combine(combination: Combination, base: Tensor, stored: dict[int, Tensor]) -> Tensor:
    """scale·base + Σ weight·k, in the dtype of the state."""
    if not combination.terms and combination.scale == 1:
        return base
    x = torch.mul(base, combination.scale)
    for row, weight in combination.terms:
        x.add_(stored[row], alpha=weight)
    return x
