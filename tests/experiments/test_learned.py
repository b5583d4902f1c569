"""The comparison of learned plans: its cells, and the committed page."""

import json

import pandas as pd
import pytest

from experiments.learned import cells, compare, fits, page, tries
from experiments.main_table import readme
from experiments.main_table.jackknife import mean, paired
from experiments.pages import FOLDER
from pndm import learned
from pndm.config.compose import compose_fit, compose_runs
from pndm.evaluation.statistics import T_19, Estimate


def test_every_fit_composes_and_has_a_folder_of_its_own():
    every = list(cells.fits())
    assert len({fit.output for fit in every}) == len(every) == 2 * 2 * (6 + 3)
    for fit in every[::5]:
        cfg = compose_fit(fit.words())
        assert (cfg.steps, cfg.schedule["name"]) == (fit.nfe, fit.schedule)
        assert (cfg.dataset.name, cfg.output) == (fit.dataset, str(fit.output))
        assert f"{cfg.model.name}-{cfg.steps}" == fit.name
    assert compose_fit(cells.Fit("digits", "linear", 5, "weights").words()).learn == ["weights"]
    assert (
        compose_fit(cells.Fit("digits", "linear", 5, "both, radius 0.03").words()).radius == 0.03
    )


def test_every_cell_composes_with_its_evaluations_and_seeds():
    every = [*compare.cells(), *compare.choosing()]
    of_methods = {(cell.method, cell.seed) for cell in every}
    assert of_methods >= {(method, seed) for method in cells.FIXED for seed in (1, 2)}
    for cell in every:
        if cell.method in cells.FIXED and (cell.nfe, cell.schedule) == (10, "linear"):
            words = [f"dataset={cell.dataset}", f"schedule={cell.schedule}", *cell.words.split()]
            (cfg,) = compose_runs(words)
            assert cfg.steps == cell.nfe and cfg.grid == cell.grid


def test_evaluation_seeds_were_used_for_nothing_else():
    for name in learned.names():
        sets = learned.read(name).fitted["seed_sets"]
        assert (
            not set(sets.values()) & set(cells.EVALUATION_SEEDS) and len(set(sets.values())) == 2
        )


def test_grids_are_those_of_the_lowest_fid():
    assert compare.best_grid("digits", "linear", "iPNDM-3", 5) == "leading"
    assert compare.best_grid("digits", "linear", "UniPC-2", 10) == "quadratic"


def test_a_grid_is_chosen_once_all_are_measured(tmp_path, monkeypatch):
    path = tmp_path / "grids.csv"
    monkeypatch.setattr(compare, "PATH_OF_GRIDS", path)
    tried = list(compare.choosing())[: len(cells.GRIDS)]
    for cell, value in zip(tried, (3.0, 2.0, 4.0), strict=True):
        assert compare.best_grid(*cell[:4]) is None and compare.is_missing(cell, path)
        numbers = {"fid": value, "se": 0.1, "samples": 500, "code": "c", "commit": "d"}
        compare.add({**cell.known_by, **numbers}, path)
        assert not compare.is_missing(cell, path)
    assert compare.best_grid(*tried[0][:4]) == cells.GRIDS[1]
    assert compare.best_grid(*tried[0][:3], 10) is None


def test_a_cell_is_measured_again_with_another_plan_network_or_grid(tmp_path, monkeypatch):
    path = tmp_path / "learned.csv"
    monkeypatch.setattr(compare, "PATH", path)
    cell = next(cell for cell in compare.cells() if cell.plan)
    row = dict.fromkeys(compare.COLUMNS, 0) | cell.known_by
    compare.add(row, path)
    assert not compare.is_missing(cell, path)
    for changed in (cell._replace(plan="other"), cell._replace(grid="leading")):
        assert compare.is_missing(changed, path)
    compare.add(row | {"plan": "other"}, path)
    assert len(compare.load(path)) == 1 and compare.is_missing(cell, path)
    monkeypatch.setattr(compare, "weights", lambda network: "other")
    assert compare.is_missing(cell._replace(plan="other"), path)


@pytest.mark.parametrize(
    "words", ["nfe=7", "schedule=linera", "only=learnt", "seed=5", "dataset=digit"]
)
def test_words_that_choose_nothing_are_refused(words, monkeypatch):
    monkeypatch.setattr(compare, "run", None)
    with pytest.raises(SystemExit, match="error: .*" + words):
        compare.main([words])


@pytest.mark.parametrize("words", ["nfe=7", "variant=x"])
def test_fits_that_do_not_exist_are_refused(words, monkeypatch):
    monkeypatch.setattr(fits, "fit", None)
    with pytest.raises(SystemExit, match="error: .*" + words):
        fits.main([words])


def test_a_fit_that_ended_early_or_of_another_network_or_loss_is_not_complete(tmp_path):
    cfg = compose_fit(cells.Fit("digits", "linear", 4).words())
    made, path = learned.read("digits_linear-4").to_json(), tmp_path / "plan.json"
    assert not fits.is_complete(path, cfg)
    assert "huber" not in made["fitted"]["loss"] and cfg.huber == 0
    for loss, is_complete in (({"huber": 0.01}, False), ({"moments": 4}, False), ({}, True)):
        made["fitted"]["loss"] = {"moments": 0.5, "radius": 0.0, **loss}
        path.write_text(json.dumps(made))
        assert fits.is_complete(path, cfg) == is_complete
    made["fitted"]["optimizer"]["done"] = 25
    path.write_text(json.dumps(made))
    assert not fits.is_complete(path, cfg)
    del made["fitted"]["optimizer"]["done"]
    path.write_text(json.dumps(made | {"network": {"sha256": "0" * 64}}))
    assert not fits.is_complete(path, cfg)


def test_the_committed_page_regenerates(tmp_path):
    table = page.measured()
    for path in page.write(table, tmp_path):
        if path.suffix == ".md":
            assert path.read_text() == (FOLDER / path.name).read_text()
        assert (FOLDER / path.name).exists()


def test_the_committed_tries_regenerate_and_the_best_of_them_ship(tmp_path):
    table = pd.read_csv(tries.PATH)
    assert tries.write(table, tmp_path).read_text() == (FOLDER / "learned_tries.md").read_text()
    for schedule, rows in table.groupby("schedule"):
        assert len(rows) == len(tries.TRIES[schedule])
        best = rows.loc[rows["fid_chosen_by"].idxmin()]
        assert best["plan"] == learned.read(f"digits_{schedule}-5").digest[:12]
        chosen = compose_fit(cells.Fit("digits", schedule, 5).words())
        assert [getattr(chosen, name) for name in tries.Try._fields] == list(best[tries.KEY[1:]])


def test_a_try_composes_into_a_folder_of_its_own(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(tries, "FITS", tmp_path)
    monkeypatch.setattr(tries, "fit", lambda cfg: made.append(cfg) or tmp_path)
    for schedule in tries.SCHEDULES:
        for tried in tries.TRIES[schedule]:
            tries.plan_of(schedule, tried, [])
    assert len({cfg.output for cfg in made}) == len(made) == 10
    assert {(cfg.steps, cfg.validation, cfg.model.name) for cfg in made} == {
        *((5, 512, "digits_linear"), (5, 512, "digits_cosine"))
    }


def test_the_readme_shows_the_measurements():
    assert page.block(page.measured()) in readme.PAGE.read_text(encoding="utf-8")


def test_what_was_not_measured_says_so(tmp_path, monkeypatch):
    empty = pd.DataFrame(columns=compare.COLUMNS)
    assert "not run" in page.document(empty, "digits")
    table = compare.load()
    part = table[(table["method"] == "DDIM") & (table["nfe"] == 5)]
    assert page.fids(part, dataset="digits", schedule="linear", seed=1).loc[0, "3"] == "not run"
    assert page.fids(part, dataset="digits", schedule="linear", seed=1).loc[0, "5"] != "not run"
    monkeypatch.setattr(learned, "names", list)
    assert page.write(table, tmp_path) == []


def test_a_difference_to_itself_is_none():
    own = compare.load().iloc[0]
    row = page.compare(own, own, paired(own, own))
    assert row["difference (95 %)"] == "0.00 (0.00 to 0.00)"
    assert row["learned is"] == "no difference seen"
    assert page.best_fixed(compare.load(), nfe=7) is None
    with pytest.raises(KeyError):
        paired(own.drop("without_00"), own)
    with pytest.raises(ValueError, match="images do not compare"):
        paired(own, pd.Series({**own, "samples": 500}))


def test_seed_sets_together_are_their_mean_and_more_certain():
    together = mean([Estimate(1.0, 2.0, 3.0), Estimate(3.0, 6.0, 4.0)])
    assert (together.value, together.bias_corrected, together.se) == (2.0, 4.0, 2.5)
    assert together.high - 4.0 == 4.0 - together.low == pytest.approx(2.5 * T_19)
    rows = pd.DataFrame(list(page.against_fixed(page.measured(), "digits")))
    for _, group in rows.groupby(["schedule", "evaluations"]):
        *single, both = (float(text.split()[0]) for text in group["difference (95 %)"])
        assert list(group["seed set"]) == ["1", "2", "1 and 2"]
        assert both == pytest.approx(sum(single) / 2, abs=0.011)
