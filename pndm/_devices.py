"""Devices: resolve and check the device of a run."""

from typing import Any

from pndm._errors import InputError


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
    kind, _, number = name.partition(":")
    if kind != "cuda" or (name != kind and not number.isdecimal()):
        raise InputError(f"device={name}: use auto, cpu, cuda or cuda:N")
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"device={name}: this machine has no CUDA, use device=cpu or auto")
    if number and int(number) >= torch.cuda.device_count():
        raise InputError(f"device={name}: this machine has {torch.cuda.device_count()} GPUs")


def gpu_count() -> int:
    """The number of GPUs that torch sees on this machine."""
    import torch

    return torch.cuda.device_count()


def synchronize(device: Any) -> None:
    """Wait for all work queued on a device; on a CPU there is none to wait for."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
