"""Analytic denoisers: exact e(x, t) of known distributions, for testing.

Each has the signature of a network, (x [B, ...], t [B]) -> e [B, ...], for x_t = √ᾱ·x_0 + √(1−ᾱ)·e
with x_0 from a known distribution; e(x, t) = E[e | x_t = x], the optimum of training. They compute
in float64 and return the dtype of x: where ᾱ is near 1, 1−ᾱ vanishes in half precision.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pndm.schedules import Schedule


def _alpha_bar(schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    """ᾱ at each of the times t [B], floored as plans floor it, [B, 1] float64.

    With the slope dᾱ/dt = ᾱ·d log ᾱ/dt where t has a gradient.
    """
    nodes = [schedule.node(s) for s in t.tolist()]
    numbers = torch.tensor([node[1:] for node in nodes], dtype=torch.float64, device=x.device)
    alpha_bar, slope = numbers.unbind(1)
    if t.requires_grad:
        alpha_bar = alpha_bar * (1 + slope * (t - t.detach()))
    return alpha_bar[:, None]


def _flat(x: Tensor) -> Tensor:
    """x [B, ...] as [B, D] float64."""
    return x.flatten(1).double()


@dataclass(frozen=True)
class Point:
    """All data is one point x* [...]: e = (x − √ᾱ·x*)/√(1−ᾱ), and every φ is exact."""

    schedule: Schedule
    point: Tensor

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        flat = _flat(x)
        a = _alpha_bar(self.schedule, x, t)
        noise = (flat - a.sqrt() * self.point.to(flat).flatten()) / (1 - a).sqrt()
        return noise.view(x.shape).to(x.dtype)


@dataclass(frozen=True)
class Gaussian:
    """Data N(μ, Σ): e = √(1−ᾱ)·(ᾱΣ + (1−ᾱ)I)⁻¹·(x − √ᾱμ).

    mean [D] and covariance [D, D] (or a number v for v·I) act on flattened images.
    """

    schedule: Schedule
    mean: Tensor
    covariance: Tensor | float

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        flat = _flat(x)
        values, vectors = self._spectrum(flat)
        a = _alpha_bar(self.schedule, x, t)
        centred = (flat - a.sqrt() * self.mean.to(flat).flatten()) @ vectors
        noise = (1 - a).sqrt() * centred / (a * values + 1 - a) @ vectors.T
        return noise.view(x.shape).to(x.dtype)

    def exact(self, x: Tensor, t: float, s: float) -> Tensor:
        """The exact solution of the ODE from time t to s, x [B, ...]: each eigendirection scales.

        x_s − √ᾱ_sμ = V·√((ᾱ_sΛ + 1−ᾱ_s)/(ᾱ_tΛ + 1−ᾱ_t))·Vᵀ·(x_t − √ᾱ_tμ).
        """
        flat = _flat(x)
        values, vectors = self._spectrum(flat)
        a, b = self.schedule.node(t).alpha_bar, self.schedule.node(s).alpha_bar
        scale = ((b * values + 1 - b) / (a * values + 1 - a)).sqrt()
        mean = self.mean.to(flat).flatten()
        centred = (flat - math.sqrt(a) * mean) @ vectors
        solution = math.sqrt(b) * mean + centred * scale @ vectors.T
        return solution.view(x.shape).to(x.dtype)

    def _spectrum(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.covariance, Tensor):
            return tuple(torch.linalg.eigh(self.covariance.to(flat)))  # type: ignore[return-value]
        size = flat.shape[1]
        eye = torch.eye(size, dtype=flat.dtype, device=flat.device)
        return flat.new_full((size,), float(self.covariance)), eye


@dataclass(frozen=True)
class Mixture:
    """Data Σ_k w_k·N(μ_k, v_k·I): e is the mean of the components' e under their posterior.

    means [K, D], variances [K] and weights [K] (positive, normalised to sum 1).
    """

    schedule: Schedule
    means: Tensor
    variances: Tensor
    weights: Tensor

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        flat = _flat(x)
        a = _alpha_bar(self.schedule, x, t)[:, :, None]
        total = a[:, 0] * self.variances.to(flat) + 1 - a[:, 0]  # [B, K], of x_t in component k
        centred = flat[:, None] - a.sqrt() * self.means.to(flat)  # [B, K, D]
        log_likelihood = -0.5 * (
            centred.square().sum(2) / total + flat.shape[1] * torch.log(total)
        )
        posterior = (log_likelihood + self.weights.to(flat).log()).softmax(1)
        scaled = centred * (posterior / total)[:, :, None]
        return ((1 - a[:, 0]).sqrt() * scaled.sum(1)).view(x.shape).to(x.dtype)
