"""Schedules against products of 1−β in 40 digits, their definitions, and their own inverses."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp
from physics import CONVENTIONS, Process, alpha_bars, make

import pndm
from pndm import schedules, solvers
from pndm._errors import InputError
from pndm.schedules import MIN_ALPHA_BAR, SCHEDULES, from_betas

TABLES = [name for name in SCHEDULES if name != "vp"]
whole = st.integers(0, 999)
real = st.floats(-1, 999)


@pytest.mark.parametrize("name", TABLES)
def test_table_is_the_product_of_one_minus_beta(name):
    schedule = make(name)
    worst = max(abs(mp.log(a) - schedule.log_alpha_bar(t)) for t, a in enumerate(alpha_bars(name)))
    assert worst < 1e-12
    assert schedule.alpha_bar(-1) == 1


@pytest.mark.parametrize(
    ("name", "theirs", "ends"),
    [
        ("linear", "linear", (1e-4, 0.02)),
        ("scaled_linear", "scaled_linear", (0.00085, 0.012)),
        ("cosine", "squaredcos_cap_v2", (1e-4, 0.02)),
    ],
)
def test_table_is_the_one_that_diffusers_makes(name, theirs, ends):
    table = DDPMScheduler(beta_schedule=theirs, beta_start=ends[0], beta_end=ends[1])
    ours = torch.tensor([make(name).alpha_bar(t) for t in range(1000)])
    torch.testing.assert_close(ours, table.alphas_cumprod, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_alpha_bar_falls_from_the_image_to_noise(name, convention):
    schedule = make(name, convention)
    values = [schedule.alpha_bar(t) for t in range(-1, 1000)]
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < 0.005 and values[0] <= 1
    assert (values[0] == 1) == (convention == "aligned" or name == "vp")


@given(t=real, name=st.sampled_from(TABLES), convention=st.sampled_from(CONVENTIONS))
def test_alpha_bar_at_real_times(t, name, convention):
    expected = mp.log(Process(name, convention).unfloored(t))
    assert math.isclose(make(name, convention).log_alpha_bar(t), expected, abs_tol=1e-12)


def test_conventions_at_their_ends():
    table = [make("linear").alpha_bar(t) for t in range(1000)]
    released, reference = make("linear", "released"), make("linear", "diffusers")
    assert [released.alpha_bar(t) for t in (-1, 0, 0.9, 1, 998, 998.5, 999)] == [
        table[i] for i in (0, 1, 1, 2, 999, 999, 999)
    ]
    assert [reference.alpha_bar(t) for t in (-1, -0.5, 0, 999)] == [
        table[i] for i in (0, 0, 0, 999)
    ]


@given(t=real)
def test_vp_has_its_closed_form_and_slope(t):
    schedule, process = make("vp"), Process("vp")
    assert math.isclose(schedule.log_alpha_bar(t), mp.log(process.unfloored(t)), abs_tol=1e-13)
    inside = min(max(t, -0.9), 998.9)
    finite = (schedule.log_alpha_bar(inside + 0.05) - schedule.log_alpha_bar(inside - 0.05)) / 0.1
    assert math.isclose(schedule.dlog_alpha_bar(inside), finite, abs_tol=1e-11)


def test_vp_is_what_linear_discretises():
    """Σ log(1−β) against the integral of β."""
    linear, vp = make("linear"), make("vp")
    for t in (99, 499, 999):
        assert math.isclose(linear.log_alpha_bar(t), vp.log_alpha_bar(t), rel_tol=0.012)


@given(t=real, name=st.sampled_from(TABLES), convention=st.sampled_from(["aligned", "diffusers"]))
def test_slope_of_a_table_is_the_one_on_the_left(t, name, convention):
    schedule = make(name, convention)
    left = math.ceil(t) - 1
    slope = schedule.dlog_alpha_bar(t)
    assert slope <= 0
    if left >= -1:
        run = t - left
        rise = schedule.log_alpha_bar(t) - schedule.log_alpha_bar(left)
        assert math.isclose(rise, slope * run, abs_tol=1e-12)


@given(t=real, name=st.sampled_from(list(SCHEDULES)))
def test_time_at_inverts(t, name):
    schedule = make(name)
    assert math.isclose(schedule.time_at(schedule.log_alpha_bar(t)), t, abs_tol=1e-7)


@given(t=st.floats(0, 999))
def test_time_at_inverts_in_the_diffusers_convention(t):
    schedule = make("linear", "diffusers")
    assert math.isclose(schedule.time_at(schedule.log_alpha_bar(t)), t, abs_tol=1e-7)


def test_the_released_staircase_has_no_inverse():
    with pytest.raises(ValueError, match="convention=aligned"):
        make("linear", "released").time_at(-1.0)


@pytest.mark.parametrize("convention", ["aligned", "diffusers"])
@pytest.mark.parametrize("log_alpha_bar", [0.1, -50.0])
def test_time_at_refuses_what_is_outside(log_alpha_bar, convention):
    with pytest.raises(ValueError, match="outside"):
        make("linear", convention).time_at(log_alpha_bar)


def test_floor_holds_in_aligned_plans_alone():
    cosine = make("cosine")
    assert cosine.alpha_bar(999) < 1e-8
    assert cosine.node(999).alpha_bar == MIN_ALPHA_BAR and cosine.node(999).slope == 0
    assert make("cosine", min_alpha_bar=0).node(999).alpha_bar == cosine.alpha_bar(999)
    for convention in ("released", "diffusers"):
        assert make("cosine", convention).node(999).alpha_bar < 1e-7
    linear = make("linear")
    assert linear.node(999).alpha_bar == linear.alpha_bar(999) > MIN_ALPHA_BAR
    assert linear.node(10.5).slope == linear.dlog_alpha_bar(10.5)


def test_rho_of_a_node():
    node = make("linear").node(500)
    assert math.isclose(node.rho**2, (1 - node.alpha_bar) / node.alpha_bar, rel_tol=1e-15)
    assert make("linear").node(-1).rho == 0


def test_cosine_of_4000_steps_thinned_is_that_of_1000():
    """ᾱ₁₀₀₀[j] = ᾱ₄₀₀₀[4j+3] until the last β are cut at 0.999."""
    long, short = schedules.cosine(timesteps=4000), schedules.cosine(timesteps=1000)
    for j in range(990):
        assert math.isclose(
            long.log_alpha_bar(4 * j + 3), short.log_alpha_bar(j), abs_tol=1e-10, rel_tol=1e-10
        )


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_values(name):
    factory = SCHEDULES[name]
    assert factory() == factory() and hash(factory()) == hash(factory())
    assert factory() != factory(timesteps=500) and factory().name == name
    assert factory(timesteps=50).alpha_bar(49) < 1
    with pytest.raises(AttributeError):
        factory().timesteps = 3


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [-1.001, 999.001, math.nan, math.inf])
def test_times_outside_are_refused(name, t):
    for ask in (make(name).alpha_bar, make(name).dlog_alpha_bar, make(name).node):
        with pytest.raises(ValueError, match="is outside"):
            ask(t)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: from_betas("x", []),
        lambda: from_betas("x", [0.1, 0.0]),
        lambda: from_betas("x", [0.1, 1.0]),
        lambda: from_betas("x", [0.1, math.nan]),
        lambda: schedules.linear(convention="aligend"),
        lambda: schedules.linear(min_alpha_bar=1.0),
        lambda: schedules.linear(min_alpha_bar=-0.1),
        lambda: schedules.linear(min_alpha_bar="x"),
        lambda: schedules.linear(beta_start="x"),
        lambda: from_betas("x", ["0.1"]),
        lambda: schedules.linear(timesteps=0),
        lambda: schedules.vp(timesteps=0),
        lambda: schedules.vp(min_alpha_bar=2),
        lambda: schedules.vp(beta_start=-1.0),
        lambda: schedules.vp(beta_end=math.nan),
    ],
)
def test_bad_parameters_are_refused_in_one_line(bad):
    with pytest.raises(ValueError) as error:
        bad()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("timesteps", [0, -1, 10.5])
def test_a_number_of_times_is_whole(name, timesteps):
    with pytest.raises(ValueError, match="must be a whole number from 1"):
        SCHEDULES[name](timesteps=timesteps)


@pytest.mark.parametrize("name", ["linear", "quad", "scaled_linear", "vp"])
def test_ends_of_beta_are_refused_by_value(name):
    for ends in ({"beta_start": -1.0}, {"beta_end": 1.0}):
        with pytest.raises(ValueError, match="strictly between 0 and 1, not"):
            SCHEDULES[name](**ends)


@pytest.mark.parametrize("solver", [solvers.ddim(), solvers.plms(), solvers.fon(), solvers.deis()])
@pytest.mark.parametrize(
    ("schedule", "grid", "said"),
    [
        (schedules.linear(1000, 0.5, 0.9, "diffusers"), "leading", "at time 900.* smaller betas"),
        (schedules.linear(1000, 0.5, 0.9, "released"), "trailing", "at time 999.* smaller betas"),
        (schedules.linear(beta_end=0.9, min_alpha_bar=0), [999, 500, 0, -1], "or a min_alpha_bar"),
        (schedules.vp(1000, 0.5, 0.99, min_alpha_bar=0), "karras", "at time 999.* smaller betas"),
        (schedules.linear(beta_start=1e-18), "leading", "ᾱ = 1 at time 0, .* larger betas"),
        (schedules.linear(beta_start=1e-18), "uniform_lambda", "ᾱ = 1 at time 0, "),
    ],
)
def test_a_schedule_without_signal_or_noise_is_refused(schedule, grid, said, solver):
    with pytest.raises(InputError, match=said) as error:
        pndm.plan(solver, schedule, None if isinstance(grid, list) else 10, grid)
    assert "\n" not in str(error.value)
