"""Prediction types: the noise e = p·x + q·output that the solvers combine."""

import math
from typing import Any, Literal, get_args

from pndm._errors import InputError
from pndm.schedules import Node

Prediction = Literal["noise", "data", "velocity"]


def as_noise(prediction: Prediction, alpha_bar: float) -> tuple[float, float]:
    """(p, q) of e = p·x + q·output, for a network that predicts e, x_0, or a velocity.

    data:     e = (x − √ᾱ·x_0)/√(1−ᾱ)
    velocity: e = √(1−ᾱ)·x + √ᾱ·v, of v = √ᾱ·e − √(1−ᾱ)·x_0 (Salimans & Ho 2022)
    ᾱ in (0, 1). InputError for an unknown prediction type.
    """
    p, q = of_levels(prediction, math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))
    return float(p), float(q)


def of_levels(prediction: Prediction, signal: Any, noise: Any) -> tuple[Any, Any]:
    """The same (p, q) from √ᾱ and √(1−ᾱ), which may be tensors."""
    match prediction:
        case "noise":
            return 0.0, 1.0
        case "data":
            return 1 / noise, -signal / noise
        case "velocity":
            return noise, signal
        case _:
            known = ", ".join(get_args(Prediction))
            raise InputError(f"no prediction {prediction!r}: use {known}")


def of_output(
    combination: tuple[float, float], prediction: Prediction, here: Node
) -> tuple[float, float]:
    """Convert u·x + v·e of the noise e to u·x + v·output of the network, at one node."""
    u, v = combination
    p, q = as_noise(prediction, here.alpha_bar)
    return u + v * p, v * q
