"""Devices: resolve and check the device of a run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pndm._errors import DeviceError, InputError

LOST = (
    *("busy or unavailable", "no CUDA-capable device", "No CUDA GPUs are available"),
    *("uncorrectable ECC", "unspecified launch failure", "CUDA driver error: unknown"),
)
"""What CUDA says of a GPU that is gone, broken or taken."""


def resolve_device(name: str) -> str:
    """Resolve `auto` to CUDA where it is available, else to the CPU."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(name: str) -> None:
    """Raise InputError if this machine has no such device."""
    if name in ("auto", "cpu"):
        return
    match = re.fullmatch(r"cuda(?::(0|[1-9][0-9]*))?", name)
    if match is None:
        raise InputError(f"device={name}: use auto, cpu, cuda or cuda:N")
    number = match[1]
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"device={name}: this machine has no CUDA, use device=cpu or auto")
    if number and int(number) >= torch.cuda.device_count():
        raise InputError(f"device={name}: this machine has {torch.cuda.device_count()} GPUs")


def use_device(name: str) -> None:
    """Make a GPU the current one of this process, so that it touches no other."""
    if name.startswith("cuda:"):
        import torch

        torch.cuda.set_device(name)


def resolve_precision(name: str, device: str) -> str:
    """Resolve `auto` to tf32 on a GPU that has it, else to fp32."""
    if name != "auto":
        return name
    if not device.startswith("cuda"):
        return "fp32"
    import torch

    has_tf32 = torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    return "tf32" if has_tf32 else "fp32"


def gpu_count() -> int:
    """The number of GPUs that torch sees on this machine."""
    import torch

    return torch.cuda.device_count()


def copy_to(tensor: Any, device: Any) -> Any:
    """The tensor on a device; a copy to a GPU does not wait for the work that is queued there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def device_errors(device: Any) -> Iterator[None]:
    """Raise the loss of a GPU as DeviceError, in one line; other errors are bugs."""
    try:
        yield
    except RuntimeError as error:
        said = next((text for text in LOST if text in str(error)), None)
        if said is None:
            raise
        raise DeviceError(
            f"{device} is lost ({said}): what is finished is kept, the same command continues"
        ) from error


def synchronize(device: Any) -> None:
    """Wait for all work queued on a device; on a CPU there is none to wait for."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
