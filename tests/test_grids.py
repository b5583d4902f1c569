"""Grids: their formulas, their number of nodes at every N, and invalid grids."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from hypothesis import given
from hypothesis import strategies as st
from physics import CONVENTIONS, make

from pndm.grids import GRIDS, times
from pndm.schedules import SCHEDULES

pytestmark = pytest.mark.filterwarnings("ignore:grid=leading with one step:UserWarning")

THINNED = [*range(1, 41), 63, 64, 99, 100, 101, 250, 333, 500, 501, 750, 997, 998, 999, 1000]
CLOCKED = ("uniform_lambda", "karras")


def sound(grid, steps, schedule):
    """Exactly N nodes, descending, where the network was trained; then the image."""
    nodes = times(grid, steps, schedule)
    return (
        len(nodes) == steps + 1
        and all(t > s for t, s in pairwise(nodes))
        and nodes[0] <= schedule.timesteps - 1
        and nodes[-2] >= 0
        and nodes[-1] == -1
        and all(isinstance(t, float) for t in nodes)
    )


def combinations():
    for grid in GRIDS:
        for name in SCHEDULES:
            for convention in CONVENTIONS if name != "vp" else ("aligned",):
                if not (grid in CLOCKED and convention == "released"):
                    yield pytest.param(grid, name, convention, id=f"{grid}-{name}-{convention}")


@pytest.mark.parametrize(("grid", "name", "convention"), list(combinations()))
def test_exactly_n_nodes(grid, name, convention):
    schedule = make(name, convention)
    assert [n for n in THINNED if not sound(grid, n, schedule)] == []


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "name", "convention"), list(combinations()))
def test_exactly_n_nodes_at_every_n(grid, name, convention):
    schedule = make(name, convention)
    assert [n for n in range(1, 1001) if not sound(grid, n, schedule)] == []


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("timesteps", [1, 2, 7, 64])
def test_other_numbers_of_timesteps(grid, timesteps):
    schedule = make("linear", timesteps=timesteps)
    assert [n for n in range(1, timesteps + 1) if not sound(grid, n, schedule)] == []


@pytest.mark.parametrize("steps", [2, 10, 30, 37, 999, 1000])
def test_formulas(steps):
    linear = make("linear")

    def ascending(grid):
        return times(grid, steps, linear)[-2::-1]

    assert ascending("leading") == tuple(math.floor(i * 1000 / steps) for i in range(steps))
    assert ascending("linspace") == tuple(round(999 * i / (steps - 1)) for i in range(steps))
    assert ascending("trailing") == tuple(round(1000 * i / steps) - 1 for i in range(1, steps + 1))
    expected = [800 * i**2 / (steps - 1) ** 2 for i in range(steps)]
    assert ascending("quadratic") == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("grid", CLOCKED)
@pytest.mark.parametrize("steps", [2, 5, 50])
def test_clocked_grids_are_even_in_their_clock(name, grid, steps):
    schedule = make(name)
    rhos = [schedule.node(t).rho for t in times(grid, steps, schedule)[:-1]]
    clock = [math.log(rho) if grid == "uniform_lambda" else rho ** (1 / 7) for rho in rhos]
    gap = (clock[0] - clock[-1]) / (steps - 1)
    assert [a - b for a, b in pairwise(clock)] == pytest.approx([gap] * (steps - 1), rel=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_ends(grid):
    schedule = make("linear")
    nodes = times(grid, 10, schedule)
    first = {"leading": 900, "quadratic": 800}.get(grid, 999)
    last = {"trailing": 99}.get(grid, 0)
    assert (nodes[0], nodes[-2]) == (first, last)
    assert times(grid, 1, schedule) == (999, -1)


def test_one_leading_step_warns():
    with pytest.warns(UserWarning, match="starts at 999"):
        times("leading", 1, make("linear"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        times("leading", 2, make("linear"))


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500, 1000])
def test_grids_of_diffusers(spacing, steps):
    reference = DDIMScheduler(timestep_spacing=spacing)
    reference.set_timesteps(steps)
    assert times(spacing, steps, make("linear"))[:-1] == tuple(reference.timesteps.tolist())


def test_evaluations_of_diffusers_pndm():
    scheduler = PNDMScheduler(steps_offset=1)
    scheduler.set_timesteps(10)
    stops = [t + 1 for t in times("leading", 10, make("linear"))[:-1]]
    want = "901,851,851,801,801,751,751,701,701,651,651,601,601,501,401,301,201,101,1"
    assert scheduler.timesteps.tolist() == [int(t) for t in want.split(",")]
    assert stops == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]


@given(
    nodes=st.lists(st.floats(0, 999), min_size=1, max_size=20, unique=True),
    end=st.floats(-1, -1e-6),
)
def test_a_list_of_times_is_taken_as_it_is(nodes, end):
    nodes = [*sorted(nodes, reverse=True), end]
    assert times(nodes, None, make("linear")) == tuple(nodes)
    assert times(nodes, len(nodes) - 1, make("linear")) == tuple(nodes)
    assert times(torch.tensor(nodes, dtype=torch.float64), None, make("linear")) == tuple(nodes)


BAD = {
    "no steps": ("leading", 0, "from 1 to 1000"),
    "negative steps": ("leading", -5, "from 1 to 1000"),
    "too many steps": ("leading", 1001, "from 1 to 1000"),
    "a fraction": ("leading", 1.5, "from 1 to 1000"),
    "a whole float": ("leading", 10.0, "from 1 to 1000"),
    "a truth value": ("leading", True, "from 1 to 1000"),
    "a word": ("leading", "fifty", "from 1 to 1000"),
    "no number": ("leading", None, "from 1 to 1000"),
    "an unknown grid": ("foo", 10, "use leading, linspace"),
    "ascending": ([0, 500, 999], None, "strictly descending"),
    "unsorted": ([999, 0, 500, -1], None, "strictly descending"),
    "repeated": ([999, 500, 500, -1], None, "strictly descending"),
    "not a number": ([999, math.nan, -1], None, "strictly descending"),
    "too short": ([999], None, "two entries"),
    "empty": ([], None, "two entries"),
    "below the image": ([999, 500, -2], None, "outside"),
    "above the noise": ([1000, 500, -1], None, "outside"),
    "evaluated below 0": ([999, -0.5, -1], None, "below 0"),
    "no grid": (None, None, "a name or a list"),
    "another number of steps": ([999, 500, -1], 3, "times has 2"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("name", ["linear", "vp"])
def test_bad_grids_are_refused_in_one_line(case, name):
    grid, steps, cure = BAD[case]
    with pytest.raises(ValueError, match=cure) as error:
        times(grid, steps, make(name))
    assert "\n" not in str(error.value)


def test_numbers_and_lists_of_other_libraries():
    schedule = make("linear")
    assert times("leading", np.int64(7), schedule) == times("leading", 7, schedule)
    for kind in (np.array, torch.tensor):
        assert times(kind([999.0, 300.0, -1.0]), None, schedule) == (999, 300, -1)


@pytest.mark.parametrize("grid", CLOCKED)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_the_released_convention_refuses_clocks(grid, steps):
    with pytest.raises(ValueError, match="convention=aligned"):
        times(grid, steps, make("linear", "released"))


@pytest.mark.parametrize(
    "grid", [[None, 1], [[1], [0]], np.array(5.0), ["9", "-1"], [True, False]]
)
def test_what_is_no_list_of_times_is_refused(grid):
    with pytest.raises(ValueError, match="a name or a list of times"):
        times(grid, None, make("linear"))
