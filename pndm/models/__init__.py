"""The networks: one U-Net, the weights that are known by name, and denoisers known exactly.

Submodules and `load` are imported on first use: the registry is read without torch.
"""

from importlib import import_module
from typing import Any

_FILES = ("registry", "fetching", "files", "checkpoints")
_NETWORKS = ("architectures", "unet", "names", "analytic")


def __getattr__(name: str) -> Any:
    if name == "load":
        return import_module("pndm.models.checkpoints").load
    if name in _FILES + _NETWORKS:
        return import_module(f"pndm.models.{name}")
    raise AttributeError(f"module 'pndm.models' has no attribute {name!r}")
