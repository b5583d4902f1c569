"""Devices: which one a run uses, and whether it is there."""

from typing import Any

from pndm._errors import InputError


def resolve_device(name: str) -> str:
    """`auto` means CUDA where there is one, and the CPU otherwise."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(name: str) -> None:
    """InputError where there is no such device on this machine."""
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
    """The GPUs of this machine that torch sees."""
    import torch

    return torch.cuda.device_count()


def synchronize(device: Any) -> None:
    """Wait until a device has done all that was queued; a CPU has."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
