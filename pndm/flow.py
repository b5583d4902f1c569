"""The probability flow: the ODE of eq. 10 by an adaptive Runge-Kutta method (Song et al. 2021).

torchode integrates every image with steps of its own (Dormand & Prince 5(4), integral control),
so an image does not depend on the others in its batch.
"""

from collections.abc import Callable

import torch
import torchode
from torch import Tensor

from pndm.grids import Grid, named, times
from pndm.prediction import Prediction, of_output
from pndm.schedules import Schedule
from pndm.solvers import ProbabilityFlow
from pndm.transfer import Classical, phi

MAX_STEPS = 10_000
"""Steps after which an integration counts as failed."""

FAILED = (
    f"the probability flow did not reach its end within {MAX_STEPS} steps, or met a number that "
    "is not finite: check the network, or raise solver.rtol and solver.atol"
)


@torch.no_grad()
def integrate(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    x_T: Tensor,
    solver: ProbabilityFlow,
    schedule: Schedule,
    grid: Grid = "leading",
    prediction: Prediction = "noise",
) -> tuple[Tensor, Tensor]:
    """x_0 [B, ...] and the evaluations of the network that each image took, [B] integers.

    From T−1 to 0 in the network's time, and then, where no network was trained, one transfer φ
    (eq. 11) to the end. A list of times gives other ends; named grids all have these.
    FloatingPointError where an integration does not reach its end.
    """
    if isinstance(grid, str):
        named(grid)
        start, end = float(schedule.timesteps - 1), -1.0
    else:
        nodes = times(grid, None, schedule)
        start, end = nodes[0], nodes[-1]
    classical = Classical()

    def evaluate(t: Tensor, x: Tensor) -> Tensor:
        e = denoiser(x.view(x_T.shape).to(x_T.dtype), t)
        if e.shape != x_T.shape:
            raise ValueError(
                f"the denoiser returned shape {tuple(e.shape)} for x of shape {tuple(x_T.shape)}"
            )
        return e.to(x).flatten(1)

    def slope(t: Tensor, x: Tensor) -> Tensor:
        if not t.isfinite().all():  # an error norm that was not finite made this step
            raise FloatingPointError(FAILED)
        nodes = [schedule.node(s) for s in t.tolist()]
        keeps = x.new_tensor(
            [of_output(classical.keep(node, node)[:2], prediction, node) for node in nodes]
        )
        return keeps[:, :1] * x + keeps[:, 1:] * evaluate(t, x)

    clock = torch.promote_types(x_T.dtype, torch.float32)
    begin = torch.full((len(x_T),), start, dtype=clock, device=x_T.device)
    stop = torch.full_like(begin, max(end, 0.0))
    term = torchode.ODETerm(slope)
    method = torchode.Dopri5(term=term)
    control = torchode.IntegralController(atol=solver.atol, rtol=solver.rtol, term=term)
    adjoint = torchode.AutoDiffAdjoint(method, control, max_steps=MAX_STEPS).to(x_T.device)
    problem = torchode.InitialValueProblem(
        y0=x_T.flatten(1).to(clock), t_start=begin, t_end=stop, t_eval=stop[:, None]
    )
    solution = adjoint.solve(problem)
    if not (solution.status == 0).all() or not solution.ys.isfinite().all():
        raise FloatingPointError(FAILED)
    x = solution.ys[:, 0]
    nfe = 2 + 6 * solution.stats["n_steps"]  # two for the first step size; then first-same-as-last
    if end < 0:
        now = schedule.node(max(end, 0.0))
        scale, gain = of_output(phi(now.alpha_bar, schedule.node(end).alpha_bar), prediction, now)
        x = scale * x + gain * evaluate(stop, x)
        nfe = nfe + 1
    return x.view(x_T.shape).to(x_T.dtype), nfe
