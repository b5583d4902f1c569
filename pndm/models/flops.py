"""The number of floating-point operations of a network, counted without weights."""

from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from pndm.models.architectures import Architecture
from pndm.models.unet import UNet


@cache
def flops(arch: Architecture) -> float:
    """The operations of one evaluation on one image; a multiplication and an addition are two."""
    with torch.device("meta"):
        x = torch.empty(1, *arch.image)
        network, t = UNet(arch).eval(), torch.empty(1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x, t)
    return counter.get_total_flops()
