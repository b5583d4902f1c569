"""Orders of convergence on a Gaussian mixture, by regression of log error on log step.

The schedule is the smooth `vp`, the nodes are even in t from 990 to 50 and the reference is
DOP853 on eq. 10, written here; what it is worth is asserted before it is used.
"""

import math

import numpy as np
import pytest
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

FINE, COARSE = (320, 400, 480), (80, 160, 320)
EXPECTED = {  # order, its tolerance, the steps of the regression
    "ddim": (1, 0.1, FINE),
    "s_pndm": (2, 0.15, FINE),
    "plms": (2, 0.15, FINE),
    "prk": (2, 0.15, FINE),
    "fon": (4, 0.3, COARSE),
}


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


@pytest.fixture(scope="module")
def reference():
    """The end of every trajectory, and the error that it may have itself."""
    best = integrated(1e-13)
    return best, max(rms(best - integrated(1e-12)), rms(best - integrated(3e-13)), 1e-14)


def errors(name, counts, exact):
    found = []
    for steps in counts:
        nodes = np.linspace(START, END, steps + 1)
        counted = Counted(MIXTURE)
        x = pndm.sample(counted, IMAGES, solver=SOLVERS[name](), schedule=vp(), grid=nodes)
        assert counted.calls == pndm.plan(SOLVERS[name](), vp(), grid=nodes).nfe
        assert min(counted.times) >= END
        found.append(rms(x - exact))
    return found


def order(counts, found):
    return -np.polyfit(np.log(counts), np.log(found), 1)[0]


@pytest.mark.parametrize("name", EXPECTED)
def test_order(name, reference):
    expected, tolerance, counts = EXPECTED[name]
    exact, uncertain = reference
    found = errors(name, counts, exact)
    assert uncertain <= 0.01 * min(found)
    assert found == sorted(found, reverse=True)
    assert order(counts, found) == pytest.approx(expected, abs=tolerance)


def test_reference_and_fon_meet(reference):
    """Two integrators that share no line agree to 1e-8."""
    assert errors("fon", (400,), reference[0])[0] < 2e-8


def test_plms_wins_over_s_pndm_over_ddim(reference):
    at_40 = [errors(name, (40,), reference[0])[0] for name in ("plms", "s_pndm", "ddim")]
    assert at_40 == sorted(at_40)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddim", "s_pndm", "plms", "prk"])
def test_order_stays(name, reference):
    """Further into the asymptote the order does not drift."""
    counts = (640, 1280, 2560)
    found = errors(name, counts, reference[0])
    assert reference[1] <= 0.01 * min(found)
    assert order(counts, found) == pytest.approx(EXPECTED[name][0], abs=0.03)
