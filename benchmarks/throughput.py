"""Images a second of F-PNDM at 50 steps, against diffusers and a plain autocast loop.

All make the same evaluations of the same network from the same noise; the images end as uint8 on
the CPU. diffusers is its UNet2DModel and PNDMScheduler, eager, in the same precision; the plain
loop is that in float32 under torch.autocast to bfloat16. With features, those of Inception are
extracted from the images of both, of random weights where the real ones are not on this machine.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from diffusers import PNDMScheduler, UNet2DModel
from torch import Tensor

import pndm
from benchmarks.end_to_end import diffusers_sample, networks
from benchmarks.measure import Row, difference, seconds
from pndm._tf32 import tf32
from pndm.data.images import to_uint8
from pndm.evaluation.features import (
    Extractor,
    MissingReference,
    extract_in_chunks,
    inception_file,
    load_extractor,
)
from pndm.runs.network import PRECISIONS, Runner

SIZES = {"cpu": ("digits_linear", 16, 4, False), "cuda": ("ddpm_cifar10", 500, 50, True)}
"""Network, batch, steps, and whether features are extracted too, by device."""

CASES = {
    "cpu": (("fp32", "off", "diffusers"), ("bf16", "off", "autocast")),
    "cuda": (
        ("bf16", "off", "diffusers"),
        ("bf16", "off", "autocast"),
        ("bf16", "auto", "diffusers"),
        ("tf32", "off", "diffusers"),
        ("tf32", "auto", "diffusers"),
        ("fp32", "off", "diffusers"),
    ),
}
"""Our precision and compilation, and what it is compared with; the quick ones first."""

AIMS = {"bf16": 300, "tf32": 150}
"""Images a second on an H100 without features, of the faster of eager and compiled."""

RATIO = 1.5
"""At least as many times diffusers' images a second."""


@torch.no_grad()
def measure(device: torch.device, pairs: int) -> Iterator[Row]:
    """Milliseconds per image of each case, without features and, on a GPU, with them.

    Trajectories last seconds, so that two of each are measured, or fewer `pairs`.
    """
    architecture, batch, steps, with_features = SIZES[device.type]
    network, other_network = networks(architecture)
    noise = pndm.initial_noise(range(batch), network.arch.image)
    for precision, compile, other_name in CASES[device.type]:
        runner = Runner(copy.deepcopy(network), device, precision, compile)
        ours = own_loop(runner, noise, steps)
        other = other_loop(other_network, noise, steps, precision, other_name, device)
        runner(runner.state_of(noise), torch.zeros(1, device=device).expand(batch))  # compiles
        parts = {"without features": lambda images: None}
        if with_features:
            parts["with features"] = lambda images: extract_in_chunks(inception(device), images)
        own_runs, other_runs = [], []
        for _ in range(min(pairs, 2)):
            own_runs.append(timed(ours, parts))
            other_runs.append(timed(other, parts))
        apart = difference(own_runs[0][0].double(), other_runs[0][0].double())
        how = f"{precision}, {runner.mode or 'eager'}; {other_name}"
        for name in parts:
            own_time, other_time = (min(t[name] for _, t in r) for r in (own_runs, other_runs))
            ratio = other_time / own_time
            aim = AIMS.get(precision) if name == "without features" and with_features else None
            yield Row(
                "throughput",
                f"{architecture}, batch {batch}, plms, {steps} steps, {how}, {name}",
                "ms per image",
                1e3 * own_time / batch,
                1e3 * other_time / batch,
                ratio,
                f"{RATIO}×" + (f", {aim} images/s" if aim else ""),
                ratio >= RATIO and batch / own_time >= (aim or 0) if with_features else None,
                apart,
                f"{batch / own_time:.0f} images/s; {other_name} {batch / other_time:.0f}",
            )


def timed(
    loop: Callable[[], Tensor], parts: dict[str, Callable[[Tensor], object]]
) -> tuple[Tensor, dict[str, float]]:
    """The images of a loop, and its seconds with each part after it."""
    found: list[Tensor] = []
    sampling = seconds(lambda: found.append(loop()))
    (images,) = found
    return images, {
        name: sampling + seconds(lambda part=part: part(images)) for name, part in parts.items()
    }


def own_loop(runner: Runner, noise: Tensor, steps: int) -> Callable[[], Tensor]:
    """Our images, uint8 [B, C, H, W] on the CPU."""
    how = {"solver": pndm.solvers.plms(), "steps": steps}
    how["schedule"] = pndm.schedules.linear(convention="diffusers")
    return lambda: to_uint8(pndm.sample(runner, runner.state_of(noise), **how)).cpu()


def other_loop(
    network: UNet2DModel,
    noise: Tensor,
    steps: int,
    precision: str,
    name: str,
    device: torch.device,
) -> Callable[[], Tensor]:
    """Those of diffusers' scheduler; under autocast where `name` says so, else in `precision`."""
    dtype = torch.float32 if name == "autocast" else PRECISIONS[precision]
    scheduler = PNDMScheduler()

    def loop() -> Tensor:
        model = network.to(device, dtype)
        with (
            tf32(precision == "tf32"),
            torch.autocast(device.type, torch.bfloat16, enabled=name == "autocast"),
        ):
            x = diffusers_sample(model, scheduler, noise.to(device, dtype), steps)
        return to_uint8(x.float()).cpu()

    return loop


@cache
def inception(device: torch.device) -> Extractor:
    """Inception; of random weights, which take the same time, where its file is missing."""
    try:
        return load_extractor("inception", device, inception_file())
    except MissingReference:
        pass
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object) -> None:
            """Keep the random weights."""

    with tempfile.TemporaryDirectory() as folder:
        empty, path = Path(folder) / "empty.pth", Path(folder) / "random.pth"
        torch.save({}, empty)
        torch.save(Blank("inception-v3-compat", ["2048"], str(empty)).state_dict(), path)
        return load_extractor("inception", device, path, any_weights=True)
