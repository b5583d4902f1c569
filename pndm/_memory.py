"""Out of memory: how its errors are recognised, and what gives memory back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pndm._errors import MemoryLimit

MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine",  # cuDNN, where none fits into the rest of the memory
)
"""What the errors of torch, CUDA, cuBLAS and cuDNN say, whatever their class."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is of missing memory, on a GPU or on the CPU."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_memory(device: Any) -> None:
    """Give cached memory back to the GPU; call it when no traceback holds tensors any more."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def memory_for(what: str, device: Any) -> Iterator[None]:
    """Raise MemoryLimit where what the block moves to a device does not fit into it."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimit(
            f"{what} does not fit into the free memory of {device}: free some, or use another "
            "device"
        ) from None
