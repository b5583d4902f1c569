"""Orders of convergence on a Gaussian mixture, by regression of log error on log step.

The schedule is the smooth `vp`, the nodes are even in t from 990 to 50 and the reference is
DOP853 on eq. 10, written here; what it is worth is asserted before it is used.
"""

import pytest
from mixture import errors, integrated, order, rms

FINE, COARSE = (320, 400, 480), (80, 160, 320)
EXPECTED = {  # order, its tolerance, the steps of the regression
    "ddim": (1, 0.1, FINE),
    "s_pndm": (2, 0.15, FINE),
    "plms": (2, 0.15, FINE),
    "prk": (2, 0.15, FINE),
    "fon": (4, 0.3, COARSE),
}


@pytest.fixture(scope="module")
def reference():
    """The end of every trajectory, and the error that it may have itself."""
    best = integrated(1e-13)
    return best, max(rms(best - integrated(1e-12)), rms(best - integrated(3e-13)), 1e-14)


@pytest.mark.parametrize("name", EXPECTED)
def test_order(name, reference):
    expected, tolerance, counts = EXPECTED[name]
    exact, uncertain = reference
    result = errors(name, counts, exact)
    assert uncertain <= 0.01 * min(result)
    assert result == sorted(result, reverse=True)
    assert order(counts, result) == pytest.approx(expected, abs=tolerance)


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
    result = errors(name, counts, reference[0])
    assert reference[1] <= 0.01 * min(result)
    assert order(counts, result) == pytest.approx(EXPECTED[name][0], abs=0.03)
