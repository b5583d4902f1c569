"""(a) The overhead of a step without the network, compared with diffusers' schedulers.

Whole trajectories on the same tensors with a network that costs nothing (it returns one fixed
tensor), in alternating pairs.
"""

import warnings
from collections.abc import Iterator

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

import pndm
from benchmarks.measure import Row, alternate

SHAPES = ((64, 1, 8, 8), (16, 3, 32, 32), (64, 3, 32, 32))
STEPS = 50
SCHEDULERS = {
    "plms": PNDMScheduler(),
    "ddim": DDIMScheduler(clip_sample=False),
    "dpmpp_2m": DPMSolverMultistepScheduler(),
}
AIM = 6


@torch.no_grad()
def measure(device: torch.device, pairs: int) -> Iterator[Row]:
    """Microseconds per evaluation of each method and its scheduler, on each shape."""
    schedule = pndm.schedules.linear(convention="diffusers")
    for name, scheduler in SCHEDULERS.items():
        solver = pndm.solvers.SOLVERS[name]()
        nfe = solver.nfe(STEPS)
        for shape in SHAPES:
            x, e = (torch.randn(shape, device=device) for _ in range(2))

            def ours(x=x, e=e, solver=solver):
                return pndm.sample(
                    lambda x, t: e, x, solver=solver, schedule=schedule, steps=STEPS
                )

            def other(x=x, e=e, scheduler=scheduler):
                scheduler.set_timesteps(STEPS, device=device)
                for t in scheduler.timesteps:
                    x = scheduler.step(e, t, x, return_dict=False)[0]
                return x

            with warnings.catch_warnings(action="ignore"):
                own_time, other_time, ratio = alternate(ours, other, pairs)
            case = f"{name}, {'×'.join(map(str, shape))}"
            yield Row(
                "overhead",
                case,
                "µs per evaluation",
                own_time / nfe * 1e6,
                other_time / nfe * 1e6,
                ratio,
                f"{AIM}× ({type(scheduler).__name__})" if name == "plms" else "",
                ratio >= AIM if name == "plms" else None,
            )
