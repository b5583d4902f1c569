"""The networks: one U-Net, the registry of weights, and analytic denoisers.

Submodules and `load` are imported on first use, so the registry is available without torch.
"""

from importlib import import_module
from typing import Any

MODULES = (
    *("architectures", "unet", "registry", "checkpoints", "packings", "key_maps"),
    *("cards", "locations", "files", "download", "analytic"),
)
"""The submodules."""

__all__ = ["load", *MODULES]


def __getattr__(name: str) -> Any:
    if name == "load":
        return import_module("pndm.models.checkpoints").load
    if name in MODULES:
        return import_module(f"pndm.models.{name}")
    raise AttributeError(f"module 'pndm.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
