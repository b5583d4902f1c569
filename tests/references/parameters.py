"""Parameters that come into being when a reference network first asks for them.

So the reference alone says which keys a file of its code has, in which order, and of which
shapes. Values depend on the key and the shape only (NumPy's frozen MT19937 stream), and are
random everywhere: fresh networks have zeros where a mistake would not show.
"""

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def randomised(key: str, shape: tuple[int, ...]) -> Tensor:
    """float64 values of one parameter: norms about 1, others such that signals keep their size."""
    draw = np.random.RandomState(zlib.crc32(f"{key}{list(shape)}".encode())).standard_normal(shape)
    values = torch.from_numpy(np.asarray(draw))
    if len(shape) == 1:
        # the weight of a norm is the only vector of that name
        return (1.0 if key.endswith("weight") else 0.0) + 0.3 * values
    return values / float(np.prod(shape[1:])) ** 0.5


def shapeless(key: str, shape: tuple[int, ...]) -> Tensor:
    """No values, only a shape: for networks of real size."""
    return torch.empty(shape, device="meta", dtype=torch.float64)


class Parameters(dict[str, Tensor]):
    """A state_dict that grows: `p("conv.weight", 8, 3, 3, 3)` makes it once and returns it."""

    def __init__(self, make: Callable[[str, tuple[int, ...]], Tensor] = randomised) -> None:
        super().__init__()
        self.make = make

    def __call__(self, key: str, *shape: int) -> Tensor:
        if key not in self:
            self[key] = self.make(key, shape)
        assert self[key].shape == shape, key
        return self[key]

    def affine(self, name: str, outputs: int, inputs: int, *kernel: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a linear map or a convolution."""
        return self(f"{name}.weight", outputs, inputs, *kernel), self(f"{name}.bias", outputs)
