"""Transfer parts: how one direction moves x from time t to time s.

The paper splits a numerical method in two. The gradient part combines network evaluations into
one direction; the transfer part moves x along it. A classical method adds δ times the slope of
the ODE and leaves the manifold of noised images; the pseudo methods use the transfer of eq. 11,
which stays on it, exactly so if the direction is the true noise (property 3.1).

A transfer part defines the direction k stored for an evaluation (`keep`) and how a combination of
stored directions moves x (`move`). Both are plain numbers, computed once per plan.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from pndm._errors import InputError
from pndm.schedules import Node, is_number


class Keep(NamedTuple):
    """The stored part of an evaluation e at x: k = x·u + e·v; the direction is k + base·b.

    `b` is nonzero only if a direction refers to x at the start of its step instead of the point
    of the evaluation.
    """

    u: float
    v: float
    b: float = 0.0


class Move(NamedTuple):
    """x_s = scale·x_t + gain·direction + noise·z with z ~ N(0, 1)."""

    scale: float
    gain: float
    noise: float = 0.0


class Transfer(Protocol):
    """The interface of a transfer part for plans; k is clipped to ±`clip` unless it is None."""

    @property
    def clip(self) -> float | None: ...

    def keep(self, here: Node, start: Node) -> Keep:
        """The coefficients of k for an evaluation at `here` in a step that starts at `start`."""

    def move(self, t: Node, s: Node) -> Move:
        """The coefficients of the move from t to s along a direction whose weights sum to 1."""


def phi(alpha_t: float, alpha_s: float) -> tuple[float, float]:
    """The coefficients (A, B) of the transfer part x_s = φ(x_t, e) = A·x_t + B·e.

    A = √(ᾱ_s/ᾱ_t),  B = −(ᾱ_s−ᾱ_t) / (√ᾱ_t·(√((1−ᾱ_s)ᾱ_t) + √((1−ᾱ_t)ᾱ_s))),
    ᾱ in (0, 1]. Source: the paper's eq. 11, which is DDIM's eq. 12 without noise.
    """
    if alpha_t == alpha_s:
        return 1.0, 0.0
    mixed = math.sqrt((1 - alpha_s) * alpha_t) + math.sqrt((1 - alpha_t) * alpha_s)
    return math.sqrt(alpha_s / alpha_t), -(alpha_s - alpha_t) / (math.sqrt(alpha_t) * mixed)


def x_0(here: Node) -> Keep:
    """The image predicted by the noise e at a node: x_0 = (x − √(1−ᾱ)·e)/√ᾱ."""
    root = math.sqrt(here.alpha_bar)
    return Keep(1 / root, -math.sqrt(1 - here.alpha_bar) / root)


@dataclass(frozen=True)
class Pseudo:
    """The transfer part φ of eq. 11, on noise; with `eta` > 0 DDIM's stochastic step.

    σ = η·√((1−ᾱ_s)/(1−ᾱ_t))·√(1−ᾱ_t/ᾱ_s), and √(1−ᾱ_s−σ²) replaces √(1−ᾱ_s).
    Source: Song et al. 2021 (DDIM), eqs. 12 and 16.
    """

    eta: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if not (is_number(self.eta) and 0 <= self.eta <= 1):
            raise InputError(f"eta is {self.eta}, but must be between 0 (DDIM) and 1 (DDPM)")

    def keep(self, here: Node, start: Node) -> Keep:
        return Keep(0.0, 1.0)

    def move(self, t: Node, s: Node) -> Move:
        scale, gain = phi(t.alpha_bar, s.alpha_bar)
        if self.eta == 0:
            return Move(scale, gain)
        sigma = self.eta * posterior_deviation(t, s)
        total = 1 - s.alpha_bar
        return Move(scale, gain - math.sqrt(total) + math.sqrt(max(total - sigma**2, 0.0)), sigma)


@dataclass(frozen=True)
class Data:
    """The transfer part φ of eq. 11 on the predicted image x_0 instead of the noise.

    x_s = √((1−ᾱ_s)/(1−ᾱ_t))·x_t + (√ᾱ_s − √ᾱ_t·√((1−ᾱ_s)/(1−ᾱ_t)))·x_0, x_0 clipped to ±clip.
    Source: Lu et al. 2022b (DPM-Solver++), whose first-order step is the same φ.
    """

    clip: float | None = None

    def keep(self, here: Node, start: Node) -> Keep:
        return x_0(here)

    def move(self, t: Node, s: Node) -> Move:
        if t.alpha_bar == s.alpha_bar:
            return Move(1.0, 0.0)
        scale = math.sqrt((1 - s.alpha_bar) / (1 - t.alpha_bar))
        return Move(scale, math.sqrt(s.alpha_bar) - math.sqrt(t.alpha_bar) * scale)


@dataclass(frozen=True)
class Classical:
    """x_s = x_t + (s−t)·f, along the slope f of the ODE (eq. 10).

    f(x, t) = dx/dt = ½·(d log ᾱ/dt)·(x − e/√(1−ᾱ)), t being the network's time.
    """

    clip: float | None = None

    def keep(self, here: Node, start: Node) -> Keep:
        half = here.slope / 2
        return Keep(half, -half / math.sqrt(1 - here.alpha_bar))

    def move(self, t: Node, s: Node) -> Move:
        return Move(1.0, s.time - t.time)


@dataclass(frozen=True)
class ReleasedClassical:
    """FON in the authors' code: x_s = x_t + (t−s)·(φ(x, t→t−1) − x).

    Every stage takes the difference at the start (x, t) of the step, with only e from the stage;
    so it is not a Runge-Kutta method for eq. 10. Source: luping-liu/PNDM, runner/method.py.
    """

    clip: float | None = None

    def keep(self, here: Node, start: Node) -> Keep:
        before = start.alpha_bar * math.exp(-start.slope)
        if before > 1 - 1e-12:  # 1 up to rounding, which √(1−ᾱ) would amplify
            before = 1.0
        scale, gain = phi(start.alpha_bar, before)
        if here == start:
            return Keep(scale - 1, gain)
        return Keep(0.0, gain, scale - 1)

    def move(self, t: Node, s: Node) -> Move:
        return Move(1.0, t.time - s.time)


@dataclass(frozen=True)
class Ancestral:
    """DDPM's step: the mean of q(x_s | x_t, x_0) at the predicted x_0, plus noise.

    x_0 = (x_t − √(1−ᾱ_t)·e)/√ᾱ_t, clipped to ±clip; with r = ᾱ_t/ᾱ_s
    mean = √ᾱ_s·(1−r)/(1−ᾱ_t)·x_0 + √r·(1−ᾱ_s)/(1−ᾱ_t)·x_t,
    variance = (1−ᾱ_s)/(1−ᾱ_t)·(1−r) (`small`) or 1−r (`large`); none in the last step.
    Source: Ho et al. 2020, eqs. 6–7 and §3.2, between any two times.
    """

    variance: Literal["small", "large"] = "small"
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        if self.variance not in ("small", "large"):
            raise InputError(f"variance is {self.variance!r}, but must be small or large")

    def keep(self, here: Node, start: Node) -> Keep:
        return x_0(here)

    def move(self, t: Node, s: Node) -> Move:
        if t.alpha_bar == s.alpha_bar:
            return Move(1.0, 0.0)
        ratio, total = t.alpha_bar / s.alpha_bar, 1 - t.alpha_bar
        scale = math.sqrt(ratio) * (1 - s.alpha_bar) / total
        gain = math.sqrt(s.alpha_bar) * (1 - ratio) / total
        if s.time < 0:
            return Move(scale, gain)
        large = self.variance == "large"
        return Move(scale, gain, math.sqrt(1 - ratio) if large else posterior_deviation(t, s))


def posterior_deviation(t: Node, s: Node) -> float:
    """√((1−ᾱ_s)/(1−ᾱ_t)·(1−ᾱ_t/ᾱ_s)), the deviation of q(x_s | x_t, x_0)."""
    share = (1 - s.alpha_bar) / (1 - t.alpha_bar)
    return math.sqrt(share * (1 - t.alpha_bar / s.alpha_bar))
