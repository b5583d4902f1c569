"""Memory layout × precision × compilation, and a norm that keeps the layout.

It decides, on a GPU, `GPU_LAYOUTS` of `pndm.runs.network` and the numbers by which
`pndm.runs.job.compile_setting` compiles. Each row compares what a run does with one alternative.
"""

import copy
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import pndm
from benchmarks.measure import Row, alternate, difference
from pndm.models.architectures import ARCHITECTURES
from pndm.models.unet import UNet
from pndm.runs.network import Runner

NETWORKS = {
    "cpu": {"digits_linear": (64, ("fp32", "bf16"), ())},
    "cuda": {
        "ddpm_cifar10": (500, ("fp32", "tf32", "bf16"), ("auto",)),
        "digits_linear": (500, ("tf32", "bf16"), ("graphs", "auto")),
    },
}
"""By device: networks with batch, precisions, and how the last of these is compiled."""

OTHER = {
    torch.channels_last: torch.contiguous_format,
    torch.contiguous_format: torch.channels_last,
}
NAMES = {torch.channels_last: "channels_last", torch.contiguous_format: "contiguous"}


class LayoutNorm(nn.GroupNorm):
    """GroupNorm of operations that keep the layout: two passes for the moments, one for the sum.

    The moments are float32 sums, whatever the dtype of x [B, C, H, W].
    """

    def forward(self, x: Tensor) -> Tensor:
        groups = x.unflatten(1, (self.num_groups, -1))
        n = groups[0, 0].numel()
        mean = groups.mean((2, 3, 4), dtype=torch.float32)
        square = torch.linalg.vector_norm(groups, dim=(2, 3, 4), dtype=torch.float32).square() / n
        rate = (square - mean.square() + self.eps).rsqrt()
        rate, mean = (v.repeat_interleave(x.shape[1] // self.num_groups, 1) for v in (rate, mean))
        scale = rate * self.weight
        shift = self.bias - mean * scale
        scale, shift = (v[:, :, None, None].to(x.dtype) for v in (scale, shift))
        return torch.addcmul(shift, x, scale)


def with_layout(runner: Runner, layout: torch.memory_format) -> Runner:
    """The same runner in another layout."""
    runner.layout = layout
    runner.network.to(memory_format=layout)
    return runner


def with_layout_norm(runner: Runner) -> Runner:
    """The same runner in channels_last, with norms that keep it."""
    for module in runner.network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = LayoutNorm
    return with_layout(runner, torch.channels_last)


@torch.no_grad()
def measure(device: torch.device, pairs: int) -> Iterator[Row]:
    """Milliseconds per image and evaluation: ours as a run is, and the alternative."""
    for architecture, (batch, precisions, modes) in NETWORKS[device.type].items():
        torch.manual_seed(0)
        network = UNet(ARCHITECTURES[architecture]).eval()
        for precision in precisions:

            def new(compile: str = "off", precision=precision, network=network) -> Runner:
                return Runner(copy.deepcopy(network), device, precision, compile)

            case = f"{architecture}, batch {batch}, {precision}"
            ours = new()
            other = OTHER[ours.layout]
            yield compare(
                f"{case}, eager, {NAMES[ours.layout]}; {NAMES[other]}",
                evaluation(ours, batch),
                evaluation(with_layout(new(), other), batch),
                batch,
                pairs,
            )
            yield compare(
                f"{case}, eager, torch's norm; one that keeps channels_last",
                evaluation(ours, batch),
                evaluation(with_layout_norm(new()), batch),
                batch,
                pairs,
            )
        for mode in modes:
            compiled = evaluation(new(mode), batch)
            began = time.perf_counter()
            compiled()
            seconds = time.perf_counter() - began
            case = f"{architecture}, batch {batch}, {precisions[-1]}, compile={mode}; eager"
            note = f"compiled in {seconds:.0f} s"
            yield compare(case, compiled, evaluation(ours, batch), batch, pairs, note)


def evaluation(runner: Runner, batch: int) -> Callable[[], Tensor]:
    """An evaluation of a batch in the runner's layout."""
    x = runner.state_of(pndm.initial_noise(range(batch), runner.arch.image))
    t = torch.full((1,), 300.0, device=runner.device).expand(batch)
    return lambda: runner(x, t)


def compare(
    case: str,
    ours: Callable[[], Tensor],
    other: Callable[[], Tensor],
    batch: int,
    pairs: int,
    note: str = "",
) -> Row:
    """A row of two evaluations; a ratio below 1 says that the alternative is faster."""
    own_time, other_time, ratio = alternate(ours, other, pairs)
    return Row(
        "layouts",
        case,
        "ms per image and evaluation",
        1e3 * own_time / batch,
        1e3 * other_time / batch,
        ratio,
        "1×",
        ratio >= 1,
        difference(ours().double(), other().double()),
        note,
    )
