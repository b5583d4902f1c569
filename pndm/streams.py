"""What a graphics card does while the processor goes on; a processor does everything at once."""

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor


def overlaps(device: torch.device) -> bool:
    """Whether the device works on while the processor does something else."""
    return device.type != "cpu"


class Coming:
    """Tensors on their way to the CPU, behind the work that makes them."""

    def __init__(self, *tensors: Tensor) -> None:
        device = tensors[0].device
        streams = torch.get_device_module(device)
        self._tensors = [x.to("cpu", non_blocking=True) for x in tensors]
        self._here = streams.Event()
        self._here.record(streams.current_stream(device))

    def wait(self) -> list[Tensor]:
        """The tensors, once they are there; what was begun after them may still be under way."""
        self._here.synchronize()
        return self._tensors


@contextlib.contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """What is begun in the block follows all that was begun before, and holds up nothing after."""
    streams, side = torch.get_device_module(device), _side(device)
    side.wait_stream(streams.current_stream(device))
    with streams.stream(side):
        yield


@cache
def _side(device: torch.device) -> Any:
    return torch.get_device_module(device).Stream(device)
