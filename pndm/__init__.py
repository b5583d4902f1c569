"""Pseudo numerical methods for diffusion models on manifolds (Liu et al., ICLR 2022).

Submodules and the names below are imported on first use, so that `import pndm` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {"plan": "plans", "sample": "sampling", "initial_noise": "noise"}
_PAPER = (
    *("schedules", "clocks", "grids", "transfer", "gradient", "multistep", "solvers"),
    *("prediction", "plans", "sampling", "noise"),
)
_AROUND = ("flow", "models", "images", "datasets", "classifier", "statistics", "evaluation")
_RUNS = (
    *("inference", "streams", "shards", "worker", "processes", "interrupts", "experiment"),
    *("config", "records", "tracking", "train", "cost", "demo", "integrations"),
)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"pndm.{_NAMES[name]}"), name)
    if name in _PAPER + _AROUND + _RUNS:
        return import_module(f"pndm.{name}")
    raise AttributeError(f"module 'pndm' has no attribute {name!r}")
