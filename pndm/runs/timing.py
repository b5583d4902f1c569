"""Timing of network evaluations: the basis of every time estimate."""

import time
from dataclasses import dataclass

import torch

from pndm._devices import synchronize
from pndm._memory import is_out_of_memory
from pndm.runs.batches import BatchSize
from pndm.runs.network import Runner

SECONDS = 1.0
"""The default duration of a timing."""

LONG_CALL = 1.0
"""Seconds of a call from which a larger batch is hardly faster per image."""


@dataclass(frozen=True)
class Timing:
    """`seconds` per image, with `batch` images evaluated at once."""

    batch: int
    seconds: float


@torch.inference_mode()
def time_evaluations(
    network: Runner, size: BatchSize, seconds: float = SECONDS, negligible: float = 0.0
) -> Timing:
    """Measure the mean time per image at the run's batch size, over `seconds` of calls.

    The first call of each size is a discarded warm-up: it compiles, selects kernels and fills
    caches. If a call takes longer than LONG_CALL, a smaller batch is timed. If an image takes less
    than `negligible` seconds, the warm-up is returned. MemoryLimit if one image does not fit.
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
            continue
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        size.reduce(batch, network)
        batch = size.now


def _mean(network: Runner, batch: int, seconds: float) -> float:
    """The mean duration of calls over `seconds`, at least two calls."""
    durations = [_call(network, batch)]
    while len(durations) < 2 or sum(durations) < seconds:
        durations.append(_call(network, batch))
    return sum(durations) / len(durations)


def _call(network: Runner, batch: int) -> float:
    """The duration of one call, device synchronised."""
    x = network.state_of(torch.zeros(batch, *network.arch.image))
    t = torch.zeros(1, device=network.device).expand(batch)
    began = time.monotonic()
    network(x, t)
    synchronize(network.device)
    return time.monotonic() - began
