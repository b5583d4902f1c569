"""Evaluation of a network: device, precision, memory layout, compilation."""

import copy
import os
import warnings
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from pndm import models
from pndm._devices import copy_to
from pndm._memory import free_memory, is_out_of_memory, memory_for
from pndm._tf32 import tf32
from pndm.config.schema import Model
from pndm.models import locations, registry
from pndm.models.unet import OUTER, UNet

PRECISIONS = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""The network's dtype in each precision; the state is float64 in fp64, else float32, and so are
the network's first and last layers (`pndm.models.unet.OUTER`)."""

MODES = {
    "cpu": {"off": None, "auto": None, "graphs": None, "max": "max-autotune-no-cudagraphs"},
    "cuda": {
        "off": None,
        "auto": "default",
        "graphs": "reduce-overhead",
        "max": "max-autotune",
    },
}
"""The mode of `torch.compile` for each kind of device and value of `compile`; None is eager."""

WITH_GRAPHS = ("reduce-overhead", "max-autotune")
"""The modes that capture CUDA graphs, which overwrite their output in the next call."""

WIDE = 64
"""Channels from which channels_last is not slower on a CPU without AVX-512 either (measured)."""

GPU_LAYOUTS = {
    "fp64": torch.contiguous_format,
    "fp32": torch.contiguous_format,
    "tf32": torch.channels_last,
    "bf16": torch.channels_last,
    "fp16": torch.channels_last,
}
"""The memory layout of a network on a GPU, in each precision.

channels_last is the layout of convolutions on tensor cores, which fp32 and fp64 do not use. For it
an eager network pays: up to torch 2.14 GroupNorm on CUDA copies its input to the contiguous layout
(`input.contiguous()` in ATen's group_norm.cpp), and the next convolution copies it back. Compiled,
such copies are fused with the norm, and the compiler chooses the layouts of convolutions itself.
This much is read in torch's code. That the copies cost less than contiguous convolutions on tensor
cores is an expectation, not a measurement: `python -m benchmarks.run layouts --device cuda`
measures precision × layout × compilation, and a norm that keeps the layout.
"""


class Runner:
    """A network as a denoiser: (x [B, C, H, W] in the state's dtype, t [B]) -> e in that dtype.

    `precision` and `compile` are keys of PRECISIONS and MODES. On CUDA float32 means IEEE float32
    and tf32 TF32, whatever torch's own settings are. A compiled network has one graph for each
    shape, so that no earlier batch changes a later one. If the compiler is missing or fails, the
    first evaluation warns, and the network then runs eagerly; `mode` is then None. Out of memory
    is no failure of the compiler: it is raised. The network is moved and cast in place.
    """

    def __init__(
        self, network: UNet, device: torch.device, precision: str = "fp32", compile: str = "off"
    ) -> None:
        self.arch, self.device, self.dtype = network.arch, device, PRECISIONS[precision]
        self.tf32 = precision == "tf32"
        self.state = torch.float64 if precision == "fp64" else torch.float32
        self.layout = memory_layout(device, precision, network.arch.channels)
        for name, layer in network.named_children():
            layer.to(device, self.state if name in OUTER else self.dtype)
        self.network = network.to(memory_format=self.layout)
        self.mode = MODES[device.type][compile]
        self._compiled = None if self.mode is None else _compile(network, self.mode)

    @property
    def name(self) -> str:
        """The name of the weights."""
        return str(self.network.provenance.get("name", "this network"))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return e(x, t) in a new tensor."""
        with tf32(self.tf32) if self.device.type == "cuda" else nullcontext():
            return self._evaluate(x.to(self.state), t).to(x.dtype)

    def _evaluate(self, x: Tensor, t: Tensor) -> Tensor:
        if self._compiled is not None:
            try:
                torch.compiler.cudagraph_mark_step_begin()
                e = self._compiled(x, t)
                return e.clone() if self.mode in WITH_GRAPHS else e
            except RuntimeError as error:
                from torch._dynamo.exc import (
                    TorchDynamoException,
                )  # takes two seconds, rarely needed

                if is_out_of_memory(error) or not isinstance(error, TorchDynamoException):
                    raise
                reason = " ".join(str(error).split())[:200]
                warnings.warn(f"the network is not compiled: {reason}", stacklevel=3)
                self._compiled = self.mode = None
        return self.network(x, t)

    def free_memory(self) -> None:
        """Give back cached memory, and that of CUDA graphs; a compiled network compiles again."""
        if self._compiled is not None:
            torch.compiler.reset()
        free_memory(self.device)

    def state_of(self, x: Tensor) -> Tensor:
        """Convert x_T of any dtype and device to this network's state dtype, device and layout."""
        return copy_to(x.to(self.state), self.device).contiguous(memory_format=self.layout)


def memory_layout(device: torch.device, precision: str, channels: int) -> torch.memory_format:
    """The layout of a network: by precision on a GPU, by width and vector extension on a CPU."""
    if device.type == "cuda":
        return GPU_LAYOUTS[precision]
    is_wide = torch.backends.cpu.get_cpu_capability() == "AVX512" or channels >= WIDE
    return torch.channels_last if is_wide else torch.contiguous_format


def _compile(network: UNet, mode: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Compile for static shapes: each batch size has a graph of its own."""
    return torch.compile(network, mode=mode, dynamic=False)


def find_weights(model: Model) -> tuple[str, Path]:
    """The name or path that `models.load` takes for a configured model, and the weights file.

    CheckpointError with what to fetch if the file is missing.
    """
    if model.checkpoint is None:
        return model.name, registry.find(model.name).require()
    name = model.checkpoint
    if name in registry.WEIGHTS:
        name = os.path.join(os.curdir, name)  # the file, not the entry of that name
    return name, locations.locate(model.checkpoint)


@lru_cache(maxsize=4)
def load_network(name: str, architecture: str | None, format: str, state: Hashable) -> UNet:
    """Load the network of a file on the CPU, cached by file state."""
    return models.load(name, architecture=architecture, format=format)


@lru_cache(maxsize=1)
def cached_runner(
    name: str,
    architecture: str | None,
    format: str,
    state: Hashable,
    device: torch.device,
    precision: str,
    compile: str,
) -> Runner:
    """Return the runner of a network; the last one is cached for the next run."""
    network = load_network(name, architecture, format, state)
    if MODES[device.type][compile] in WITH_GRAPHS:
        torch.compiler.reset()  # else the graphs of the last network keep their memory
    with memory_for(name, device):
        return Runner(copy.deepcopy(network), device, precision, compile)
