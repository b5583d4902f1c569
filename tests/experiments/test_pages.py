"""The table's cells as data, the command that runs them, and the committed studies."""

from itertools import product
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml

import pndm
from experiments import (
    clothes,
    conventions,
    convergence,
    coverage,
    manifold,
    memorisation,
    networks,
    schedules,
    step_time,
    trajectories,
    trajectory_error,
)
from experiments.beyond_paper import ingredients, ten_nfe, transfer_x_gradient
from experiments.main_table import fid_by_steps, paper
from experiments.main_table.fid_by_steps import CLAIMS, Cell, Line, Task
from experiments.pages import FOLDER
from pndm._errors import InputError, MissingFile, NonFiniteError
from pndm.config.build import build_solver
from pndm.config.compose import CONF, compose_runs
from pndm.models.analytic import Mixture


def test_a_seed_set_that_a_table_lacks_is_refused():
    for main in (fid_by_steps.main, paper.main):
        with pytest.raises(SystemExit, match="fashion_mnist has no such seed set"):
            main(["dataset=fashion_mnist", "seed=2", "only=plan"])


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
    text = (CONF / "experiment" / "fid_by_steps.yaml").read_text()
    params = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
    cells = set(fid_by_steps.cells())
    for schedule in params["schedule"].split(","):
        for solver in params["solver"].split(","):
            for steps in params["steps"].split(","):
                assert Cell(schedule, solver, "leading", "", int(steps), 0) in cells


def test_overrides_compose_and_what_is_given_wins():
    line = Line("pf", (None,), options="solver.rtol=0.01 solver.atol=0.01")
    words = fid_by_steps.overrides("digits", "cosine", 2, line, ["samples=64"])
    (cfg,) = compose_runs(words, multirun=True)
    assert cfg.solver == {"name": "pf", "rtol": 0.01, "atol": 0.01}
    assert (cfg.samples, cfg.seed, cfg.schedule["name"]) == (64, 2, "cosine")
    assert compose_runs(fid_by_steps.overrides("digits", "linear", 0, line))[0].samples == 1797


def task(solver, steps, nfe, seed=0, done=False):
    cell = Cell("linear", solver, "leading", "", steps, seed)
    return Task(cell, SimpleNamespace(samples=10), nfe, done)


def test_the_abstracts_cells_come_first_then_the_cheap_ones():
    tasks = [task("plms", 5, 14, seed=1), task("prk", 5, 17), task("ddim", 5, 5)]
    tasks += [task("ddim", 1000, 1000), task("plms", 50, 59)]
    order = [(t.cell.solver, t.cell.steps) for t in sorted(tasks, key=lambda t: t.rank)]
    assert order == [("plms", 50), ("ddim", 1000), ("ddim", 5), ("prk", 5), ("plms", 5)]


def test_a_cell_that_fails_stops_nothing(monkeypatch, capsys):
    result = []

    def run(cfg, sweep):
        result.append(cfg)
        if len(result) == 1:
            raise NonFiniteError("evaluation 3 at time 9:\nNaN")
        return "metrics.json"

    monkeypatch.setattr("pndm.runs.run.run_experiment", run)
    tasks = [task("plms", 5, 14), task("plms", 10, 19, done=True), task("plms", 20, 29)]
    failed = fid_by_steps.run_missing(tasks)
    assert failed == ["linear plms leading 5 seed 0: evaluation 3 at time 9: NaN"]
    assert len(result) == 2 and "[2/2] linear plms leading 20 seed 0" in capsys.readouterr().out


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
    result = coverage.simulate(4, 100, 60, seed=1)
    assert result["single"] >= 0.88 and result["paired"] >= 0.88
    assert result["simulations"] == 60


@pytest.mark.slow
def test_coverage_again():
    committed = pd.read_csv(FOLDER / "coverage.csv").iloc[0]
    again = coverage.simulate(4, 200, coverage.SIMULATIONS)
    assert again["paired"] == pytest.approx(committed["paired"], abs=0.005)


# Manifold


def test_the_exact_network_is_the_mixtures():
    data, x = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    even = torch.ones(6, dtype=torch.float64)
    mixture = Mixture(pndm.schedules.linear(), data, even * manifold.BLUR["digits"] ** 2, even)
    t = torch.full((6,), 300.0)
    result = manifold.exact(pndm.schedules.linear(), data)(x, t)
    assert result == pytest.approx(mixture(x, t), rel=1e-9)


@pytest.mark.parametrize("model", ["exact", "digits_linear", "fashion_linear"])
def test_committed_norms_regenerate(tmp_path, model):
    table = pd.read_csv(FOLDER / f"manifold_{model}.csv")
    assert ((table["low"] < table["data"]) & (table["data"] < table["high"])).all()
    manifold.write(table, tmp_path)
    page = (tmp_path / f"manifold_{model}.md").read_text()
    assert page == (FOLDER / f"manifold_{model}.md").read_text()


def test_networks_whose_levels_are_unknown_are_refused():
    for name, said in {"nosuch": "nosuch", "ddpm_cifar10": "no dataset 'cifar10'"}.items():
        with pytest.raises(InputError, match=said):
            manifold.trained_network(name)


def test_the_memorisation_page_is_that_of_its_table():
    table = pd.read_csv(FOLDER / "memorisation.csv")
    assert memorisation.page(table) == (FOLDER / "memorisation.md").read_text(encoding="utf-8")


def test_samples_are_of_the_networks_own_schedule(monkeypatch):
    seen = []
    monkeypatch.setattr(pndm, "sample", lambda *_, schedule, **__: seen.append(schedule.name))
    monkeypatch.setattr(memorisation.images, "to_uint8", lambda _: torch.zeros(1))
    for name in ("digits_linear", "digits_cosine"):
        memorisation.samples(name, None, 2)
    assert seen == ["linear", "cosine"]


# The other pages


@pytest.mark.parametrize("module", [trajectory_error, step_time, schedules, conventions])
def test_committed_pages_regenerate(module, tmp_path):
    name = module.__name__.rpartition(".")[2]
    (path, *_) = module.write(pd.read_csv(FOLDER / f"{name}.csv"), tmp_path)
    assert path.read_text() == (FOLDER / path.name).read_text()


def test_the_trained_networks_errors_fall(tmp_path):
    table = pd.read_csv(FOLDER / "trajectory_error.csv")
    for key, group in table.groupby(["dataset", "schedule", "solver"]):
        assert group["error"].iloc[-1] < group["error"].iloc[0], key
    at_100 = table[table["steps"] == 100].set_index(["dataset", "schedule", "solver"])["error"]
    for network in product(trajectory_error.NETWORKS, trajectory_error.SCHEDULES):
        for solver in ("s_pndm", "plms", "prk", "fon"):
            assert at_100[*network, solver] < 0.6 * at_100[*network, "ddim"], (network, solver)


def test_cost_is_measured_for_every_method(monkeypatch):
    monkeypatch.setattr(step_time, "STEPS", 4)
    monkeypatch.setattr(step_time, "BATCH", 2)
    table = step_time.measure(rounds=1)
    assert list(table["solver"]) == list(step_time.METHODS)
    assert (table["seconds"] > 0).all() and "÷ DDIM" in step_time.page(table)
    assert list(table["nfe"]) == [4, 4, 5, 13, 13, 13, 13]


def test_the_page_on_networks_is_that_of_the_shipped_cards(tmp_path):
    (path, *_) = networks.write(pd.DataFrame(networks.rows()), tmp_path)
    assert path.read_text() == (FOLDER / "networks.md").read_text()
    with pytest.raises(MissingFile, match="no training of digits_linear"):
        networks.take(tmp_path)


def test_the_page_on_clothes_regenerates():
    page = clothes.page(pd.read_csv(FOLDER / "clothes.csv"))
    assert page == (FOLDER / "clothes.md").read_text(encoding="utf-8")


def test_slerp_stays_on_the_sphere():
    a, b = pndm.initial_noise([1, 2], (1, 8, 8)).double()
    b = b * a.norm() / b.norm()
    torch.testing.assert_close(trajectories.slerp(a, b, 0.0), a)
    torch.testing.assert_close(trajectories.slerp(a, b, 1.0), b)
    for share in (0.2, 0.5, 0.9):
        assert trajectories.slerp(a, b, share).norm().item() == pytest.approx(a.norm().item())


@pytest.mark.parametrize("name", trajectories.PATHS.values())
def test_a_path_ends_at_the_sample(name):
    strip = trajectories.path("plms", name, seed=3, steps=5)
    network = pndm.models.load(name)
    x_0 = pndm.sample(
        network,
        pndm.initial_noise([3], network.arch.image),
        solver=pndm.solvers.plms(),
        schedule=pndm.schedules.linear(),
        steps=5,
    )
    assert strip.shape == (6, *network.arch.image) and torch.equal(strip[-1:], x_0)


# The paper's table of a dataset


def test_the_plan_counts_evaluations():
    table = paper.plan("celeba", ["linear"], [0]).set_index("method")
    assert table.loc["plms", "evaluations"] == 50_000 * sum(n + 9 for n in fid_by_steps.STEPS)
    assert (table["GPU hours"] > 0).all() and (table["hours here"] > 0).all()


@pytest.mark.slow
def test_weights_that_are_missing_are_told_after_the_plan(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PNDM_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="models fetch ddpm_cifar10"):
        paper.main(["dataset=cifar10"])
    assert "GPU hours at 50 TFLOP/s" in capsys.readouterr().out


def test_a_dataset_without_a_table_is_refused():
    with pytest.raises(SystemExit, match="no table of dataset=lsun_church"):
        paper.main(["dataset=lsun_church", "only=plan"])


def test_help_is_shown_and_nothing_is_done(capsys, monkeypatch):
    for step in ("show_plan", "compare"):
        monkeypatch.setattr(paper, step, None)
    monkeypatch.setattr(paper.collect, "main", None)
    paper.main(["--help"])
    assert "make paper" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["bogus=1", "samples=0", "schedule=quad"])
def test_a_plan_is_checked_too(word):
    with pytest.raises(SystemExit, match="error: "):
        paper.main(["only=plan", word])


def test_a_plan_is_of_the_schedules_asked_for(capsys):
    paper.main(["only=plan", "schedule=cosine"])
    out = capsys.readouterr().out
    assert "cosine" in out and "linear" not in out


def test_verdicts_of_the_comparison():
    row = pd.Series({"status": "complete", "fid": 3.4, "se": 0.05})
    assert paper.verdict_on(row, 3.34)["verdict"] == "within the uncertainty"
    assert paper.verdict_on(row, 3.1)["verdict"] == "ours is higher"
    assert paper.verdict_on(row, 4.0)["verdict"] == "ours is lower"
    assert paper.verdict_on(None, 4.0) == {"verdict": "not run"}
    assert paper.verdict_on(pd.Series({**row, "status": "failed"}), 3.4)["verdict"] == "not run"


# Beyond the paper


def test_cells_make_the_evaluations_that_they_say():
    cells = {*ingredients.trajectories(), *ingredients.distances()}
    for cell in cells:
        assert cell.method.solver().nfe(cell.steps) == cell.nfe
        (cfg,) = (
            compose_runs(transfer_x_gradient.arguments(cell))
            if cell in ingredients.distances()[:3]
            else (None,)
        )
        if cfg is not None:
            assert build_solver(cfg.solver) == cell.method.solver()


def test_the_lowest_of_few_evaluations_is_chosen():
    method = ingredients.Method("pseudo", "noise", "t", 3)
    rows = [
        {**transfer_x_gradient.columns(ingredients.Cell("linear", method, grid, nfe)), "fid": fid}
        for grid, nfe, fid in (("leading", 10, 2.0), ("quadratic", 10, 1.0), ("karras", 20, 0.1))
    ]
    cell = ten_nfe.best(pd.DataFrame(rows), "linear")
    assert cell == ingredients.Cell("linear", method, "quadratic", 10)
    with pytest.raises(FileNotFoundError, match="only=fid"):
        ten_nfe.best(pd.DataFrame(rows), "cosine")


def test_the_page_of_downloads_is_that_of_the_registry():
    from experiments import downloads

    assert downloads.PAGE.read_text(encoding="utf-8") == downloads.page()
