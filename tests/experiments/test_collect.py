"""Records to tables: nothing is mixed, filled in or lost, and what is committed regenerates."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.main_table import claims, collect, jackknife, readme, tables
from experiments.main_table.cells import COLUMNS, DATASETS, JACKKNIFE, PUBLISHED, Results
from experiments.main_table.fid_by_steps import CLAIMS, Cell
from experiments.main_table.tables import by_steps, caption, write
from experiments.pages import FOLDER
from pndm.config.compose import compose_runs
from pndm.config.schema import ConfigError, to_yaml
from pndm.evaluation import metrics, statistics
from pndm.evaluation.features import load_extractor
from pndm.evaluation.reference import load_reference
from pndm.runs.shards import Store

PLMS_50 = Cell("linear", "plms", "leading", "", 50, 0)


def record(**given):
    """A record as run.py writes it, with some fields changed."""
    solver, schedule = given.get("solver", "plms"), given.get("schedule", "linear")
    fid = {"value": 1.5, "bias_corrected": 1.2, "se": 0.1, "low": 1.0, "high": 1.4}
    fid |= {"extractor": "digits", "reference": "digits all, n=1797, pndm, 0123456789ab"}
    settings = {"solver": {"name": solver}, "schedule": {"name": schedule, "timesteps": 1000}}
    result = {
        "schema": 1,
        "status": "complete",
        **{"dataset": "digits", "schedule": schedule, "solver": solver, "model": "digits_linear"},
        **{"steps": 50, "grid": "leading", "convention": "aligned", "samples": 1797, "seed": 0},
        **{"precision": "fp32", "settings": settings, "weights": {"sha256": "ab" * 32}},
        **{"key": "cd" * 32, "code": "code_a", "commit": "c0ffee", "nfe": 59, "fid": fid},
        "seconds": {"sampling": 20.0, "features": 1.0, "total": 22.0},
        "started": "2026-01-01T00:00:00+0000",
    }
    return result | given


@pytest.fixture
def outputs(tmp_path):
    """A folder of runs, and `put(name, **fields)` that writes a record there."""
    root = tmp_path / "outputs"
    root.mkdir()

    def put(name="plms-50-aa", **given):
        result = record(**given)
        folder = root / result["dataset"] / result["schedule"] / name
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps(result))
        if result["status"] != "running":
            (folder / "metrics.json").write_text(json.dumps(result))
        return folder

    return root, put


def gathered(root, *codes, samples=None):
    return collect.choose(collect.read([root]), codes, samples)


def results_of(reading):
    """The results without reading shards."""
    nothing = Results.load(Path("nowhere"))
    cells = reading.frame.assign(command="python run.py")[COLUMNS]
    return nothing.replace(Results(cells, nothing.jackknife, nothing.floors))


def test_an_empty_folder_gives_tables_that_say_so(outputs, tmp_path, capsys):
    root, _ = outputs
    folder = tmp_path / "results"
    collect.main([str(root), "--results", str(folder)])
    assert "digits: 0 of 108 cells" in capsys.readouterr().out
    page = (folder / "fid_by_steps_digits.md").read_text()
    assert "Nothing of this table was run yet." in page
    assert "±" not in page and not list(folder.glob("*.png"))
    assert set(pd.read_csv(folder / "claims.csv")["verdict"]) == {"not run"}


@pytest.mark.slow
def test_other_cells_stay_where_they_are_to_be_kept(outputs, tmp_path):
    root, put = outputs
    folder = tmp_path / "results"
    old = put("plms-50-aa")
    collect.main([str(root), "--results", str(folder)])
    shutil.rmtree(old)
    put("plms-20-bb", steps=20, nfe=29, code="code_b")
    with pytest.raises(SystemExit, match="several code: .*--code NAME"):
        collect.main([str(root), "--results", str(folder), "--keep"])
    both = ["--code", "code_a", "--code", "code_b"]
    collect.main([str(root), "--results", str(folder), "--keep", *both])
    assert sorted(Results.load(folder).cells["steps"]) == [20, 50]
    collect.main([str(root), "--results", str(folder)])
    assert list(Results.load(folder).cells["steps"]) == [20]


@pytest.mark.slow
def test_methods_beyond_the_table_have_their_lines(outputs, tmp_path):
    root, put = outputs
    for order in (2, 3):
        chosen = {"name": "multistep", "order": order}
        settings = {"solver": chosen, "schedule": {"name": "linear", "timesteps": 1000}}
        for seed in (0, 1):
            name = f"multistep-10-{order}{seed}"
            put(name, solver="multistep", steps=10, nfe=10, seed=seed, settings=settings)
    folder = tmp_path / "results"
    collect.main([str(root), "--results", str(folder)])
    page = (folder / "fid_by_steps_digits.md").read_text()
    for order in (2, 3):
        assert f"| 10 | linear | multistep order={order} | 10 | 1.50 |" in page
        assert f"| linear | multistep order={order} | 10 | 2 | 1.50 ± 0.00 |" in page


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="^error: .*there is no such folder of runs$"):
        collect.main([str(tmp_path / "outptus"), "--results", str(tmp_path)])


def test_half_finished_folders_are_named(outputs):
    root, put = outputs
    put("plms-50-aa")
    put("plms-10-bb", steps=10, status="failed", fid=None, seconds=None, nfe=None, error="NaN")
    put("plms-20-cc", steps=20, status="running")
    (put("plms-5-dd", steps=5) / "metrics.json").write_text("{")
    (put("plms-7-ee", steps=7) / "metrics.json").write_text("[]")
    results = results_of(gathered(root))
    line = by_steps(results, "digits").query("schedule == 'linear' and method.str.contains('F')")
    row = line[line["method"] == "F-PNDM (plms)"].iloc[0]
    assert row["50"] == "1.50 ± 0.10"
    assert (row["10"], row["20"], row["1000"]) == ("failed", "unfinished", "not run")
    summary = tables.summary(results, "digits")
    assert "linear plms 10 failed: NaN" in summary and "linear plms 20 unfinished" in summary


def test_what_is_no_record_is_named_and_stops_nothing(outputs):
    root, put = outputs
    put("plms-50-aa")
    put("plms-10-bb", steps=10, fid=None)
    put("plms-20-cc", steps="two")
    put("plms-30-dd", steps=30, schema=99)
    (put("plms-40-ee", steps=40) / "status.json").write_bytes(b"\xff\xfe")
    (root / "digits" / "linear" / "plms-40-ee" / "metrics.json").write_bytes(b"\xff\xfe")
    reading = gathered(root)
    assert list(reading.frame["steps"]) == [50]
    assert len([note for note in reading.notes if "not a record" in note]) == 4


def test_a_folder_without_records_is_told(tmp_path):
    assert collect.read([tmp_path]).notes == [f"no records in {tmp_path}"]


def test_rows_are_tidy(outputs):
    root, put = outputs
    pf = {"name": "pf", "rtol": 0.01, "atol": 1e-5}
    schedule = {"name": "linear", "timesteps": 1000, "min_alpha_bar": 0.0, "beta_start": 1e-4}
    put(solver="pf", settings={"solver": pf, "schedule": schedule}, seed=2, grid=[990, 50])
    (row,) = gathered(root).frame.to_dict("records")
    assert row["options"] == "solver.rtol=0.01 schedule.min_alpha_bar=0.0"
    assert row["steps"] is None and row["grid"] == "[990, 50]" and row["seconds"] == 21.0


def test_other_code_is_refused_until_one_is_named(outputs):
    root, put = outputs
    put("a", steps=10)
    put("b", steps=20)
    put("c", steps=50, code="code_b")
    with pytest.raises(ConfigError, match=r"several code: code_a \(2\), code_b \(1\)"):
        gathered(root)
    one = gathered(root, "code_a")
    assert sorted(one.frame["steps"]) == [10, 20]
    assert one.notes == [f"left out, of other code: {root}/digits/linear/c"]
    both = gathered(root, "code_a", "code_b")
    assert "code code_a, code_b." in caption(results_of(both), "digits")


@pytest.mark.parametrize("name", ["extractor", "reference"])
def test_other_extractors_and_references_are_refused(outputs, name):
    root, put = outputs
    put("a", steps=10)
    put("b", steps=20, fid=record()["fid"] | {name: "another"})
    with pytest.raises(ConfigError, match=f"digits has runs of several {name}: "):
        gathered(root)


def test_other_weights_and_precisions_are_refused(outputs):
    root, put = outputs
    put("a", steps=10)
    put("b", steps=20, weights={"sha256": "ff" * 32})
    with pytest.raises(ConfigError, match="digits_linear has runs of several weights"):
        gathered(root)


def test_other_numbers_of_images_and_doubles_are_left_out_by_name(outputs):
    root, put = outputs
    put("few", samples=200)
    put("old", started="2025")
    put("new", fid=record()["fid"] | {"value": 2.0})
    put("later-but-failed", started="2027", status="failed", fid=None)
    result = gathered(root)
    assert list(result.frame["fid"]) == [2.0]
    reasons = {note.rpartition("/")[2]: note.partition(":")[0] for note in result.notes}
    assert reasons == {
        "few": "left out, of another number of images",
        "old": "left out, doubled by newer",
        "later-but-failed": "left out, doubled by newer",
    }
    assert list(gathered(root, samples=200).frame["samples"]) == [200]


def test_datasets_without_records_stay_as_they_were(outputs, tmp_path):
    root, put = outputs
    folder = tmp_path / "results"
    cifar = put("a", dataset="cifar10", samples=50_000)
    old = results_of(gathered(root))
    for file in cifar.iterdir():
        file.unlink()
    put("b", steps=20)
    new = old.replace(results_of(gathered(root)))
    assert sorted(new.cells["dataset"]) == ["cifar10", "digits"]
    new.save(folder)
    again = Results.load(folder)
    assert again.cells.astype(object).fillna("").equals(new.cells.astype(object).fillna(""))
    assert again.row("digits", PLMS_50._replace(steps=20))["fid"] == 1.5


def test_published_numbers_stand_beside_not_run():
    table = by_steps(Results.load(Path("nowhere")), "cifar10")
    ddim = table[(table["method"] == "DDIM") & (table["schedule"] == "linear")].iloc[0]
    assert ddim["50"] == "not run [6.99, 6.16]"
    quadratic = table[table["method"] == "DDIM, quadratic"].iloc[0]
    assert quadratic["50"] == "not run [4.67]" and quadratic["1000"] == "–"
    assert pd.read_csv(PUBLISHED)["source"].notna().all()


# Intervals


def features(n, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return 1.1 * torch.randn(n, 5, generator=generator, dtype=torch.float64) + shift


def row(fid, without, samples):
    return pd.Series(
        {"fid": fid, "samples": samples, **dict(zip(jackknife.WITHOUT, without, strict=True))}
    )


def test_the_jackknife_from_distances_is_that_from_sums():
    n = 203  # blocks of unequal sizes
    exact = statistics.Statistics.of(features(1000, 1))
    edges = [n * i // statistics.BLOCKS for i in range(statistics.BLOCKS + 1)]
    x, y = features(n, 2), features(n, 2, shift=0.1)
    a, b = (
        [statistics.Statistics.of(f[i:j]) for i, j in zip(edges, edges[1:], strict=False)]
        for f in (x, y)
    )
    assert list(jackknife.sizes(n)) == [block.n for block in a]
    (va, wa), (vb, wb) = (jackknife.distances(blocks, exact) for blocks in (a, b))
    single, paired = statistics.distance(a, exact), statistics.difference(a, b, exact)
    for result, expected in (
        (statistics.from_leave_one_out(va, wa, jackknife.sizes(n)), single),
        (jackknife.paired(row(va, wa, n), row(vb, wb, n)), paired),
    ):
        for name in ("value", "bias_corrected", "se", "low", "high"):
            assert getattr(result, name) == pytest.approx(getattr(expected, name), rel=1e-8)


@pytest.fixture(scope="module")
def digits():
    extractor = load_extractor("digits")
    return extractor, load_reference("digits", extractor)


def test_claims_come_from_the_runs_shards(outputs, digits, tmp_path):
    """Two runs of one set of seeds, in shards of older code, against `statistics`."""
    root, put = outputs
    extractor, reference = digits
    n, all_blocks = 1797, []
    (cfg,) = compose_runs(["samples=1797", "outputs=elsewhere"])
    edges = [n * i // statistics.BLOCKS for i in range(statistics.BLOCKS + 1)]
    noise = torch.randn(n, 64, generator=torch.Generator().manual_seed(0))
    for solver, steps, scale in (("plms", 50, 1.0), ("ddim", 1000, 1.1)):
        x = scale * noise
        blocks = [statistics.Statistics.of(x[i:j]) for i, j in zip(edges, edges[1:], strict=False)]
        all_blocks.append(blocks)
        key = f"{steps:016d}" * 4
        fid = record()["fid"] | metrics.fid(blocks, reference)
        put(f"{solver}-{steps}", solver=solver, steps=steps, key=key, fid=fid).joinpath(
            "config.yaml"
        ).write_text(to_yaml(cfg))
        store = Store(root / "shards" / key[:16] / f"digits-{extractor.sha256[:12]}")
        for i in range(0, n, 500):
            store.save(i // 500, {"features": x[i : i + 500].numpy()})
    results, notes = collect.collect(gathered(root), Results.load(tmp_path))
    assert notes == []
    result = claims.row(results, CLAIMS[0], "digits", "linear", 0)
    expected = statistics.difference(*all_blocks, reference)
    for name, value in (
        ("difference", expected.bias_corrected),
        ("low", expected.low),
        ("high", expected.high),
    ):
        assert result[name] == pytest.approx(value, abs=1e-3)
    assert result["verdict"] == claims.verdict(expected.low, expected.high) != "not run"
    results.save(tmp_path / "results")
    again = Results.load(tmp_path / "results")
    assert claims.row(again, CLAIMS[0], "digits", "linear", 0) == result
    assert again.floor("digits") > 0


def test_missing_and_wrong_shards_are_named(outputs, tmp_path):
    root, put = outputs
    folder = put()
    _, notes = collect.collect(gathered(root), Results.load(tmp_path))
    assert notes[0].startswith(f"no feature shards: {folder}")


@pytest.mark.parametrize(
    ("low", "high", "said"), [(-2, -1, "lower"), (1, 2, "higher"), (-1, 1, "no difference seen")]
)
def test_verdicts(low, high, said):
    assert claims.verdict(low, high) == said


# What is committed


def test_committed_tables_regenerate(tmp_path):
    results = Results.load(FOLDER)
    claims.write(results, tmp_path)
    for dataset in DATASETS:
        write(results, dataset, tmp_path)
    for result in tmp_path.iterdir():
        assert result.read_text() == (FOLDER / result.name).read_text(), (
            f"{result.name} is not what the committed cells give: "
            "python -m experiments.main_table.collect --readme"
        )


def test_readme_regenerates():
    page = readme.PAGE.read_text()
    assert readme.update(page, Results.load(FOLDER), FOLDER) == page, (
        "python -m experiments.main_table.collect --readme"
    )


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="no <!-- results: begin -->"):
        readme.update("# Title", Results.load(FOLDER), FOLDER)


def test_committed_files_have_the_columns_of_this_version(tmp_path):
    (tmp_path / "jackknife.csv").write_text("dataset\n")
    with pytest.raises(ValueError, match="collect the runs again"):
        Results.load(tmp_path)
    assert list(Results.load(FOLDER).jackknife.columns) == JACKKNIFE
