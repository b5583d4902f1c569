"""Pseudo numerical methods for diffusion models on manifolds (Liu et al., ICLR 2022).

Submodules and the names below are imported on first use, so that `import pndm` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

METHOD = (
    *("schedules", "grids", "prediction", "noise", "solvers"),
    *("learned", "plans", "execute", "probability_flow", "sampling"),
)
"""The paper's method: modules that import torch (and torchode), and of the rest only `_errors`."""

AROUND = (
    "models",
    "data",
    "evaluation",
    "config",
    "runs",
    "integrations",
    "train",
    "fit",
    "cost",
    "demo",
)
"""Everything around the method: models, data, evaluation, runs and commands."""

NAMES = {"plan": "plans", "sample": "sampling", "solve": "sampling", "initial_noise": "noise"}
"""Functions exported here, with the module that defines each."""

__all__ = [*NAMES, *METHOD, *AROUND]


def __getattr__(name: str) -> Any:
    if name in NAMES:
        return getattr(import_module(f"pndm.{NAMES[name]}"), name)
    if name in METHOD + AROUND:
        return import_module(f"pndm.{name}")
    raise AttributeError(f"module 'pndm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
