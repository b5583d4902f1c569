"""The comparison of learned plans: its cells, and the committed page."""

import pandas as pd
import pytest

from experiments.learned import cells, compare, page
from experiments.main_table import readme
from experiments.pages import FOLDER
from pndm import learned
from pndm.config.compose import compose_fit, compose_runs


def test_every_fit_composes_and_has_a_folder_of_its_own():
    fits = list(cells.fits())
    assert len({fit.output for fit in fits}) == len(fits) == 2 * 2 * (6 + 3)
    for fit in fits[::5]:
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
    assert of_methods >= {(method, cells.TABLE_SEED) for method in cells.FINE}
    for cell in every:
        if cell.method in cells.FIXED and (cell.nfe, cell.schedule) == (10, "linear"):
            words = [f"dataset={cell.dataset}", f"schedule={cell.schedule}", *cell.words.split()]
            (cfg,) = compose_runs(words)
            assert cfg.steps == cell.nfe and cfg.grid == cell.grid


def test_seeds_of_judging_were_used_for_nothing_else():
    for name in learned.names():
        sets = learned.read(name).fitted["seed_sets"]
        assert not set(sets.values()) & set(cells.JUDGING) and len(set(sets.values())) == 2


def test_grids_are_those_of_the_lowest_fid():
    assert compare.best_grid("digits", "linear", "iPNDM-3", 5) == "leading"
    assert compare.best_grid("digits", "linear", "UniPC-2", 10) == "quadratic"


def test_grids_of_other_images_are_chosen_where_they_were_measured(tmp_path, monkeypatch):
    path = tmp_path / "grids.csv"
    monkeypatch.setattr(compare, "PATH_OF_GRIDS", path)
    columns = compare.COLUMNS_OF_GRIDS
    first, second = list(compare.choosing())[:2]
    assert compare.best_grid(*first[:4]) is None
    for cell, value in ((first, 3.0), (second, 2.0)):
        numbers = {"fid": value, "se": 0.1, "samples": 500, "code": "c", "commit": "d"}
        compare.add({**cell._asdict(), **numbers}, path, compare.KEY_OF_GRIDS, columns)
        assert not compare.is_missing(cell, path, compare.KEY_OF_GRIDS)
    assert compare.best_grid(*first[:4]) == second.grid != first.grid
    assert compare.best_grid(*first[:3], 3) == second.grid
    assert compare.best_grid(*first[:3], 10) is None


def test_the_committed_page_regenerates(tmp_path):
    table = compare.load()
    for path in page.write(table, tmp_path):
        if path.suffix == ".md":
            assert path.read_text() == (FOLDER / path.name).read_text()
        assert (FOLDER / path.name).exists()


def test_the_readme_shows_the_measurements():
    assert page.block(compare.load()) in readme.PAGE.read_text(encoding="utf-8")


def test_what_was_not_measured_says_so(tmp_path, monkeypatch):
    empty = pd.DataFrame(columns=compare.COLUMNS)
    assert "not run" in page.document(empty, "digits")
    table = compare.load()
    part = table[(table["method"] == "DDIM") & (table["nfe"] == 5)]
    assert page.fids(part, "digits", "linear", 1).loc[0, "3"] == "not run"
    assert page.fids(part, "digits", "linear", 1).loc[0, "5"] != "not run"
    monkeypatch.setattr(learned, "names", list)
    assert page.write(table, tmp_path) == []


def test_a_difference_to_itself_is_none():
    own = compare.load().iloc[0]
    row = page.compare(own, own)
    assert row["difference (95 %)"] == "0.00 (0.00 to 0.00)"
    assert row["learned is"] == "no difference seen"
    assert page.best_fixed(compare.load(), "digits", "linear", 7, 1) is None
    with pytest.raises(KeyError):
        page.compare(own.drop("without_00"), own)
