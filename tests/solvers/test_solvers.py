"""Solvers: values by name, and the evaluations that each declares."""

from dataclasses import fields

import pytest

import pndm
from pndm.schedules import linear
from pndm.solvers import SOLVERS, ProbabilityFlow, Solver
from pndm.solvers.gradient import AB4, RK4
from pndm.solvers.transfer import Pseudo

FIXED = [name for name, factory in SOLVERS.items() if isinstance(factory(), Solver)]

DECLARED = {  # (N = 1, 2, 3, 4, 10, 50, 1000)
    "ddpm": (1, 2, 3, 4, 10, 50, 1000),
    "ddim": (1, 2, 3, 4, 10, 50, 1000),
    "s_pndm": (1, 3, 4, 5, 11, 51, 1001),
    "plms": (1, 5, 9, 13, 19, 59, 1009),
    "f_pndm": (1, 5, 9, 13, 19, 59, 1009),
    "prk": (1, 5, 9, 13, 37, 197, 3997),
    "fon": (1, 5, 9, 13, 19, 59, 1009),
    "fon_released": (1, 5, 9, 13, 19, 59, 1009),
    **dict.fromkeys(
        ["ipndm", "deis", "lms", "dpmpp_2m", "dpmpp_3m", "unipc", "multistep"],
        (1, 2, 3, 4, 10, 50, 1000),
    ),
    "heun": (1, 3, 5, 7, 19, 99, 1999),
    "rk4_rho": (1, 5, 9, 13, 37, 197, 3997),
}


@pytest.mark.parametrize("name", DECLARED)
def test_declared_evaluations(name):
    solver = SOLVERS[name]()
    assert tuple(solver.nfe(n) for n in (1, 2, 3, 4, 10, 50, 1000)) == DECLARED[name]


@pytest.mark.filterwarnings("ignore:grid=leading with one step:UserWarning")
@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 50])
def test_a_plan_makes_the_declared_evaluations(name, steps):
    solver = SOLVERS[name]()
    assert pndm.plan(solver, linear(), steps).nfe == solver.nfe(steps)


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_are_values(name):
    solver = SOLVERS[name]()
    assert solver == SOLVERS[name]() and hash(solver) == hash(SOLVERS[name]())
    assert solver.name == ("plms" if name == "f_pndm" else name)
    with pytest.raises(AttributeError):
        solver.name = "other"


def test_every_solver_is_a_factory_of_its_module():
    for name, factory in SOLVERS.items():
        assert getattr(pndm.solvers, name) is factory


def test_fon_and_plms_differ_in_one_field():
    fon, plms = SOLVERS["fon"](), SOLVERS["plms"]()
    differing = [f.name for f in fields(Solver) if getattr(fon, f.name) != getattr(plms, f.name)]
    assert differing == ["name", "transfer"]


def test_pf_measures():
    solver = SOLVERS["pf"]()
    assert isinstance(solver, ProbabilityFlow) and solver.nfe(50) is None
    assert (solver.rtol, solver.atol) == (1e-5, 1e-5)


def test_options():
    assert (
        SOLVERS["ddpm"]().transfer.clip == 1 and SOLVERS["ddpm"](clip=False).transfer.clip is None
    )
    assert SOLVERS["ddpm"](variance="large").transfer.variance == "large"
    assert SOLVERS["ddim"](eta=0.5).transfer.eta == 0.5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddim", {"eta": -0.1}),
        ("ddim", {"eta": 1.01}),
        ("ddim", {"eta": float("nan")}),
        ("ddim", {"eta": "x"}),
        ("ddpm", {"variance": "tiny"}),
        ("pf", {"rtol": -1e-5}),
        ("pf", {"atol": -1e-5}),
        ("pf", {"rtol": 0.0, "atol": 0.0}),
        ("pf", {"rtol": float("nan")}),
        ("pf", {"rtol": "x"}),
        ("pf", {"atol": None}),
    ],
)
def test_bad_options_are_refused_in_one_line(name, options):
    with pytest.raises(ValueError, match="must") as error:
        SOLVERS[name](**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("starters", [(), (RK4,), (RK4, RK4), (AB4, RK4, RK4)])
def test_a_solver_that_looks_back_too_far_cannot_be_made(starters):
    with pytest.raises(ValueError, match="starters"):
        Solver("mistyped", Pseudo(), AB4, starters)
