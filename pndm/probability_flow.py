"""The probability flow: the ODE of eq. 10 by an adaptive Runge-Kutta method.

Source: Song et al. 2021 (score SDE), §4.3 and §D.4.

torchode integrates every image with its own step sizes (Dormand & Prince 5(4), integral
control), so an image does not depend on the others in its batch.
"""

from collections.abc import Callable

import torch
import torchode
from torch import Tensor

from pndm._errors import InputError, NonFiniteError
from pndm.execute import is_prediction, shape_error
from pndm.grids import Grid, named, times
from pndm.prediction import Prediction, as_noise, of_output
from pndm.schedules import Schedule
from pndm.solvers import ProbabilityFlow
from pndm.solvers.transfer import phi

MAX_STEPS = 10_000
"""The number of steps after which an integration has failed."""

FAILED = (
    f"the probability flow did not reach its end within {MAX_STEPS} steps, or encountered NaN or "
    "infinity: check the network, or raise solver.rtol and solver.atol"
)


@torch.no_grad()
def integrate(
    denoiser: Callable[[Tensor, Tensor], Tensor],
    x_T: Tensor,
    solver: ProbabilityFlow,
    schedule: Schedule,
    grid: Grid = "leading",
    prediction: Prediction = "noise",
    steps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return x_0 [B, ...] and the number of network evaluations of each image, [B] integers.

    The interval is T−1, or where ᾱ leaves its floor (t = 995 on cosine), to time 0; below 0,
    where the network was not trained, one transfer φ (eq. 11) leads to the end. A list of
    times gives other ends (and `steps`, if given, must be its length); all named grids have
    these. The variable is u = log ᾱ, dx/du = ½·(x − e/√(1−ᾱ)), in which the ODE of a tabulated
    schedule is as smooth as its network; in t its slope jumps at every integer time, which the
    error estimate does not detect. NonFiniteError if an integration does not reach its end.
    """
    if isinstance(grid, str):
        named(grid)
        start, end = float(schedule.timesteps - 1), -1.0
    else:
        nodes = times(grid, steps, schedule)
        start, end = nodes[0], nodes[-1]
    if not len(x_T):
        return x_T.clone(), torch.zeros(0, dtype=torch.int64, device="cpu")
    first, last = schedule.node(start), schedule.node(max(end, 0.0))
    u_first, u_last = schedule.log_node(first.time), schedule.log_node(last.time)

    def evaluate(t: Tensor, x: Tensor) -> Tensor:
        e = denoiser(x.view(x_T.shape).to(x_T.dtype, copy=True), t)
        if not is_prediction(e, x_T):
            raise InputError(shape_error("denoiser", e, x_T))
        return e.to(x).reshape(x.shape)

    inverse = schedule.inverse_on(x_T.device)

    def slope(u: Tensor, x: Tensor) -> Tensor:
        """dx/du at u [B]: nothing here waits for the device, and torchode stops at a NaN."""
        v = u.double().nan_to_num(u_first).clamp(u_first, u_last)  # a rounding may lead outside
        time = inverse(v).clamp(last.time, first.time)
        t = torch.where(v < u_last, time, last.time)
        alpha_bar = v.exp()
        gain = -0.5 / (1 - alpha_bar).sqrt()
        p, q = as_noise(prediction, alpha_bar)
        of_x, of_output = ((c + 0 * v).to(x)[:, None] for c in (0.5 + gain * p, gain * q))
        result: Tensor = of_x * x + of_output * evaluate(t.to(x), x)
        return result

    clock = torch.promote_types(x_T.dtype, torch.float32)
    begin = torch.full((len(x_T),), u_first, dtype=clock, device=x_T.device)
    stop = torch.full_like(begin, u_last)
    term = torchode.ODETerm(slope)
    with torch.device("cpu"):  # independent of torch's default device and dtype
        method = torchode.Dopri5(term=term)
        control = torchode.IntegralController(atol=solver.atol, rtol=solver.rtol, term=term)
        control.atol = torch.tensor(solver.atol, dtype=torch.float32)
        control.rtol = torch.tensor(solver.rtol, dtype=torch.float32)
    adjoint = torchode.AutoDiffAdjoint(method, control, max_steps=MAX_STEPS).to(x_T.device)
    problem = torchode.InitialValueProblem(
        y0=x_T.reshape(len(x_T), -1).to(clock), t_start=begin, t_end=stop, t_eval=stop[:, None]
    )
    solution = adjoint.solve(problem)
    if not (solution.status == 0).all() or not solution.ys.isfinite().all():
        raise NonFiniteError(FAILED)
    x = solution.ys[:, 0]
    nfe = 2 + 6 * solution.stats["n_steps"]  # two for the first step size; then first-same-as-last
    if end < 0:
        move = phi(last.alpha_bar, schedule.node(end).alpha_bar)
        scale, gain = of_output(move, prediction, last)
        x = scale * x + gain * evaluate(torch.full_like(stop, last.time), x)
        nfe = nfe + 1
    return x.view(x_T.shape).to(x_T.dtype), nfe
