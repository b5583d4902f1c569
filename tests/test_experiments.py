"""The table's cells as data, the command that runs them, and the committed studies."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml

from experiments import convergence, coverage, fid_by_steps, manifold
from experiments.cells import FOLDER
from experiments.fid_by_steps import CLAIMS, Cell, Line, Task
from pndm import config, experiment, schedules
from pndm.models.analytic import Mixture


def test_the_declared_cells():
    cells = fid_by_steps.cells()
    assert len(cells) == len(set(cells)) == 2 * 54
    slow = {(c.solver, c.grid) for c in cells if c.steps == 1000}
    assert slow == {(name, "leading") for name in ("ddim", "ddpm", "s_pndm", "plms")}
    assert max(c.steps for c in cells if c.solver in ("prk", "fon_released")) == 100
    for claim in CLAIMS:
        for pair in ((claim.solver, claim.steps), (claim.other, claim.other_steps)):
            assert Cell("cosine", pair[0], "leading", "", pair[1], 0) in cells
    assert set(c._replace(seed=0) for c in fid_by_steps.cells(seeds=(1, 2))) <= set(cells)


def test_the_yaml_is_a_part_of_the_table():
    text = (config.CONF / "experiment" / "fid_by_steps.yaml").read_text()
    params = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
    cells = set(fid_by_steps.cells())
    for schedule in params["schedule"].split(","):
        for solver in params["solver"].split(","):
            for steps in params["steps"].split(","):
                assert Cell(schedule, solver, "leading", "", int(steps), 0) in cells


def test_overrides_compose_and_what_is_given_wins():
    line = Line("pf", (None,), options="solver.rtol=0.01 solver.atol=0.01")
    words = fid_by_steps.overrides("digits", "cosine", 2, line, ["samples=64"])
    (cfg,) = config.cells(words, multirun=True)
    assert cfg.solver == {"name": "pf", "rtol": 0.01, "atol": 0.01}
    assert (cfg.samples, cfg.seed, cfg.schedule["name"]) == (64, 2, "cosine")
    assert config.cells(fid_by_steps.overrides("digits", "linear", 0, line))[0].samples == 1797


def task(solver, steps, nfe, seed=0, done=False):
    cell = Cell("linear", solver, "leading", "", steps, seed)
    return Task(cell, SimpleNamespace(samples=10), nfe, done)


def test_the_abstracts_cells_come_first_then_the_cheap_ones():
    tasks = [task("plms", 5, 14, seed=1), task("prk", 5, 17), task("ddim", 5, 5)]
    tasks += [task("ddim", 1000, 1000), task("plms", 50, 59)]
    order = [(t.cell.solver, t.cell.steps) for t in sorted(tasks, key=lambda t: t.rank)]
    assert order == [("plms", 50), ("ddim", 1000), ("ddim", 5), ("prk", 5), ("plms", 5)]


def test_a_cell_that_fails_stops_nothing(monkeypatch, capsys):
    made = []

    def run(cfg, sweep):
        made.append(cfg)
        if len(made) == 1:
            raise FloatingPointError("evaluation 3 at time 9:\nNaN")
        return "metrics.json"

    monkeypatch.setattr(experiment, "run", run)
    tasks = [task("plms", 5, 14), task("plms", 10, 19, done=True), task("plms", 20, 29)]
    failed = fid_by_steps.make(tasks)
    assert failed == ["linear plms leading 5 seed 0: evaluation 3 at time 9: NaN"]
    assert len(made) == 2 and "[2/2] linear plms leading 20 seed 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("steps=50", "the cells are this table's"),
        ("solver.eta=1", "the cells are this table's"),
        ("only=plans", "only=plan"),
        ("seed=one", "give whole numbers"),
        ("dataset=digit", "did you mean digits"),
        ("sampels=3", "did you mean samples"),
    ],
)
def test_a_wrong_word_is_one_line(word, said):
    with pytest.raises(SystemExit, match=said) as stopped:
        fid_by_steps.main([word])
    assert "\n" not in str(stopped.value)


# Convergence


def test_committed_orders_agree_and_regenerate(tmp_path):
    table = pd.read_csv(FOLDER / "convergence.csv")
    orders = convergence.orders(table)
    assert list(orders["expected"]) == ["1", "2", "2", "2", "4"]
    assert set(orders["verdict"]) == {"agrees"}
    assert table["reference_error"].max() <= 0.01 * table["error"].min()
    convergence.write(table, tmp_path)
    page = (tmp_path / "convergence.md").read_text()
    assert page == (FOLDER / "convergence.md").read_text()


def test_an_order_that_is_not_there_is_said():
    table = pd.read_csv(FOLDER / "convergence.csv")
    table.loc[table["solver"] == "plms", "error"] = 1 / table["steps"]
    verdicts = convergence.orders(table).set_index("method")["verdict"]
    assert verdicts["F-PNDM (plms)"] == "does not agree" and verdicts["DDIM"] == "agrees"


def test_a_reference_that_is_too_coarse_is_refused(monkeypatch):
    monkeypatch.setattr(convergence, "REFERENCE_STEPS", 8)
    monkeypatch.setattr(convergence, "STEPS", (20,))
    with pytest.raises(ArithmeticError, match="give it more steps"):
        convergence.measure()


@pytest.mark.slow
def test_convergence_again():
    committed = pd.read_csv(FOLDER / "convergence.csv")
    again = convergence.measure()
    assert list(again["error"]) == pytest.approx(list(committed["error"]), rel=1e-3)


# Coverage


def test_committed_coverage_reaches_its_aims_and_regenerates(tmp_path):
    table = pd.read_csv(FOLDER / "coverage.csv")
    assert table["simulations"].min() >= 1000
    for name, aim in coverage.AIMS.items():
        assert table[name].min() >= aim
    coverage.write(table, tmp_path)
    page = (tmp_path / "coverage.md").read_text()
    assert page == (FOLDER / "coverage.md").read_text()
    assert "Not covered" in page


def test_coverage_in_a_few_simulations():
    found = coverage.simulate(4, 100, 60, seed=1)
    assert found["single"] >= 0.88 and found["paired"] >= 0.88
    assert found["simulations"] == 60


@pytest.mark.slow
def test_coverage_again():
    committed = pd.read_csv(FOLDER / "coverage.csv").iloc[0]
    again = coverage.simulate(4, 200, coverage.SIMULATIONS)
    assert again["paired"] == pytest.approx(committed["paired"], abs=0.005)


# Manifold


def test_the_exact_network_is_the_mixtures():
    data, x = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    even = torch.ones(6, dtype=torch.float64)
    mixture = Mixture(schedules.linear(), data, even * manifold.BLUR**2, even)
    t = torch.full((6,), 300.0)
    found = manifold.exact(schedules.linear(), data)(x, t)
    assert found == pytest.approx(mixture(x, t), rel=1e-9)


def test_committed_norms_regenerate(tmp_path):
    table = pd.read_csv(FOLDER / "manifold_exact.csv")
    assert ((table["low"] < table["data"]) & (table["data"] < table["high"])).all()
    manifold.write(table, tmp_path)
    page = (tmp_path / "manifold_exact.md").read_text()
    assert page == (FOLDER / "manifold_exact.md").read_text()
