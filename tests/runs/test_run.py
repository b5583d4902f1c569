"""Whole runs: their records, cached shards, and recovery."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from commands import Fork, finish, start, times, wait_for
from PIL import Image
from safetensors.torch import load_file, save_file

import pndm
from pndm.config.compose import compose_runs
from pndm.data import images
from pndm.evaluation.features import MissingReference, load_extractor
from pndm.evaluation.metrics import kid, precision_recall
from pndm.evaluation.reference import evaluation_hash, reference_features, reference_path
from pndm.models import registry
from pndm.runs import batches, job, measure, worker
from pndm.runs.job import Job
from pndm.runs.network import cached_runner, load_network
from pndm.runs.record import summarize
from pndm.runs.run import run_experiment

SMALL = ["samples=20", "steps=3", "wandb.mode=disabled", "progress=false", "device=cpu"]
KEYS = (
    "schema status solver schedule dataset model steps nfe samples seed fid seconds "
    "device precision commit versions"
)


@pytest.fixture(autouse=True)
def forget_networks():
    """Some tests break a network, and a process caches the last."""
    yield
    cached_runner.cache_clear()
    load_network.cache_clear()


@pytest.fixture
def run(tmp_path):
    """Execute a run in a fresh outputs folder; return its record and folder."""

    def go(*arguments):
        (cfg,) = compose_runs([*SMALL, f"outputs={tmp_path}/outputs", *arguments])
        path = run_experiment(cfg)
        return json.loads(path.read_text()), path.parent

    return go


def stored(folder):
    with np.load(folder / "images.npz") as file:
        return file["images"]


def test_the_record_is_complete_and_the_picture_shows_the_samples(run):
    record, folder = run("samples=200")
    assert not [key for key in KEYS.split() if key not in record]
    assert (record["status"], record["solver"], record["nfe"]) == ("complete", "plms", 9)
    assert set(record["fid"]) >= {"value", "extractor", "se", "reference"}
    assert record["fid"]["value"] > 0 and record["fid"]["se"] > 0
    assert "digits" in record["fid"]["extractor"]
    assert set(record["seconds"]) >= {"sampling", "features", "total"}
    assert record["weights"]["sha256"] and record["settings"]["schedule"]["min_alpha_bar"] == 4e-5
    picture = Image.open(folder / "samples.png")
    assert picture.size[0] == picture.size[1] > 400
    assert json.loads((folder / "status.json").read_text())["status"] == "complete"
    assert not list(folder.parent.rglob("*.partial"))


def test_runs_of_one_process_share_the_network(run, monkeypatch):
    calls, load = [], pndm.models.load
    monkeypatch.setattr(
        pndm.models.checkpoints, "load", lambda *a, **k: calls.append(a) or load(*a, **k)
    )
    first, _ = run("solver=ddim")
    run("solver=plms")
    assert len(calls) == 1
    run("schedule=cosine")
    again, _ = run("solver=ddim", "overwrite=true")
    assert len(calls) == 2 and again["fid"] == first["fid"]


def test_kid_and_precision_recall_are_options(run):
    record, folder = run("kid=auto", "prc=auto", "samples=40")
    extractor = load_extractor("digits")
    (cfg,) = compose_runs([*SMALL, f"outputs={folder.parent.parent.parent}", "samples=40"])
    images_ = torch.from_numpy(Job(cfg).image_shard(0)["images"])
    real = reference_features("digits", extractor)
    assert record["kid"] == pytest.approx(kid(extractor(images_), real))
    assert record["kid"]["subset_size"] == 40
    assert record["prc"] == pytest.approx(precision_recall(extractor(images_), real))
    without, other = run("samples=40")
    assert other != folder and not {"kid", "prc"} & set(without)
    assert without["fid"]["value"] == record["fid"]["value"]
    assert without["shards"] == {"made": 0, "found": 1}


def test_images_are_those_of_their_seeds_in_order(run):
    _, folder = run("save_images=npz", "seed=3")
    got = stored(folder)
    assert got.dtype == np.uint8 and got.shape == (20, 8, 8, 1)
    x_T = pndm.initial_noise([3 * 2**32 + i for i in range(20)], (1, 8, 8))
    x_0 = pndm.sample(
        pndm.models.load("digits_linear"),
        x_T,
        solver=pndm.solvers.plms(),
        schedule=pndm.schedules.linear(),
        steps=3,
    )
    expected = images.to_uint8(x_0).permute(0, 2, 3, 1).numpy()
    apart = np.abs(got.astype(int) - expected)  # another memory layout rounds otherwise
    assert apart.max() <= 1 and np.mean(apart > 0) < 0.01


def test_sets_of_seeds_have_other_images(run):
    fids = [run(f"seed={seed}")[0]["fid"]["value"] for seed in (0, 1, 2, 2**20)]
    assert len(set(fids)) == 4


def test_png_images_hold_the_same_pixels(run):
    _, folder = run("save_images=npz")
    _, again = run("save_images=png")
    assert folder == again
    files = sorted((folder / "images").glob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    np.testing.assert_array_equal(pixels, stored(folder)[..., 0])


def test_the_same_run_again_makes_nothing(run, monkeypatch, capsys):
    first, _ = run()
    monkeypatch.setattr(worker, "sample_images", None)
    again, _ = run("batch_size=3")
    assert first == again
    assert "complete already" in capsys.readouterr().out


def test_a_status_that_a_kill_left_behind_is_put_right(run, tmp_path):
    _, folder = run()
    status = folder / "status.json"
    status.write_text(json.dumps({"status": "running"}))
    (cfg,) = compose_runs([*SMALL, f"outputs={tmp_path}/outputs"])
    assert summarize([cfg]) == 1
    run()
    assert summarize([cfg]) == 0
    assert json.loads(status.read_text())["status"] == "complete"


def test_overwrite_makes_it_again(run):
    run()
    record, _ = run("overwrite=true")
    assert record["shards"] == {"made": 1, "found": 0}


@pytest.mark.parametrize("broken", [{"fid": None}, {"seconds": {}}, {"nfe": None}])
def test_a_record_that_lacks_something_is_made_again(run, broken):
    record, folder = run()
    path = folder / "metrics.json"
    path.write_text(json.dumps(record | broken))
    again, _ = run()
    assert again["fid"] == record["fid"] and again["nfe"] == record["nfe"]


@pytest.mark.parametrize("how", ["npz", "png"])
def test_damaged_pictures_are_written_again(run, how):
    _, folder = run(f"save_images={how}")
    path = folder / {"npz": "images.npz", "png": "images/000003.png"}[how]

    def content():
        return stored(folder) if how == "npz" else np.asarray(Image.open(path))

    whole = content()
    for damage in (lambda: path.write_bytes(b""), path.unlink):
        damage()
        run(f"save_images={how}")
        np.testing.assert_array_equal(content(), whole)


@pytest.mark.parametrize("junk", ["abc", "0", ""])
def test_a_damaged_note_of_the_batch_size_is_ignored(run, junk):
    _, folder = run()
    (note,) = [path / "batch_size" for path in folder.parents[2].glob("shards/*")]
    note.write_text(junk)
    record, _ = run("samples=30", "batch_size=7")
    assert record["batch_size"] == 7


def test_a_closed_pipe_leaves_a_finished_run_finished(run, monkeypatch):
    monkeypatch.setattr(
        "pndm.runs.record.show", lambda record: (_ for _ in ()).throw(SystemExit(1))
    )
    with pytest.raises(SystemExit):
        run()
    monkeypatch.undo()
    record, folder = run()
    assert json.loads((folder / "status.json").read_text())["status"] == "complete"
    assert record["shards"]["made"] == 1


def test_more_samples_keep_the_images_that_are_there(run, monkeypatch):
    monkeypatch.setattr("pndm.runs.shards.SHARD", 8)
    _, few = run("save_images=npz")
    seeds = []
    sample = batches.sample_batch

    def record_seeds(cfg, network, some, *others):
        seeds.extend(some)
        return sample(cfg, network, some, *others)

    monkeypatch.setattr(batches, "sample_batch", record_seeds)
    record, more = run("save_images=npz", "samples=30")
    assert few != more
    assert seeds == list(range(20, 30))
    np.testing.assert_array_equal(stored(more)[:20], stored(few))
    assert record["shards"] == {"made": 2, "found": 2}


def test_images_do_not_depend_on_the_batch_size(run, monkeypatch):
    """But for the last level of 0.04 to 0.15 % of the pixels, by processor (measured)."""
    _, folder = run("save_images=npz", "samples=64", "batch_size=64")
    whole = stored(folder).astype(int)
    for size in (1, 7):
        _, folder = run("save_images=npz", "samples=64", f"batch_size={size}", "overwrite=true")
        assert np.abs(stored(folder) - whole).max() <= 1
        assert (stored(folder) != whole).mean() <= 3e-3


def test_fid_does_not_depend_on_how_images_were_cut_into_shards(run, monkeypatch):
    whole, _ = run("samples=210")
    monkeypatch.setattr("pndm.runs.shards.SHARD", 13)
    cut, _ = run("samples=210", "overwrite=true")
    assert cut["fid"]["value"] == pytest.approx(whole["fid"]["value"], rel=1e-4)
    assert cut["fid"]["se"] == pytest.approx(whole["fid"]["se"], rel=1e-3)


def flipped(content, at):
    """The content with one bit flipped, at a fraction of its length."""
    position = int(at * len(content))
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize("damage", [lambda b: b[:-10], lambda b: flipped(b, 0.5), lambda b: b""])
def test_a_damaged_shard_is_reported_and_made_again(run, tmp_path, capsys, damage):
    _, folder = run("save_images=npz")
    before = stored(folder)
    (shard,) = (tmp_path / "outputs" / "shards").rglob("images/*.npz")
    shard.write_bytes(damage(shard.read_bytes()))
    (folder / "metrics.json").unlink()
    record, _ = run("save_images=npz")
    assert "damaged" in capsys.readouterr().out
    assert record["shards"]["made"] == 1
    np.testing.assert_array_equal(stored(folder), before)


def test_stochastic_solvers_follow_their_seeds(run):
    _, folder = run("solver=ddpm", "save_images=npz", "batch_size=20")
    first = stored(folder).astype(int)
    _, folder = run("solver=ddpm", "save_images=npz", "batch_size=6", "overwrite=true")
    assert np.abs(stored(folder) - first).max() <= 1
    assert first.std() > 0


def test_the_adaptive_flow_records_its_measured_evaluations(run):
    record, _ = run("solver=pf", "solver.rtol=1e-2", "solver.atol=1e-2", "samples=4")
    low, high = record["nfe_range"]
    assert 10 < low <= record["nfe"] <= high


def test_fid_is_skipped_with_its_reason(run):
    off, _ = run("fid=off")
    assert off["fid"]["value"] is None and off["fid"]["reason"] == "fid=off"
    one, _ = run("samples=1")
    assert "raise samples" in one["fid"]["reason"]


def broken(tmp_path, change):
    weights = load_file(registry.find("digits_linear").require())
    change(weights)
    path = tmp_path / "broken.safetensors"
    save_file(weights, path)
    return [f"model.checkpoint={path}", "model.architecture=digits_linear"]


def test_a_network_that_returns_nan_stops_the_run(run, tmp_path):
    own = broken(tmp_path, lambda w: w["conv_out.weight"].fill_(3e38))
    with pytest.raises(FloatingPointError, match=r"evaluation \d at time 666: .* NaN"):
        run(*own)
    (record,) = (tmp_path / "outputs").rglob("metrics.json")
    content = json.loads(record.read_text())
    assert content["status"] == "failed" and "at time 666" in content["error"]
    assert json.loads(record.with_name("status.json").read_text())["status"] == "failed"


def test_a_network_of_the_wrong_shape_stops_the_run(run, monkeypatch):
    monkeypatch.setattr(pndm.models, "load", lambda *_, **__: Wrong())
    with pytest.raises(ValueError, match=r"evaluation 0 at time 666: .* shape \(20, 1, 8, 4\)"):
        run()


class Wrong(torch.nn.Module):
    arch = registry.ARCHITECTURES["digits_linear"]

    def forward(self, x, t):
        return x[..., :4]


def test_a_record_of_a_newer_schema_is_refused(run):
    _, folder = run()
    record = folder / "metrics.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "schema": 999}))
    with pytest.raises(ValueError, match="newer version"):
        run()

    with pytest.raises(ValueError, match="newer version"):
        run("overwrite=true")
    (cfg,) = compose_runs([*SMALL, f"outputs={folder.parents[2]}"])
    assert summarize([cfg]) == 1


@pytest.mark.parametrize(
    "content",
    [*(b"{}", b"[]", b"5", b"\xff\xfe", b""), b'{"schema": 1, "status": "complete"}'],
)
def test_records_that_are_none_are_made_again(run, content):
    first, folder = run()
    for name in ("metrics.json", "status.json"):
        (folder / name).write_bytes(content)
    again, _ = run()
    assert again["fid"] == first["fid"] and again["shards"] == {"made": 0, "found": 1}


def test_pictures_that_a_kill_cut_short_are_completed(run):
    run("save_images=png")
    _, folder = run("save_images=png")
    (folder / "images" / "000019.png").unlink()
    run("save_images=png")
    assert len(list((folder / "images").glob("*.png"))) == 20


def test_what_was_missing_is_measured_when_it_is_there(run, monkeypatch):
    """A run without a reference, and the same command when there is one: another folder."""
    extractor = load_extractor

    def gone(*arguments):
        raise MissingReference("no Inception weights")

    monkeypatch.setattr(measure, "load_extractor", gone)
    monkeypatch.setattr(job, "evaluation_hash", lambda *arguments: [None, None])
    skipped, _ = run()
    assert skipped["fid"]["value"] is None and "no Inception" in skipped["fid"]["reason"]
    monkeypatch.setattr(measure, "load_extractor", extractor)
    monkeypatch.setattr(job, "evaluation_hash", lambda *arguments: ["there", "too"])
    record, _ = run()
    assert record["fid"]["value"] > 0 and record["key"] == skipped["key"]


def test_a_run_is_named_by_the_reference_that_it_is_judged_by(tmp_path):
    """Each directory has its own reference, and a recomputed reference is another one."""
    prints = {n: evaluation_hash("folder", "inception", tmp_path / n) for n in "ab"}
    assert prints["a"][1:] == prints["b"][1:] == [None, None]
    path = reference_path("folder", "inception", tmp_path / "a")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"one")
    one = evaluation_hash("folder", "inception", tmp_path / "a")
    path.write_bytes(b"another")
    assert one != evaluation_hash("folder", "inception", tmp_path / "a")
    assert prints["b"] == evaluation_hash("folder", "inception", tmp_path / "b")


def test_overwriting_a_small_run_leaves_the_shards_beyond_it(run, monkeypatch):
    monkeypatch.setattr("pndm.runs.shards.SHARD", 8)
    run("samples=30")
    run("samples=8", "overwrite=true")
    record, _ = run("samples=31")
    assert record["shards"] == {"made": 1, "found": 3}


def test_too_few_images_for_a_measure_are_a_reason(run):
    record, _ = run("samples=1", "kid=auto", "prc=auto")
    assert "raise samples" in record["kid"]["reason"] and "4 images" in record["prc"]["reason"]
    record, _ = run("samples=2", "kid=auto", "prc=auto")
    assert np.isfinite(record["kid"]["value"]) and "reason" in record["prc"]


def test_a_shard_in_the_place_of_another_is_made_again(run, monkeypatch, capsys):
    monkeypatch.setattr("pndm.runs.shards.SHARD", 8)
    _, folder = run("save_images=npz", "samples=24")
    expected = stored(folder)
    shards = sorted(folder.parents[2].rglob("images/*.npz"))
    shards[1].write_bytes(shards[0].read_bytes())
    (folder / "metrics.json").unlink()
    _, folder = run("save_images=npz", "samples=24")
    np.testing.assert_array_equal(stored(folder), expected)
    assert "damaged, computed again" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_run_that_started_them(tmp_path, how):
    """At once if it can signal them, else after their current shard."""
    arguments = ["samples=6000", "steps=20", "solver=ddim", "wandb.mode=disabled", "processes=2"]
    process = Fork(arguments, tmp_path)
    wait_for(lambda: list(tmp_path.rglob("images/*.npz")), process)
    process.send_signal(how)
    process.communicate()
    assert process.returncode == (130 if how == signal.SIGTERM else -how)

    def left():
        return [
            result
            for result in psutil.process_iter(["cmdline"])
            if str(tmp_path) in " ".join(result.info["cmdline"] or ())
        ]

    end = time.monotonic() + 120
    while left() and time.monotonic() < end:
        time.sleep(0.5)
    assert not left() and len(list(tmp_path.rglob("images/*.npz"))) < 12


@pytest.mark.slow
def test_a_sweep_makes_every_cell_and_ends_with_its_records(tmp_path):
    sweep = ["-m", "solver=ddim,plms", "schedule=linear,cosine", "wandb.mode=offline"]
    out = finish(start([*sweep, "samples=20", "steps=3", "progress=false"], tmp_path))
    paths = [line.removeprefix("record: ") for line in out.splitlines() if "record: " in line]
    assert out.splitlines()[-1].startswith("record: ")
    records = [json.loads(Path(path).read_text()) for path in paths]
    cells = {(r["solver"], r["schedule"], r["model"]) for r in records}
    assert len(cells) == 4 and ("plms", "cosine", "digits_cosine") in cells
    assert all("wandb sync" in record["wandb"] for record in records)


@pytest.mark.slow
def test_interrupted_runs_leave_nothing_half_written_and_go_on(tmp_path):
    arguments = ["samples=2000", "steps=10", "solver=ddim", "wandb.mode=disabled"]
    process = Fork(arguments, tmp_path)
    wait_for(lambda: list(tmp_path.rglob("images/*.npz")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    (status,) = tmp_path.rglob("status.json")
    assert json.loads(status.read_text())["status"] == "interrupted"
    assert not list(tmp_path.rglob("*.partial"))
    kept = times(tmp_path, "images/*.npz")
    finish(Fork(arguments, tmp_path))
    assert kept.items() <= times(tmp_path, "images/*.npz").items()
