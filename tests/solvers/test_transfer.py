"""The transfer part: φ composes, inverts, is Euler's method in ρ, and exact for the true noise."""

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mpmath import mp, mpf
from physics import Process, make, transfer

from pndm.schedules import Node
from pndm.solvers.transfer import (
    Ancestral,
    Classical,
    Pseudo,
    ReleasedClassical,
    phi,
    posterior_deviation,
)

levels = st.floats(4e-5, 0.9999)
numbers = st.floats(-3, 3)


def rho(a: float) -> float:
    return math.sqrt((1 - a) / a)


def near(got: float, want: float, tolerance: float = 1e-12) -> bool:
    return abs(got - want) <= tolerance * max(1, abs(want))


@given(levels, levels | st.just(1.0))
def test_phi_is_equation_11(a, b):
    scale, gain = phi(a, b)
    assert near(scale, transfer(mpf(1), mpf(0), mpf(a), mpf(b)))
    assert near(gain, transfer(mpf(0), mpf(1), mpf(a), mpf(b)))


@given(levels, levels, levels, numbers, numbers)
def test_phi_composes(a, b, c, x, e):
    (s1, g1), (s2, g2), (s, g) = phi(a, b), phi(b, c), phi(a, c)
    through, size = s2 * (s1 * x + g1 * e) + g2 * e, abs(s2) * (abs(s1) + abs(g1)) + abs(g2)
    assert abs(through - (s * x + g * e)) < 1e-12 * max(1, size)


@given(levels, levels, numbers, numbers)
def test_phi_inverts(a, b, x, e):
    (s1, g1), (s2, g2) = phi(a, b), phi(b, a)
    assert abs(s2 * (s1 * x + g1 * e) + g2 * e - x) < 1e-12 * max(1, abs(s2 * g1), abs(s1 * s2))


@given(levels, levels | st.just(1.0), numbers, numbers)
def test_phi_is_euler_in_rho(a, b, x, e):
    """x̃ = x/√ᾱ moves by (ρ_s − ρ_t)·e."""
    scale, gain = phi(a, b)
    euler = math.sqrt(b) * (x / math.sqrt(a) + (rho(b) - rho(a)) * e)
    size = max(1.0, abs(x) * math.sqrt(b / a), math.sqrt(b) * max(rho(a), rho(b)) * abs(e))
    # 1−ᾱ itself carries a rounding error of 1e-16, which its root blows up near the image
    slack = 1e-16 / math.sqrt(1 - max(a, min(b, 0.9999)))
    assert abs(scale * x + gain * e - euler) <= (1e-14 + 4 * slack) * size


@pytest.mark.parametrize("name", ["linear", "cosine", "quad", "scaled_linear", "vp"])
def test_phi_is_euler_in_rho_on_every_step_of_a_schedule(name):
    schedule = make(name)
    nodes = [schedule.node(t) for t in range(999, -2, -1)]
    for t, s in pairwise(nodes):
        scale, gain = phi(t.alpha_bar, s.alpha_bar)
        assert abs(scale - math.sqrt(s.alpha_bar / t.alpha_bar)) < 1e-14
        assert abs(gain - math.sqrt(s.alpha_bar) * (s.rho - t.rho)) < 1e-14


@given(levels, levels | st.just(1.0), numbers, numbers)
def test_phi_is_exact_for_the_true_noise(a, b, x0, e):
    """Property 3.1: √ᾱ_t·x_0 + √(1−ᾱ_t)·e goes to √ᾱ_s·x_0 + √(1−ᾱ_s)·e."""
    scale, gain = phi(a, b)
    x = math.sqrt(a) * x0 + math.sqrt(1 - a) * e
    exact = math.sqrt(b) * x0 + math.sqrt(1 - b) * e
    assert abs(scale * x + gain * e - exact) < 1e-12 * max(1, scale)


@given(levels | st.just(1.0))
def test_phi_to_where_it_stands_is_nothing(a):
    assert phi(a, a) == (1.0, 0.0)


def node(t: float, a: float, slope: float = -0.01) -> Node:
    return Node(t, a, slope)


@given(levels, levels, st.floats(0, 1))
def test_ddim_with_eta(a, b, eta):
    """Song et al. 2021, eqs. 12 and 16, in 40 digits."""
    assume(1 - a / b > 1e-4)
    move = Pseudo(eta).move(node(500, a), node(400, b))
    a, b = mpf(a), mpf(b)
    sigma = eta * mp.sqrt((1 - b) / (1 - a)) * mp.sqrt(1 - a / b)
    along = mp.sqrt(1 - b - sigma**2) - mp.sqrt(b / a) * mp.sqrt(1 - a)
    assert near(move.scale, mp.sqrt(b / a))
    assert near(move.gain, along)
    assert near(move.noise, sigma)


@given(levels, levels, numbers, numbers, st.floats(0, 1))
def test_ddim_keeps_the_marginals_for_every_eta(a, b, x0, e, eta):
    """With the true noise the mean stays √ᾱ_s·x_0 and the variances add up to 1−ᾱ_s."""
    assume(a < b - 1e-6)
    move = Pseudo(eta).move(node(500, a), node(400, b))
    signal = move.scale * math.sqrt(a)
    noise = move.scale * math.sqrt(1 - a) + move.gain
    assert near(signal, math.sqrt(b))
    assert abs(noise**2 + move.noise**2 - (1 - b)) < 1e-10


@given(levels, levels)
def test_eta_1_is_ddpm_with_the_small_variance(a, b):
    assume(a < b - 1e-6)
    t, s = node(500, a), node(400, b)
    ddim, ddpm, keep = Pseudo(1.0).move(t, s), Ancestral().move(t, s), Ancestral().keep(t, t)
    assert near(ddpm.scale + ddpm.gain * keep.u, ddim.scale, 1e-10)
    assert near(ddpm.gain * keep.v, ddim.gain, 1e-9)
    assert near(ddpm.noise, ddim.noise)


@given(levels, levels, st.sampled_from(["small", "large"]))
def test_ddpm_posterior(a, b, variance):
    """q(x_s | x_t, x_0) by Bayes' rule from q(x_t | x_s) and q(x_s | x_0), in 40 digits."""
    assume(1 - a / b > 1e-4)
    transfer_part = Ancestral(variance)
    here = node(500, a)
    move, keep = transfer_part.move(here, node(400, b)), transfer_part.keep(here, here)
    a, b = mpf(a), mpf(b)
    step = a / b  # x_t = √step·x_s + √(1−step)·noise
    precision = 1 / (1 - b) + step / (1 - step)
    assert near(move.gain, mp.sqrt(b) / (1 - b) / precision)
    assert near(move.scale, mp.sqrt(step) / (1 - step) / precision)
    spread = mp.sqrt(1 - step) if variance == "large" else mp.sqrt(1 / precision)
    assert near(move.noise, spread)
    assert near(keep.u, 1 / mp.sqrt(a)) and near(keep.v, -mp.sqrt((1 - a) / a)) and keep.b == 0


@pytest.mark.parametrize("part", [Pseudo(1.0), Ancestral("small"), Ancestral("large")])
def test_no_noise_in_the_last_step(part):
    move = part.move(node(10, 0.9), node(-1, 1.0))
    assert move.noise == 0
    keep = part.keep(node(10, 0.9), node(10, 0.9))
    x0 = (1 / math.sqrt(0.9), -math.sqrt(0.1 / 0.9))
    assert near(move.scale + move.gain * keep.u, x0[0]) and near(move.gain * keep.v, x0[1])


@pytest.mark.parametrize("name", ["linear", "vp"])
@given(t=st.floats(1, 998), x=numbers, e=numbers)
def test_classical_direction_is_equation_10(name, t, x, e):
    here, p = make(name).node(t), Process(name)
    keep, move = Classical().keep(here, here), Classical().move(here, make(name).node(t - 1))
    a, da = p.alpha(t), p.alpha(t) * p.slope(t)
    assert near(keep.u * x + keep.v * e, da * (x / (2 * a) - e / (2 * a * mp.sqrt(1 - a))))
    assert move == (1.0, (t - 1) - t, 0.0)


@given(levels, numbers)
def test_a_small_phi_step_goes_along_equation_10(a, x):
    """(φ(x, t→t−δ) − x)/δ tends to −dx/dt."""
    e, slope, delta = 0.7, -0.01, 1e-5
    keep = Classical().keep(node(500, a, slope), node(500, a, slope))
    after = a * math.exp(-slope * delta)
    assume(after < 1)
    scale, gain = phi(a, after)
    quotient = (scale * x + gain * e - x) / delta
    slack = 1e-5 * max(1.0, abs(keep.v) / (1 - after))
    assert abs(quotient + keep.u * x + keep.v * e) < slack


@pytest.mark.parametrize("convention", ["aligned", "released", "diffusers"])
@pytest.mark.parametrize("t", [999, 500, 7, 1, 0])
def test_released_fon_differences_over_one_unit_of_time(convention, t):
    schedule, p = make("linear", convention), Process("linear", convention)
    part, here = ReleasedClassical(), schedule.node(t)
    below = p.knot(t - 1)
    keep, stage = part.keep(here, here), part.keep(schedule.node(max(t - 0.5, 0)), here)
    assert near(keep.u, transfer(mpf(1), mpf(0), p.alpha(t), below) - 1)
    assert near(keep.v, transfer(mpf(0), mpf(1), p.alpha(t), below)) and keep.b == 0
    if t:
        assert (stage.u, stage.v, stage.b) == (0.0, keep.v, keep.u)
    assert part.move(here, schedule.node(-1)) == (1.0, t + 1, 0.0)


def test_deviation_of_the_posterior():
    got = posterior_deviation(node(2, 0.3), node(1, 0.5))
    assert math.isclose(got**2, 0.5 / 0.7 * (1 - 0.3 / 0.5), rel_tol=1e-14)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Pseudo(-0.1),
        lambda: Pseudo(1.1),
        lambda: Pseudo(math.nan),
        lambda: Ancestral("medium"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(bad):
    with pytest.raises(ValueError, match="must") as error:
        bad()
    assert "\n" not in str(error.value)
