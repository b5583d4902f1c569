"""How long a run's evaluations take: the measure that every prediction of time is made from."""

import time
from dataclasses import dataclass

import torch

from pndm._devices import synchronize
from pndm.runs.batches import BatchSize
from pndm.runs.network import Runner, is_out_of_memory

SECONDS = 1.0
"""How long evaluations are timed, unless told otherwise."""

LONG_CALL = 1.0
"""Seconds of a call from which a larger batch would hardly be faster for each image."""


@dataclass(frozen=True)
class Timing:
    """`batch` images were evaluated at once, in `seconds` for each of them."""

    batch: int
    seconds: float


@torch.inference_mode()
def time_evaluations(
    network: Runner, size: BatchSize, seconds: float = SECONDS, negligible: float = 0.0
) -> Timing:
    """The mean time of an image's evaluation at the run's own batch size, in `seconds` of calls.

    The first call of each size is not counted: it compiles, chooses kernels and fills caches.
    Where a call takes long, smaller batches tell the same. Where an image takes fewer than
    `negligible` seconds the first calls will do. MemoryLimit where one image does not fit.
    """
    batch = size.now if network.mode else 1
    while True:
        try:
            duration = _call(network, batch)
            if duration / batch < negligible:
                return Timing(batch, duration / batch)
            if duration > LONG_CALL or batch >= size.now:
                return Timing(batch, _mean(network, batch, seconds) / batch)
            batch = min(4 * batch, size.now)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            size.reduce(batch, network)
            batch = size.now


def _mean(network: Runner, batch: int, seconds: float) -> float:
    """The mean duration of calls that fill `seconds`, two at least."""
    durations = [_call(network, batch)]
    while len(durations) < 2 or sum(durations) < seconds:
        durations.append(_call(network, batch))
    return sum(durations) / len(durations)


def _call(network: Runner, batch: int) -> float:
    """The duration of one call, until the device has finished it."""
    x = network.state_of(torch.zeros(batch, *network.arch.image))
    t = torch.zeros(1, device=network.device).expand(batch)
    began = time.monotonic()
    network(x, t)
    synchronize(network.device)
    return time.monotonic() - began
