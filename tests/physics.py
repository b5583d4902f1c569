"""The paper written a second time, as plain loops over its equations, for the tests to compare.

Nothing here uses the package's own formulas. The loops take any kind of number: mpmath's reals
on symbolic combinations of (x_T, e_0, e_1, …), or floats on tensors.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from mpmath import mp, mpf
from torch import Tensor

from pndm import schedules
from pndm.models.unet import Architecture, UNet
from pndm.schedules import Schedule

mp.dps = 40

settings.register_profile(
    "steady", deadline=None, derandomize=True, database=None, max_examples=50
)
settings.load_profile("steady")

CONVENTIONS = ("aligned", "released", "diffusers")
T = 1000


@cache
def make(name: str, convention: str = "aligned", **options: Any) -> Schedule:
    """The schedule `name` in a convention; vp, which is continuous, has only one."""
    if name != "vp":
        options["convention"] = convention
    return schedules.SCHEDULES[name](**options)


def betas(name: str) -> list[mpf]:
    """β_0 … β_999 in mpmath's reals, from the definitions in the literature."""
    ends = {"linear": (1e-4, 0.02), "quad": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}
    if name == "cosine":

        def f(s: mpf) -> mpf:
            return mp.cos((s + mpf(0.008)) / mpf(1.008) * mp.pi / 2) ** 2

        return [min(1 - f(mpf(j + 1) / T) / f(mpf(j) / T), mpf(0.999)) for j in range(T)]
    start, end = map(mpf, ends[name])
    if name == "linear":
        return [start + (end - start) * j / (T - 1) for j in range(T)]
    start, end = mp.sqrt(start), mp.sqrt(end)
    return [(start + (end - start) * j / (T - 1)) ** 2 for j in range(T)]


@cache
def alpha_bars(name: str) -> tuple[mpf, ...]:
    """ᾱ[0] … ᾱ[999], the running products of 1−β."""
    products, product = [], mpf(1)
    for beta in betas(name):
        product *= 1 - beta
        products.append(product)
    return tuple(products)


class Process:
    """ᾱ(t) and d log ᾱ/dt of a schedule and a convention, in mpmath's reals."""

    def __init__(self, name: str, convention: str = "aligned", floor: float = 4e-5) -> None:
        self.name, self.convention = name, convention
        self.floor = mpf(floor) if convention == "aligned" else mpf(0)

    def knot(self, j: int) -> mpf:
        table = alpha_bars(self.name)
        if self.convention == "aligned":
            return table[j] if j >= 0 else mpf(1)
        if self.convention == "released":
            return table[min(j + 1, T - 1)]
        return table[max(j, 0)]

    def unfloored(self, t: float) -> mpf:
        t = mpf(t)
        if self.name == "vp":
            s = (t + 1) / T
            return mp.exp(-T * (mpf(1e-4) * s + (mpf(0.02) - mpf(1e-4)) / 2 * s**2))
        if self.convention == "released":
            return self.knot(int(t))
        below = int(mp.floor(t))
        if t == below:
            return self.knot(below)
        share = t - below
        return self.knot(below) ** (1 - share) * self.knot(below + 1) ** share

    def alpha(self, t: float) -> mpf:
        return max(self.unfloored(t), self.floor)

    def slope(self, t: float) -> mpf:
        """d log ᾱ/dt on the side of t that sampling goes to, 0 where ᾱ is floored."""
        if self.unfloored(t) < self.floor:
            return mpf(0)
        if self.name == "vp":
            return -(mpf(1e-4) + (mpf(0.02) - mpf(1e-4)) * (mpf(t) + 1) / T)
        right = math.ceil(t)
        return mp.log(self.knot(right) / self.knot(right - 1))


Evaluate = Callable[[Any, float], Any]


def transfer(x: Any, e: Any, a: Any, b: Any) -> Any:
    """Eq. 9: the transfer part as the paper prints it, a difference added to x."""
    if a == b:
        return x
    ra, rb = mp.sqrt(a), mp.sqrt(b)
    mixed = ra * (mp.sqrt((1 - b) * a) + mp.sqrt((1 - a) * b))
    return x + (b - a) * (x / (ra * (ra + rb)) - e / mixed)


def pairs(nodes: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(nodes[:-1], nodes[1:], strict=True))


def ddim(x: Any, nodes: Sequence[float], e: Evaluate, p: Process, eta: float, z: Any) -> Any:
    """Song et al. 2021, eq. 12: predicted x_0, direction to x_t, noise (none into ᾱ = 1)."""
    for i, (t, s) in enumerate(pairs(nodes)):
        a, b = p.alpha(t), p.alpha(s)
        noise = e(x, t)
        sigma = eta * mp.sqrt((1 - b) / (1 - a)) * mp.sqrt(1 - a / b)
        x0 = (x - mp.sqrt(1 - a) * noise) / mp.sqrt(a)
        x = mp.sqrt(b) * x0 + mp.sqrt(1 - b - sigma**2) * noise
        x = x + sigma * z(i) if sigma else x
    return x


def ddpm(x: Any, nodes: Sequence[float], e: Evaluate, p: Process, variance: str, z: Any) -> Any:
    """Ho et al. 2020, algorithm 2, written with the β of the whole step, 1 − ᾱ_t/ᾱ_s."""
    for i, (t, s) in enumerate(pairs(nodes)):
        a, b = p.alpha(t), p.alpha(s)
        noise = e(x, t)
        if a == b:
            continue
        beta = 1 - a / b
        x = (x - beta / mp.sqrt(1 - a) * noise) / mp.sqrt(1 - beta)
        if s >= 0:
            x = x + mp.sqrt(beta if variance == "large" else beta * (1 - b) / (1 - a)) * z(i)
    return x


def s_pndm(x: Any, nodes: Sequence[float], e: Evaluate, p: Process) -> Any:
    """One pseudo improved Euler step, then e' = (3e_t − e_{t+δ})/2."""
    old = None
    for t, s in pairs(nodes):
        new = e(x, t)
        if old is not None:
            direction = (3 * new - old) / 2
        elif s >= 0:
            direction = (new + e(transfer(x, new, p.alpha(t), p.alpha(s)), s)) / 2
        else:
            direction = new
        x, old = transfer(x, direction, p.alpha(t), p.alpha(s)), new
    return x


def pseudo_runge_kutta(x: Any, e1: Any, t: float, s: float, e: Evaluate, p: Process) -> Any:
    """Eq. 13, given e_1."""
    m = (t + s) / 2
    at, am, as_ = p.alpha(t), p.alpha(m), p.alpha(s)
    e2 = e(transfer(x, e1, at, am), m)
    e3 = e(transfer(x, e2, at, am), m)
    e4 = e(transfer(x, e3, at, as_), s)
    return (e1 + 2 * e2 + 2 * e3 + e4) / 6


def plms(x: Any, nodes: Sequence[float], e: Evaluate, p: Process, every: bool = False) -> Any:
    """Algorithm 2: three pseudo Runge-Kutta steps (or all of them: `every`), then eq. 12."""
    history: list[Any] = []
    for t, s in pairs(nodes):
        history.append(e(x, t))
        if len(history) > 3 and not every:
            e1, e2, e3, e4 = history[:-5:-1]
            direction = (55 * e1 - 59 * e2 + 37 * e3 - 9 * e4) / 24
        elif s >= 0:
            direction = pseudo_runge_kutta(x, history[-1], t, s, e, p)
        else:
            direction = history[-1]
        x = transfer(x, direction, p.alpha(t), p.alpha(s))
    return x


def fon(x: Any, nodes: Sequence[float], e: Evaluate, p: Process) -> Any:
    """Three classical Runge-Kutta steps, then Adams-Bashforth 4, on eq. 10."""

    def f(x: Any, t: float) -> Any:
        a, da = p.alpha(t), p.alpha(t) * p.slope(t)
        return da * (x / (2 * a) - e(x, t) / (2 * a * mp.sqrt(1 - a)))

    history: list[Any] = []
    for t, s in pairs(nodes):
        h = mpf(s) - mpf(t)
        history.append(f(x, t))
        if len(history) > 3:
            f1, f2, f3, f4 = history[:-5:-1]
            x = x + h / 24 * (55 * f1 - 59 * f2 + 37 * f3 - 9 * f4)
        elif s >= 0:
            f1, m = history[-1], (t + s) / 2
            f2 = f(x + h / 2 * f1, m)
            f3 = f(x + h / 2 * f2, m)
            f4 = f(x + h * f3, s)
            x = x + h / 6 * (f1 + 2 * f2 + 2 * f3 + f4)
        else:
            x = x + h * history[-1]
    return x


def fon_released(x: Any, nodes: Sequence[float], e: Evaluate, p: Process) -> Any:
    """The same loop on unit differences: every stage takes φ(x, t→t−1) − x at the unmoved (x, t).

    ᾱ(t−1) is ᾱ(t) less one unit of its slope; for whole times those are the two table entries.
    """
    history: list[Any] = []
    for t, s in pairs(nodes):
        a, span = p.alpha(t), mpf(t) - mpf(s)
        below = min(a * mp.exp(-p.slope(t)), mpf(1))

        def difference(noise: Any, x: Any = x, a: Any = a, below: Any = below) -> Any:
            return transfer(x, noise, a, below) - x

        history.append(difference(e(x, t)))
        if len(history) > 3:
            d1, d2, d3, d4 = history[:-5:-1]
            direction = (55 * d1 - 59 * d2 + 37 * d3 - 9 * d4) / 24
        elif s >= 0:
            d1, m = history[-1], (t + s) / 2
            d2 = difference(e(x + d1 * span / 2, m))
            d3 = difference(e(x + d2 * span / 2, m))
            d4 = difference(e(x + d3 * span, s))
            direction = (d1 + 2 * d2 + 2 * d3 + d4) / 6
        else:
            direction = history[-1]
        x = x + direction * span
    return x


class Symbols:
    """A symbolic network: evaluation i returns the i-th unknown, and records its point.

    A state is the vector of its coefficients over (x_T, e_0 … e_{n−1}, z_0 … z_{n−1}).
    """

    def __init__(self, nfe: int) -> None:
        self.nfe, self.points, self.times = nfe, [], []

    def unit(self, i: int) -> np.ndarray:
        vector = np.array([mpf(0)] * (1 + 2 * self.nfe), dtype=object)
        vector[i] = mpf(1)
        return vector

    def evaluate(self, x: np.ndarray, t: float) -> np.ndarray:
        self.points.append(x)
        self.times.append(float(t))
        return self.unit(len(self.points))

    def noise(self, i: int) -> np.ndarray:
        return self.unit(1 + self.nfe + i)


class Counted:
    """A denoiser that records the times and batch sizes of its calls."""

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.denoiser, self.times, self.sizes = denoiser, [], []

    @property
    def calls(self) -> int:
        return len(self.times)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),) and (t == t[0]).all()
        self.times.append(t[0].item())
        self.sizes.append(len(x))
        return self.denoiser(x, t)


def mlp(size: int = 12, width: int = 16, seed: int = 0) -> Callable[[Tensor, Tensor], Tensor]:
    """A small random network in float64, smooth in x and t, its output of the size of noise."""
    draw = torch.Generator().manual_seed(seed)
    inward, outward = (
        torch.randn(*shape, generator=draw, dtype=torch.float64) / math.sqrt(shape[0])
        for shape in ((size, width), (width, size))
    )
    rates = torch.rand(width, generator=draw, dtype=torch.float64) * 0.01

    def network(x: Tensor, t: Tensor) -> Tensor:
        hidden = (x.flatten(1) @ inward.to(x) + (t.to(x)[:, None] * rates.to(x)).sin()).tanh()
        return (0.5 * x.flatten(1).tanh() + hidden @ outward.to(x)).view_as(x)

    return network


def unet(dtype: torch.dtype = torch.float64, seed: int = 0) -> UNet:
    """A tiny random U-Net on [B, 1, 8, 8]."""
    arch = Architecture(
        image_size=8,
        in_channels=1,
        channels=8,
        channel_mult=(1, 2),
        blocks=1,
        attention=(4,),
        norm_groups=4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(arch).to(dtype).eval().requires_grad_(False)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
