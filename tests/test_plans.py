"""Plans against the paper's algorithms run on symbols: every coefficient of every evaluation.

A plan is executed with x_T, the network's answers and the noises as independent unknowns; so each
point where the network is asked, and the result, is a vector of coefficients. The algorithms of
`physics` do the same in 40 digits.
"""

import random
from itertools import pairwise

import numpy as np
import physics
import pytest
import torch
from physics import CONVENTIONS, Process, Symbols, make

import pndm
from pndm import plans
from pndm.grids import GRIDS, times
from pndm.schedules import SCHEDULES
from pndm.solvers import SOLVERS, Solver
from pndm.solvers.gradient import AB2, AB3, AB4, EULER, IMPROVED_EULER, RK4
from pndm.solvers.transfer import Ancestral, Pseudo

pytestmark = pytest.mark.filterwarnings("ignore:grid=leading with one step:UserWarning")

FIXED = [name for name, factory in SOLVERS.items() if isinstance(factory(), Solver)]
CLOCKED = ("uniform_lambda", "karras")
PLACES = [
    (grid, convention)
    for grid in GRIDS
    for convention in CONVENTIONS
    if not (grid in CLOCKED and convention == "released")
]


def reference(kind, x, nodes, evaluate, process, noise):
    match kind:
        case "ddim":
            return physics.ddim(x, nodes, evaluate, process, 0, noise)
        case "ddim_eta":
            return physics.ddim(x, nodes, evaluate, process, 0.6, noise)
        case "ddpm_small" | "ddpm_large":
            return physics.ddpm(x, nodes, evaluate, process, kind[5:], noise)
        case "prk":
            return physics.plms(x, nodes, evaluate, process, every=True)
        case _:
            return getattr(physics, kind)(x, nodes, evaluate, process)


KINDS = {
    "ddim": pndm.solvers.ddim(),
    "ddim_eta": pndm.solvers.ddim(eta=0.6),
    "ddpm_small": pndm.solvers.ddpm(clip=False),
    "ddpm_large": pndm.solvers.ddpm("large", clip=False),
    "s_pndm": pndm.solvers.s_pndm(),
    "plms": pndm.solvers.plms(),
    "prk": pndm.solvers.prk(),
    "fon": pndm.solvers.fon(),
    "fon_released": pndm.solvers.fon_released(),
}


def executed(solver, schedule, steps, grid):
    """The evaluation points [nfe, D] of a plan, and its result [D], over the unknowns."""
    nfe = pndm.plan(solver, schedule, steps, grid).nfe
    eye = torch.eye(1 + 2 * nfe, dtype=torch.float64)
    points = []

    def network(x, t):
        points.append(x[0].numpy())
        return eye[len(points)][None]

    x = pndm.sample(
        network,
        eye[:1],
        solver=solver,
        schedule=schedule,
        steps=steps,
        grid=grid,
        noise=lambda row: eye[1 + nfe + row][None],
    )
    return np.stack(points), x[0].numpy()


def worst_difference(kind, name, convention, grid, steps):
    """Largest difference of a coefficient, relative to it where it is above 1."""
    schedule, process, solver = make(name, convention), Process(name, convention), KINDS[kind]
    points, last = executed(solver, schedule, steps, grid)
    symbols = Symbols(len(points))
    nodes = times(grid, steps, schedule)
    want = reference(kind, symbols.unit(0), nodes, symbols.evaluate, process, symbols.noise)
    plan = pndm.plan(solver, schedule, steps, grid)
    assert plan.times == pytest.approx(symbols.times, abs=1e-12)
    got = np.vstack([points, last]).astype(object)
    want = np.vstack([*symbols.points, want])
    return float(
        max(abs(g - w) / max(1, abs(w)) for g, w in zip(got.flat, want.flat, strict=True))
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 30])
def test_coefficients(kind, convention, steps):
    assert worst_difference(kind, "linear", convention, "leading", steps) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "linear"])
def test_coefficients_on_every_schedule(kind, name):
    assert worst_difference(kind, name, "aligned", "linspace", 7) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [*GRIDS, (990.0, 700.5, 400.25, 200.0, 120.0, 50.0)], ids=str)
def test_coefficients_on_every_grid(kind, grid):
    steps = 7 if isinstance(grid, str) else None
    assert worst_difference(kind, "linear", "aligned", grid, steps) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [8, 50, 110])
def test_coefficients_at_more_steps(kind, name, convention, steps):
    if kind == "prk" and steps > 50:
        steps = 50
    assert worst_difference(kind, name, convention, "leading", steps) < 1e-12


def broken(plan):
    """Why a plan is not sound, or None."""
    nodes = [node.time for node in plan.nodes]
    steps = len(nodes) - 1
    if [row.ends for row in plan.rows if row.ends is not None] != list(range(1, steps + 1)):
        return "not one row that ends each step"
    if min(plan.times) < 0:
        return "evaluated below 0"
    kept, step, most = set(), 0, 0
    for i, row in enumerate(plan.rows):
        t, s = nodes[step], nodes[step + 1]
        begins = i == 0 or plan.rows[i - 1].ends is not None
        if row.time != t if begins else not s <= row.time <= t:
            return f"row {i} is evaluated at {row.time} in the step from {t} to {s}"
        kept.add(i)
        if not {used for used, _ in (*row.base.terms, *row.point.terms)} <= kept:
            return f"row {i} uses what was forgotten"
        most = max(most, len(kept))
        kept -= set(row.drop)
        if row.ends is None and (row.base != plans.STAY or row.noise):
            return f"row {i} moves the base inside its step"
        step += row.ends is not None
    if kept:
        return "something is never forgotten"
    return f"{most} kept at once" if most > 7 else None


def unsound(name, grid, convention, steps):
    schedule, solver = make("linear", convention), SOLVERS[name]()
    plan = plans._compile.__wrapped__(solver, schedule, times(grid, steps, schedule))
    if (plan.steps, plan.nfe) != (steps, solver.nfe(steps)):
        return f"{plan.steps} steps and {plan.nfe} evaluations, declared {solver.nfe(steps)}"
    return broken(plan)


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize(("grid", "convention"), PLACES)
def test_sound(name, grid, convention):
    """Exactly N steps, each starting at its own node, the declared evaluations, O(order)."""
    some = [1, 2, 3, 4, 5, 6, 9, 27, 36]
    assert {n: why for n in some if (why := unsound(name, grid, convention, n))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FIXED if name != "f_pndm"])
def test_sound_at_every_number_of_steps(name):
    """Every N to 100, and to 1000 one of nine, other ones for the next solver.

    Above 40 on one of the grids and conventions, drawn anew for each N.
    """
    bad = {}
    for n in (*range(1, 101), *range(101 + FIXED.index(name) % 9, 1000, 9), 1000):
        places = PLACES if n <= 40 else random.Random(f"{name} {n}").sample(PLACES, 1)
        for grid, convention in places:
            if why := unsound(name, grid, convention, n):
                bad[n, grid, convention] = why
    assert bad == {}


def test_list_that_ends_above_the_image_takes_full_steps():
    grid = [990, 700, 400, 200, 50]
    for name, nfe in {"ddim": 4, "s_pndm": 5, "plms": 13, "prk": 16, "fon": 13}.items():
        assert pndm.plan(SOLVERS[name](), make("vp"), grid=grid).nfe == nfe


def test_plans_are_cached_values():
    solver, schedule = SOLVERS["plms"](), make("linear")
    plan = pndm.plan(solver, schedule, 10)
    assert pndm.plan(SOLVERS["plms"](), make("linear"), 10) is plan
    assert pndm.plan(solver, schedule, grid=[*range(900, -1, -100), -1]) is plan
    assert hash(plan) == hash(pndm.plan(solver, schedule, 10))
    assert pndm.plan(solver, make("linear", "diffusers"), 10) is not plan
    assert plan.steps == 10 and plan.nfe == len(plan.times) == 19 and not plan.stochastic
    with pytest.raises(AttributeError):
        plan.rows = ()


def test_the_papers_times():
    assert pndm.plan(SOLVERS["plms"](), make("linear"), 5).times == (
        *(800, 700, 700, 600),
        *(600, 500, 500, 400),
        *(400, 300, 300, 200),
        *(200, 0),
    )
    assert pndm.plan(SOLVERS["s_pndm"](), make("linear"), 4).times == (750, 500, 500, 250, 0)


@pytest.mark.parametrize("name", FIXED)
def test_a_plan_prints_as_a_table(name):
    plan = pndm.plan(SOLVERS[name](), make("linear"), 5)
    head, titles, *rows = str(plan).splitlines()
    assert "5 steps" in head and f"{plan.nfe} evaluations" in head
    assert titles.split() == ["row", "time", "keep", "base", "point", "reaches"]
    assert len(rows) == plan.nfe
    for row, line in zip(plan.rows, rows, strict=True):
        assert f"{row.time:g}" in line and ("·z" in line) == bool(row.noise)


def test_only_stochastic_methods_add_noise():
    assert [n for n in FIXED if pndm.plan(SOLVERS[n](), make("linear"), 5).stochastic] == ["ddpm"]
    plan = pndm.plan(pndm.solvers.ddim(eta=1.0), make("linear"), 5)
    assert [bool(row.noise) for row in plan.rows] == [True] * 4 + [False]


def test_steps_of_no_length_do_nothing():
    """`released` uses its last table entry twice; in `diffusers` the last step has length zero."""
    released = pndm.plan(SOLVERS["ddim"](), make("linear", "released"), grid=[999, 998, 500, -1])
    assert released.rows[0].base == (1.0, ((0, 0.0),)) or released.rows[0].base == plans.STAY
    other = pndm.plan(SOLVERS["ddim"](), make("linear", "diffusers"), 10)
    (term,) = other.rows[-1].base.terms or ((9, 0.0),)
    assert other.rows[-1].base.scale == 1 and term == (9, 0.0)


def test_a_new_method_is_a_value():
    """improved Euler in every step ≡ Heun's method in ρ (Karras et al. 2022, with noise)."""
    heun = Solver("heun", Pseudo(), IMPROVED_EULER)
    schedule = make("linear")
    points, last = executed(heun, schedule, 6, "leading")
    nodes = [schedule.node(t) for t in times("leading", 6, schedule)]
    rhos = [node.rho for node in nodes]
    nfe, x, i = len(points), np.zeros(1 + 2 * len(points)), 0
    assert nfe == 11
    x[0] = 1 / np.sqrt(nodes[0].alpha_bar)
    for now, then in pairwise(rhos):
        x = x.copy()
        if then == 0:
            x[1 + i] += then - now
        else:
            x[1 + i] += (then - now) / 2
            x[2 + i] += (then - now) / 2
        i += 2
    assert np.abs(last - x).max() < 1e-12 * np.abs(x).max()


def test_memory_of_methods_not_yet_named():
    ramp = Solver("ramp", Pseudo(), AB4, (EULER, AB2, AB3))
    mixed = Solver("mixed", Ancestral(clip=None), AB4, (RK4, AB2, IMPROVED_EULER))
    for solver in (ramp, mixed):
        assert broken(pndm.plan(solver, make("linear"), 20)) is None


def test_pf_has_no_plan():
    with pytest.raises(ValueError, match="adaptive"):
        pndm.plan(SOLVERS["pf"](), make("linear"), 10)


@pytest.mark.parametrize("steps", [0, 1001, 1.5, True, None])
def test_bad_steps(steps):
    with pytest.raises(ValueError, match="from 1 to 1000"):
        pndm.plan(SOLVERS["ddim"](), make("linear"), steps)


def test_names_are_no_solvers_and_no_schedules():
    schedule, plms = make("linear"), SOLVERS["plms"]
    for arguments in (("plms", schedule), (plms, schedule), (plms(), "linear")):
        with pytest.raises(ValueError, match="but must be"):
            pndm.plan(*arguments, 10)
    for steps in (0, -3, 1.5):
        with pytest.raises(ValueError, match="whole number from 1"):
            plms().nfe(steps)
    with pytest.raises(ValueError, match="order 3 needs as many steps"):
        SOLVERS["unipc"](order=3).nfe(2)
