"""Variance schedules: the signal level ᾱ(t), and the clocks derived from it.

A diffusion process mixes an image with noise, x_t = √ᾱ(t)·x_0 + √(1−ᾱ(t))·e. The paper's ODE
(its eq. 10) and its transfer part (eq. 11) depend on the process through ᾱ alone. Training fixes
ᾱ at integer times; between them log ᾱ is linear here, which defines ᾱ at every real time. Two
clocks are used in addition to t: ρ = √((1−ᾱ)/ᾱ), in which the transfer part is exactly Euler's
method, and λ = −log ρ, half the log signal-to-noise ratio.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pndm._errors import InputError

Convention = Literal["aligned", "released", "diffusers"]

MIN_ALPHA_BAR = 4e-5
"""Floor of ᾱ in plans of the aligned convention, just under the linear schedule's own minimum."""

TINY = torch.finfo(torch.float32).tiny
"""The smallest ᾱ of a node, so that 1/√ᾱ and its products with networks' outputs are float32."""


class Node(NamedTuple):
    """A point in time as a solver uses it: the network's time, ᾱ there, and d log ᾱ/dt."""

    time: float
    alpha_bar: float
    slope: float

    @property
    def rho(self) -> float:
        """ρ = √((1−ᾱ)/ᾱ), the noise level of x/√ᾱ; 0 at the image."""
        return math.sqrt((1 - self.alpha_bar) / self.alpha_bar)


@dataclass(frozen=True)
class Schedule(ABC):
    """ᾱ(t) for real t in [−1, timesteps−1]; time −1 is the image, the last nearly pure noise.

    `min_alpha_bar` floors ᾱ in plans (not in `alpha_bar`): a network error at ᾱ = 2e-9, where
    the cosine schedule starts, would be amplified by 1/√ᾱ. 0 disables the floor.
    """

    name: str
    timesteps: int
    convention: Convention
    min_alpha_bar: float

    def __post_init__(self) -> None:
        if not (is_number(self.min_alpha_bar) and 0 <= self.min_alpha_bar < 1):
            raise InputError(f"min_alpha_bar is {self.min_alpha_bar}, but must be in [0, 1)")

    @abstractmethod
    def log_alpha_bar(self, t: float) -> float:
        """log ᾱ(t) in float64."""

    @abstractmethod
    def dlog_alpha_bar(self, t: float) -> float:
        """d log ᾱ/dt at t, per unit of network time; not positive."""

    @abstractmethod
    def inverse(self, log_alpha_bar: float) -> float:
        """The time at which log ᾱ has a given value, with `Table` linear between integer times."""

    def inverse_on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """`inverse` of tensors on a device: float64 [B] in the range of log ᾱ -> float64 [B]."""
        return lambda values: values.new_tensor([self.inverse(v) for v in values.tolist()])

    def time_at(self, log_alpha_bar: float) -> float:
        """The inverse of `log_alpha_bar`, for grids defined in a clock other than t.

        Raises InputError where the convention makes ᾱ a staircase, which has no inverse.
        """
        return self.inverse(log_alpha_bar)

    def alpha_bar(self, t: float) -> float:
        """ᾱ(t) in float64, for real t in [−1, timesteps−1]; InputError outside."""
        return math.exp(self.log_alpha_bar(t))

    def node(self, t: float) -> Node:
        """The node at time t: ᾱ floored at `min_alpha_bar`, and the slope of the floored ᾱ.

        InputError where ᾱ is 0 or, at a time of the network, 1 up to rounding.
        """
        alpha_bar = self.alpha_bar(t)
        floored = max(alpha_bar, self.min_alpha_bar)
        if floored < TINY:
            raise InputError(
                f"{self.name} has ᾱ = {floored:.3g} at time {t:g}, too little to sample from: "
                "give smaller betas, or a min_alpha_bar, which the aligned convention has"
            )
        if floored == 1 and t >= 0:
            raise InputError(
                f"{self.name} has ᾱ = 1 at time {t:g}, so no noise to predict: give larger betas"
            )
        return Node(t, floored, 0.0 if alpha_bar < floored else self.dlog_alpha_bar(t))

    def log_node(self, t: float) -> float:
        """log ᾱ of the node at t, without the rounding error of going through ᾱ."""
        if self.alpha_bar(t) < self.min_alpha_bar:
            return math.log(self.min_alpha_bar)
        return self.log_alpha_bar(t)

    def check(self, t: float) -> None:
        """Raise InputError for a time at which ᾱ is not defined."""
        if not -1 <= t <= self.timesteps - 1:
            raise InputError(f"time {t} is outside [-1, {self.timesteps - 1}] of {self.name}")


@dataclass(frozen=True)
class Table(Schedule):
    """A schedule tabulated at the training times: log ᾱ[0] … log ᾱ[timesteps−1].

    The convention says which entry belongs to the network's time t and where the last step ends:
    `aligned` ᾱ[t] and ᾱ = 1, as trained; `released` ᾱ[t+1], t without its fraction, and ᾱ[0], as
    the authors' code runs (with ᾱ[T] := ᾱ[T−1]); `diffusers` ᾱ[t] and ᾱ[0].
    """

    table: tuple[float, ...] = field(repr=False)

    def _knot(self, time: int) -> float:
        """log ᾱ at an integer time from −1 to timesteps−1, in this convention."""
        match self.convention:
            case "aligned":
                return self.table[time] if time >= 0 else 0.0
            case "released":
                return self.table[min(time + 1, self.timesteps - 1)]
            case "diffusers":
                return self.table[max(time, 0)]

    @cached_property
    def _depths(self) -> tuple[float, ...]:
        """−log ᾱ at the integer times from 0 on, which does not fall."""
        return tuple(-self._knot(time) for time in range(self.timesteps))

    def log_alpha_bar(self, t: float) -> float:
        self.check(t)
        if self.convention == "released":
            return self._knot(math.trunc(t))
        left = math.floor(t)
        start = self._knot(left)
        return start if t == left else start + (t - left) * (self._knot(left + 1) - start)

    def dlog_alpha_bar(self, t: float) -> float:
        """log ᾱ(⌈t⌉) − log ᾱ(⌈t⌉−1), the slope to the left of t; at −1 to the right."""
        self.check(t)
        right = max(math.ceil(t), 0)
        return self._knot(right) - self._knot(right - 1)

    def time_at(self, log_alpha_bar: float) -> float:
        if self.convention == "released":
            raise InputError(
                "the released convention truncates times, so its clock has no inverse: "
                "use grid=leading, linspace, trailing or quadratic, or convention=aligned"
            )
        return self.inverse(log_alpha_bar)

    def inverse(self, log_alpha_bar: float) -> float:
        first, last = self._knot(-1), self._knot(self.timesteps - 1)
        if not last <= log_alpha_bar <= first:
            raise InputError(f"log ᾱ = {log_alpha_bar} is outside [{last}, {first}]")
        right = bisect_left(self._depths, -log_alpha_bar)
        start, end = self._knot(right - 1), self._knot(right)
        return float(right) if start == end else right - (log_alpha_bar - end) / (start - end)

    def inverse_on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        times = range(-1, self.timesteps)
        knots = torch.tensor([self._knot(i) for i in times], dtype=torch.float64, device=device)
        rising = -knots[1:]

        def inverse(values: Tensor) -> Tensor:
            right = torch.searchsorted(rising, -values).clamp_(max=self.timesteps - 1)
            start, end = knots[right], knots[right + 1]
            part = torch.where(start == end, 0.0, (values - end) / (start - end))
            return right - part

        return inverse


@dataclass(frozen=True)
class VP(Schedule):
    """The continuous linear variance-preserving process, smooth in t.

    log ᾱ(t) = −T·(β₀·s + ½·(β₁−β₀)·s²) with s = (t+1)/T.
    Source: Song et al. 2021 (score SDE), eq. 33.
    """

    beta_start: float
    beta_end: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_betas(self.name, self.timesteps, self.beta_start, self.beta_end)

    def log_alpha_bar(self, t: float) -> float:
        self.check(t)
        s = (t + 1) / self.timesteps
        rise = self.beta_end - self.beta_start
        return -self.timesteps * (self.beta_start * s + 0.5 * rise * s**2)

    def dlog_alpha_bar(self, t: float) -> float:
        """−(β₀ + (β₁−β₀)·s)."""
        self.check(t)
        s = (t + 1) / self.timesteps
        return -(self.beta_start + (self.beta_end - self.beta_start) * s)

    def inverse(self, log_alpha_bar: float) -> float:
        depth = -log_alpha_bar / self.timesteps
        rise = self.beta_end - self.beta_start
        s = 2 * depth / (self.beta_start + math.sqrt(self.beta_start**2 + 2 * rise * depth))
        return s * self.timesteps - 1

    def inverse_on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        rise = self.beta_end - self.beta_start

        def inverse(values: Tensor) -> Tensor:
            depth = -values / self.timesteps
            root = (self.beta_start**2 + 2 * rise * depth).sqrt()
            return 2 * depth / (self.beta_start + root) * self.timesteps - 1

        return inverse


def is_number(value: object) -> bool:
    """Whether a value is a real number or a tensor, not text; booleans do not count."""
    return hasattr(value, "__float__") and not isinstance(value, bool)


def number(value: Any) -> float:
    """A number as a float; TypeError for text and booleans, which `float` would take."""
    if not is_number(value):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def check_betas(name: str, timesteps: int, *betas: float) -> None:
    """Raise InputError unless timesteps is an integer ≥ 1 and every β is in (0, 1)."""
    if not isinstance(timesteps, Integral) or timesteps < 1:
        raise InputError(f"{name}: timesteps is {timesteps}, but must be a whole number from 1")
    for beta in betas:
        if not (is_number(beta) and 0 < beta < 1):
            raise InputError(f"{name}: every β must be strictly between 0 and 1, not {beta}")


def from_betas(
    name: str,
    betas: Iterable[float],
    convention: Convention = "aligned",
    min_alpha_bar: float = MIN_ALPHA_BAR,
) -> Table:
    """A schedule from the noise variances of training, ᾱ[j] = Π_{i≤j} (1−β_i), 0 < β < 1.

    `min_alpha_bar` applies to the aligned convention; the other two reproduce their code.
    """
    betas = tuple(betas)
    check_betas(name, len(betas), *betas)
    if convention not in get_args(Convention):
        raise InputError(f"no convention {convention!r}: use {', '.join(get_args(Convention))}")
    floor = min_alpha_bar if convention == "aligned" else 0.0
    table = tuple(accumulate(math.log1p(-beta) for beta in betas))
    return Table(name, len(betas), convention, floor, table)


def linear(
    timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    convention: Convention = "aligned",
    min_alpha_bar: float = MIN_ALPHA_BAR,
) -> Table:
    """β evenly spaced from beta_start to beta_end (Ho et al. 2020)."""
    check_betas("linear", timesteps, beta_start, beta_end)
    betas = linspace(beta_start, beta_end, timesteps)
    return from_betas("linear", betas, convention, min_alpha_bar)


def quad(
    timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    convention: Convention = "aligned",
    min_alpha_bar: float = MIN_ALPHA_BAR,
    name: str = "quad",
) -> Table:
    """√β evenly spaced from √beta_start to √beta_end (the DDPM code's "quad")."""
    check_betas(name, timesteps, beta_start, beta_end)
    roots = linspace(math.sqrt(beta_start), math.sqrt(beta_end), timesteps)
    return from_betas(name, (root**2 for root in roots), convention, min_alpha_bar)


scaled_linear = partial(quad, beta_start=0.00085, beta_end=0.012, name="scaled_linear")
"""The formula of `quad` with Stable Diffusion's ends (Rombach et al. 2022)."""


def cosine(
    timesteps: int = 1000,
    convention: Convention = "aligned",
    min_alpha_bar: float = MIN_ALPHA_BAR,
) -> Table:
    """ᾱ falling as cos²; β_j = min(1 − f((j+1)/T)/f(j/T), 0.999), f(s) = cos²(½π(s+0.008)/1.008).

    Source: Nichol & Dhariwal 2021, eq. 17.
    """
    check_betas("cosine", timesteps)

    def f(s: float) -> float:
        return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = (min(1 - f((j + 1) / timesteps) / f(j / timesteps), 0.999) for j in range(timesteps))
    return from_betas("cosine", betas, convention, min_alpha_bar)


def vp(
    timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    min_alpha_bar: float = MIN_ALPHA_BAR,
) -> VP:
    """The continuous linear process that `linear` discretises."""
    return VP("vp", timesteps, "aligned", min_alpha_bar, beta_start, beta_end)


def linspace(start: float, end: float, count: int) -> list[float]:
    """`count` evenly spaced numbers from start to end, both included."""
    return [start + (end - start) * i / max(count - 1, 1) for i in range(count)]


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "quad": quad,
    "scaled_linear": scaled_linear,
    "vp": vp,
}
"""The schedules by their names in `conf/schedule`."""
