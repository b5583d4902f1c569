"""(e, f, g) Whole programs: peak memory, several processes, start-up time."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch

from benchmarks.measure import Row
from pndm.models.architectures import ARCHITECTURES

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE, BATCH = "ddpm_cifar10", 32

MEMORY = """
import torch
from benchmarks.end_to_end import networks
import pndm
from pndm.runs.network import Runner
ours, theirs = networks({architecture!r})
runner = Runner(ours, torch.device("cpu"))
x = runner.state_of(pndm.initial_noise(range({batch}), {shape}))
with torch.no_grad():
    if {what!r} == "network":
        for _ in range(13):  # as many as the others: the heap settles
            runner(x, torch.zeros({batch}))
    elif {what!r} == "ours":
        how = {{"solver": pndm.solvers.plms(), "schedule": pndm.schedules.linear()}}
        pndm.sample(runner, x, steps=4, **how)
    else:
        from diffusers import PNDMScheduler
        scheduler = PNDMScheduler()
        scheduler.set_timesteps(4)
        for t in scheduler.timesteps:
            x = scheduler.step(theirs(x, t).sample, t, x, return_dict=False)[0]
with open("/proc/self/status") as status:  # ru_maxrss would begin with the parent's
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""

START = """
import os, sys, time
from pndm.models import unet
def first(self, x, t):
    print(time.time(), flush=True)
    os._exit(0)
unet.UNet.forward = first
sys.argv = ["run.py", "samples=1", "device=cpu", "progress=false", "outputs={outputs}"]
import runpy
runpy.run_path("run.py", run_name="__main__")
"""

OTHER_START = """
import time, torch
from diffusers import PNDMScheduler
from benchmarks.end_to_end import networks
_, unet = networks("digits_linear")
scheduler = PNDMScheduler()
scheduler.set_timesteps(50)
unet.forward(torch.randn(1, 1, 8, 8), scheduler.timesteps[0])
print(time.time(), flush=True)
"""


def program(code: str, **environment: str) -> str:
    """Run a Python program; return its output."""
    command = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        command, cwd=ROOT, env=env, check=True, capture_output=True, text=True
    ).stdout.splitlines()[-1]


def memory() -> Iterator[Row]:
    """(e) Peak memory of a process that samples, over that of one evaluation."""
    shape = ARCHITECTURES[ARCHITECTURE].image
    network, ours, other = (
        int(program(MEMORY.format(what=what, architecture=ARCHITECTURE, batch=BATCH, shape=shape)))
        / 1024
        for what in ("network", "ours", "diffusers")
    )
    states = 6 * BATCH * 4 * shape[0] * shape[1] * shape[2] / 2**20
    yield Row(
        "memory",
        f"{ARCHITECTURE}, batch {BATCH}, plms",
        "MiB",
        ours,
        other,
        other / ours,
        f"one evaluation's {network:.0f} MiB + 6 states of {states / 6:.1f}, within 2 %",
        ours <= 1.02 * network + states,
    )


def processes(pairs: int) -> Iterator[Row]:
    """(f) Two single-thread processes against one."""
    words = ["samples=4000", "steps=20", "fid=off", "wandb.mode=disabled", "progress=false"]
    words += ["device=cpu"]
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(pairs):
        for number, seconds in times.items():
            with tempfile.TemporaryDirectory() as outputs:
                command = [sys.executable, "run.py", *words, f"outputs={outputs}"]
                env = {**os.environ, "OMP_NUM_THREADS": "1"}
                began = time.perf_counter()
                subprocess.run(
                    [*command, f"processes={number}"], cwd=ROOT, env=env, check=True,
                    capture_output=True,
                )  # fmt: skip
                seconds.append(time.perf_counter() - began)
    two, one = median(times[2]), median(times[1])
    yield Row(
        "processes",
        "4,000 digits, 20 steps, 2 processes and 1, the whole program",
        "s",
        two,
        one,
        median(b / a for a, b in zip(times[2], times[1], strict=True)),
        "1.7×",
        one / two >= 1.7,
    )


def start(pairs: int) -> Iterator[Row]:
    """(g) From the command to its output, and to the first network evaluation."""
    for words, aim in ((["--help"], 2.0), (["step=5"], 2.0)):
        seconds = []
        for _ in range(pairs):
            began = time.perf_counter()
            subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, capture_output=True)
            seconds.append(time.perf_counter() - began)
        name = f"python run.py {' '.join(words)}"
        taken = median(seconds)
        yield Row("start", name, "s", taken, None, None, f"{aim} s", taken <= aim)
    ours, other = [], []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as outputs:
            for code, seconds in ((START, ours), (OTHER_START, other)):
                began = time.time()
                seconds.append(float(program(code.replace("{outputs}", outputs))) - began)
    own_time, other_time = median(ours), median(other)
    ratio = median(b / a for a, b in zip(ours, other, strict=True))
    name = "to the first evaluation; diffusers: imports, network, scheduler"
    yield Row("start", name, "s", own_time, other_time, ratio, "", None)


def measure(device: torch.device, pairs: int) -> Iterator[Row]:
    """All three, on this machine's processor."""
    yield from memory()
    yield from processes(min(pairs, 3))
    yield from start(pairs)
