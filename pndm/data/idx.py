"""IDX files, as MNIST and Fashion-MNIST come: arrays of bytes behind their dimensions."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pndm.data.decode import BadImage


def read_idx(path: Path, size: tuple[int, ...]) -> Tensor:
    """The uint8 tensor [N, *size] in an IDX file, packed by gzip or not; BadImage for others.

    The file is 0, 0, 8 (bytes), the number of dimensions, each of them as big-endian 32 bits,
    and the bytes.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadImage(f"{path} is damaged ({error}): get it again") from None
    start = 4 * (2 + len(size))
    dimensions = tuple(np.frombuffer(data[4:start], ">u4", len(data[4:start]) // 4).tolist())
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise BadImage(f"{path} is no IDX file of bytes: get it again")
    if data[3] != 1 + len(size) or dimensions[1:] != size:
        raise BadImage(
            f"{path} does not hold {'images of ' + '×'.join(map(str, size)) if size else 'labels'}"
            ": is it another of the four files?"
        )
    if not dimensions[0]:
        raise BadImage(f"{path} is empty: get it again")
    if len(data) - start != math.prod(dimensions):
        raise BadImage(
            f"{path} has {len(data) - start} bytes for {math.prod(dimensions)}: get it again"
        )
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=start).view(dimensions)
