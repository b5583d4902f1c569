"""A Gaussian mixture whose probability flow is known: the errors and orders of methods."""

import math

import numpy as np
import torch
from physics import Counted, normal
from scipy.integrate import solve_ivp

import pndm
from pndm.models.analytic import Mixture
from pndm.schedules import vp
from pndm.solvers import SOLVERS

START, END = 990.0, 50.0
MEANS = np.array([[-0.6, 0.3], [0.5, -0.2], [0.2, 0.7]])
VARIANCES = np.array([0.2, 0.3, 0.25])
WEIGHTS = np.array([0.3, 0.4, 0.3])
MIXTURE = Mixture(vp(), *map(torch.from_numpy, (MEANS, VARIANCES, WEIGHTS)))
IMAGES = normal(8, 2)


def slope(t, flat):
    """dx/dt = ½·(log ᾱ)'·(x + ∇ log p_t(x)), the score summed over the components."""
    s = (t + 1) / 1000
    rate = -(1e-4 + (0.02 - 1e-4) * s)
    a = math.exp(-1000 * (1e-4 * s + (0.02 - 1e-4) / 2 * s**2))
    x = flat.reshape(-1, 1, 2)
    spread = a * VARIANCES + 1 - a
    away = x - math.sqrt(a) * MEANS
    log_weight = np.log(WEIGHTS) - (away**2).sum(2) / (2 * spread) - np.log(spread)
    weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    score = -(away * (weight / spread)[:, :, None]).sum(1)
    return 0.5 * rate * (flat + score.ravel())


def integrated(tolerance):
    solution = solve_ivp(
        slope, (START, END), IMAGES.numpy().ravel(), "DOP853", rtol=tolerance, atol=tolerance
    )
    return torch.from_numpy(solution.y[:, -1]).view_as(IMAGES)


def rms(x):
    return x.square().mean().sqrt().item()


def errors(name, counts, exact):
    result = []
    for steps in counts:
        nodes = np.linspace(START, END, steps + 1)
        counted = Counted(MIXTURE)
        x = pndm.sample(counted, IMAGES, solver=SOLVERS[name](), schedule=vp(), grid=nodes)
        assert counted.calls == pndm.plan(SOLVERS[name](), vp(), grid=nodes).nfe
        assert min(counted.times) >= END
        result.append(rms(x - exact))
    return result


def order(counts, found):
    return -np.polyfit(np.log(counts), np.log(found), 1)[0]
