"""(b, c) Noise to images with F-PNDM, against diffusers' network and scheduler, same weights.

Both take the same noise and make the same evaluations. The share of the machine is the network's
floating-point operations per second by those of a matrix product and of a wide convolution, the
better of the two, in the same run.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from diffusers import PNDMScheduler, UNet2DModel
from torch import Tensor

import pndm
from benchmarks.measure import Row, alternate, difference, seconds
from pndm._tf32 import tf32
from pndm.cost import flops
from pndm.models import key_maps
from pndm.models.architectures import ARCHITECTURES, Architecture
from pndm.models.unet import UNet
from pndm.runs.network import Runner

STEPS = 4
BATCHES = {
    "cpu": {"ddpm_cifar10": (1, 8, 32), "digits_linear": (1, 64, 256)},
    "cuda": {"ddpm_cifar10": (1, 64, 256), "digits_linear": (1, 256, 2048)},
}
AIMS = {"cpu": {"ddpm_cifar10": 1.1, "digits_linear": 1.5}, "cuda": {"ddpm_cifar10": 2.0}}
"""The target speed-up over diffusers; 3 on a GPU with bf16 and compilation."""

ALL, MIDDLE = slice(None), slice(1, 2)
COMPILED = {"cpu": ALL, "cuda": MIDDLE}
"""Which batch sizes; on a GPU compilation is so slow that one must suffice."""


def networks(architecture: str) -> tuple[UNet, UNet2DModel]:
    """Our network and diffusers', with the same random weights."""
    arch: Architecture = replace(ARCHITECTURES[architecture], dropout=0.0)
    widths = [arch.channels * m for m in arch.channel_mult]
    attends = [arch.image_size >> i in arch.attention for i in range(len(widths))]
    torch.manual_seed(0)
    other = UNet2DModel(
        sample_size=arch.image_size,
        in_channels=arch.in_channels,
        out_channels=arch.in_channels,
        layers_per_block=arch.blocks,
        block_out_channels=widths,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=arch.norm_eps,
        norm_num_groups=arch.norm_groups,
        attention_head_dim=None,
    ).eval()
    ours = UNet(arch).eval()
    ours.load_state_dict(key_maps.rename_keys(other.state_dict(), ours))
    return ours, other


def diffusers_sample(
    network: UNet2DModel, scheduler: PNDMScheduler, x: Tensor, steps: int
) -> Tensor:
    """x_0 by diffusers' scheduler from the noise x, on its device."""
    scheduler.set_timesteps(steps, device=x.device)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t).sample, t, x, return_dict=False)[0]
    return x


@torch.no_grad()
def measure(
    device: torch.device,
    pairs: int,
    precision: str = "fp32",
    compile: str = "off",
    which: slice | None = None,
) -> Iterator[Row]:
    """Milliseconds per image and evaluation, by network and size of batch (`which` of them)."""
    if which is None:
        which = ALL if compile == "off" else COMPILED[device.type]
    peak = rate(device)
    schedule = pndm.schedules.linear(convention="diffusers")
    solver, scheduler = pndm.solvers.plms(), PNDMScheduler()
    for architecture, batches in BATCHES[device.type].items():
        aim = AIMS[device.type].get(architecture)
        if aim and precision == "bf16" and compile != "off":
            aim *= 1.5
        network, other_network = networks(architecture)
        other_network = other_network.to(device)
        for size in batches[which]:
            runner = Runner(network, device, precision, compile)
            arch = runner.arch
            noise = pndm.initial_noise(range(size), arch.image)

            starts = runner.state_of(noise), noise.to(device)

            def ours(runner=runner, starts=starts):
                how = {"solver": solver, "schedule": schedule, "steps": STEPS}
                return pndm.sample(runner, starts[0], **how)

            def other(other_network=other_network, starts=starts):
                with tf32(False):  # torch's own default is TF32 for convolutions
                    return diffusers_sample(other_network, scheduler, starts[1], STEPS)

            began = time.perf_counter()
            result = ours()
            start = time.perf_counter() - began
            own_time, other_time, ratio = alternate(ours, other, pairs)
            each = solver.nfe(STEPS) * size
            share = flops(architecture) * each / own_time / peak
            how = f"{precision}, {'eager' if runner.mode is None else runner.mode}"
            note = f"{100 * share:.0f} % of {peak / 1e9:.0f} GFLOP/s"
            note += f"; compiled in {start:.0f} s" if runner.mode else ""
            note += "" if precision == "fp32" else "; diffusers in fp32"
            yield Row(
                "end to end",
                f"{architecture}, batch {size}, {how}",
                "ms per image and evaluation",
                1e3 * own_time / each,
                1e3 * other_time / each,
                ratio,
                f"{aim}×" if aim else "",
                ratio >= aim if aim else None,
                difference(result, other()),
                note,
            )


def rate(device: torch.device) -> float:
    """IEEE float32 FLOP/s, the better of a matrix product and a 3×3 convolution of 256 channels.

    Large ones on a GPU, of whose time the launch is a small part.
    """
    n, batch = (8192, 512) if device.type == "cuda" else (2048, 8)
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    x, w = torch.randn(batch, 256, 16, 16, device=device), torch.randn(256, 256, 3, 3)
    x = x.contiguous(memory_format=torch.channels_last)
    w = w.to(device).contiguous(memory_format=torch.channels_last)
    product, convolution = 2 * n**3, 2 * batch * 16 * 16 * 256 * 256 * 9
    with tf32(False):
        return max(
            product / min(seconds(lambda: a @ b) for _ in range(5)),
            convolution / min(seconds(lambda: torch.conv2d(x, w, padding=1)) for _ in range(5)),
        )
