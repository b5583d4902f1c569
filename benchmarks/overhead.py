"""What a step costs besides the network: `pndm.sample` with plms against diffusers' PNDMScheduler.

Both run whole trajectories on the same tensors with a network that costs nothing (it returns one
fixed tensor), in alternating pairs; a pair's two times meet the same load of the machine. The
aim is a ratio of at most a third.

    python -m benchmarks.overhead [--pairs 15] [--steps 50] [--device cpu]
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median

import torch
from diffusers import PNDMScheduler
from torch import Tensor

import pndm

SHAPES = ((64, 1, 8, 8), (16, 3, 32, 32), (64, 3, 32, 32))
AIM = 1 / 3


SCHEDULE = pndm.schedules.linear(convention="diffusers")
SCHEDULER = PNDMScheduler()


def ours(x: Tensor, e: Tensor, steps: int) -> Tensor:
    """A trajectory of this package, ending where diffusers ends."""
    solver = pndm.solvers.plms()
    return pndm.sample(lambda x, t: e, x, solver=solver, schedule=SCHEDULE, steps=steps)


def theirs(x: Tensor, e: Tensor, steps: int) -> Tensor:
    """The same trajectory by the loop that diffusers' pipelines run."""
    SCHEDULER.set_timesteps(steps, device=x.device)
    for t in SCHEDULER.timesteps:
        x = SCHEDULER.step(e, t, x, return_dict=False)[0]
    return x


@torch.no_grad()
def seconds(run: Callable[[Tensor, Tensor, int], Tensor], x: Tensor, e: Tensor, n: int) -> float:
    """Wall time of one trajectory, the device's queue empty at both ends."""
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run(x, e, n)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    print(
        f"{platform.system()} {platform.machine()} {name or ''}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {version('torch')}, diffusers {version('diffusers')}, pndm {pndm.__version__}"
    )
    evaluations = pndm.solvers.plms().nfe(options.steps)
    print(
        f"plms, {options.steps} steps, {evaluations} evaluations; "
        f"median of {options.pairs} pairs, float32, µs per evaluation"
    )
    print(f"{'shape':>16} {'pndm':>9} {'diffusers':>10} {'ratio':>7}  at most 1/3")
    for shape in SHAPES:
        x, e = (torch.randn(shape, device=device) for _ in range(2))
        for run in (ours, theirs):
            seconds(run, x, e, options.steps)
        pairs = [
            (seconds(ours, x, e, options.steps), seconds(theirs, x, e, options.steps))
            for _ in range(options.pairs)
        ]
        us, them = (median(column) / evaluations * 1e6 for column in zip(*pairs, strict=True))
        ratio = median(a / b for a, b in pairs)
        met = "yes" if ratio <= AIM else "no"
        print(f"{'×'.join(map(str, shape)):>16} {us:9.1f} {them:10.1f} {ratio:7.3f}  {met}")


if __name__ == "__main__":
    main()
