"""The time of an evaluation by kind of operation, and its lower bound from products alone.

Convolutions and matrix products are the libraries' own (oneDNN, cuDNN), the same for everybody:
their time is the least that an evaluation can take with them, and the rest is ours to save.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.end_to_end import BATCHES, MIDDLE, rate
from benchmarks.measure import Row
from pndm.cost import flops
from pndm.models.architectures import ARCHITECTURES
from pndm.models.unet import UNet
from pndm.runs.network import Runner

KINDS = {
    "convolutions": ("convolution", "conv2d"),
    "matrix products and attention": ("mm", "attention", "softmax", "flash"),
    "normalisation": ("norm",),
    "activations": ("silu",),
    "concatenation, sums, copies": ("cat", "add", "copy_", "mul", "upsample", "pool"),
}
"""Kinds of torch operations by substrings of their names; all others are the rest."""


def kind(name: str) -> str:
    """The kind of a torch operation."""
    kinds = (kind for kind, parts in KINDS.items() if any(part in name for part in parts))
    return next(kinds, "the rest")


def by_kind(events: Iterable[Any], is_cuda: bool) -> Counter[str]:
    """The time of each kind of operation, on the GPU that of the kernels an operation launched.

    The profiler lists such a kernel as an event of its own too, which is not counted again.
    """
    times: Counter[str] = Counter()
    for event in events:
        if event.device_type == DeviceType.CPU:
            spent = event.self_device_time_total if is_cuda else event.self_cpu_time_total
            times[kind(event.key)] += spent
    return times


@torch.no_grad()
def measure(device: torch.device, pairs: int) -> Iterator[Row]:
    """Per cent of an evaluation's time by kind of operation, of each network in fp32."""
    best = rate(device)
    is_cuda = device.type == "cuda"
    for architecture, batches in BATCHES[device.type].items():
        for size in batches[MIDDLE]:
            runner = Runner(UNet(ARCHITECTURES[architecture]).eval(), device)
            arch = runner.arch
            x = torch.randn(size, *arch.image)
            x, t = runner.state_of(x), torch.zeros(1, device=device).expand(size)
            runner(x, t)
            activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * is_cuda]
            with profile(activities=activities) as profiler:
                for _ in range(pairs):
                    runner(x, t)
            times = by_kind(profiler.key_averages(), is_cuda)
            whole = sum(times.values())
            products = sum(times[name] for name in list(KINDS)[:2])
            reached = flops(architecture) * size * pairs / (products / 1e6)
            for name, spent in times.most_common():
                yield Row(
                    "shares",
                    f"{architecture}, batch {size}: {name}",
                    "% of the time",
                    *(100 * spent / whole, None, None, "", None, None),
                    note=f"products at {reached / 1e9:.0f} of {best / 1e9:.0f} GFLOP/s; with "
                    f"nothing but them {whole / products:.2f} times as fast"
                    if name == "convolutions"
                    else "",
                )
