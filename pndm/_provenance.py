"""Provenance: the commit, the hardware and the versions behind a number."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "torch-fidelity", "hydra-core", "wandb", "numpy")
"""Packages whose versions go into every record."""


def commit() -> str | None:
    """The commit of the code, "-dirty" where tracked files differ from it; None without git."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    here = Path(__file__).parent
    try:
        process = subprocess.run(
            command, cwd=here, capture_output=True, encoding="utf-8", timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None


def hardware(device: Any = None) -> str:
    """The processor, its cores and vector extension, and the GPU, `device` if that is one."""
    import torch

    name = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    name += f", {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name(device if 'cuda' in str(device) else None)}"
    return name


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the dependencies that may affect a number."""
    installed = {"python": platform.python_version()}
    for package in ("pndm", *PACKAGES):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            from pndm import __version__

            installed[package] = __version__ if package == "pndm" else "missing"
    return installed
