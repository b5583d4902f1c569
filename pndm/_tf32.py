"""TF32 allowed or not in a block of code, by both of torch's interfaces at once.

torch 2.9 added `fp32_precision` to `allow_tf32`, and raises where the two disagree.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

_BACKENDS: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
"""What has the older `allow_tf32`."""


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let float32 products on CUDA be TF32 or IEEE float32; restore what was set before."""
    operations = _operations()
    before = [op.fp32_precision for op in operations]
    older: list[tuple[Any, bool]] = []
    matmul = None
    with suppress(RuntimeError):  # where the two interfaces disagree already
        matmul = torch.get_float32_matmul_precision()
    for backend in _BACKENDS:
        with suppress(RuntimeError):
            older.append((backend, backend.allow_tf32))
        backend.allow_tf32 = allowed
    for op in operations[:-1]:
        op.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        for backend, value in older:
            backend.allow_tf32 = value
        if matmul is not None:  # which may be "medium", TF32 too
            torch.set_float32_matmul_precision(matmul)
        for op, value in zip(operations, before, strict=True):
            op.fp32_precision = value


def _operations() -> list[Any]:
    """What has the newer `fp32_precision`; the last, of CPUs, is only restored."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return []
    return [
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
    ]
