"""Quality and time of lower network precisions, on digits."""

import json
import tempfile
from collections.abc import Iterator

import torch

import pndm
from benchmarks.measure import Row, alternate, difference
from pndm.config.compose import compose_runs
from pndm.runs.network import Runner
from pndm.runs.run import run_experiment

PRECISIONS = {"cpu": ("fp64", "bf16"), "cuda": ("fp64", "tf32", "bf16", "fp16")}
"""The precisions of each device type besides fp32."""

BATCH = 250


def measure(device: torch.device, pairs: int) -> Iterator[Row]:
    """Time, distance of the images and FID of each precision, compared with fp32."""
    schedule, solver = pndm.schedules.linear(), pndm.solvers.plms()
    x_T = pndm.initial_noise(range(BATCH), (1, 8, 8))

    def sampled(precision: str) -> torch.Tensor:
        runner = runners[precision]
        how = {"solver": solver, "schedule": schedule, "steps": 10}
        return pndm.sample(runner, runner.state_of(x_T), **how)

    runners = {
        name: Runner(pndm.models.load("digits_linear"), device, name)
        for name in (*PRECISIONS[device.type], "fp32")
    }
    full = fid("fp32", device)
    for name in PRECISIONS[device.type]:
        own_time, base, ratio = alternate(
            lambda name=name: sampled(name), lambda: sampled("fp32"), pairs
        )
        each = BATCH * solver.nfe(10)
        lower, images = (sampled(which).double() for which in (name, "fp32"))
        rms = (lower - images).square().mean().sqrt().item()
        yield Row(
            "precision",
            f"digits, {name}, and fp32",
            "ms per image and evaluation",
            1e3 * own_time / each,
            1e3 * base / each,
            ratio,
            "",
            None,
            difference(lower, images),
            f"RMS {rms:.2g}; FID {fid(name, device):.4f}, of fp32 {full:.4f} (plms, 50 steps)",
        )


def fid(precision: str, device: torch.device) -> float:
    """The FID of F-PNDM at 50 steps."""
    with tempfile.TemporaryDirectory() as outputs:
        (cfg,) = compose_runs(
            [
                f"precision={precision}", f"device={device.type}", f"outputs={outputs}",
                "samples=1797", "wandb.mode=disabled", "progress=false",
            ]
        )  # fmt: skip
        return json.loads(run_experiment(cfg).read_text())["fid"]["value"]
