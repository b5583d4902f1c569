"""What a run will take, foretold and found."""

import time

import pytest

from pndm import cost
from pndm.config.compose import compose_runs
from pndm.cost import StopTiming, Stopwatch


def predicted(*words, seconds=0.3):
    (cfg,) = compose_runs([*words, "device=cpu"])
    return cost.predict(cfg, seconds)


def test_flops_without_weights():
    assert cost.flops("digits_linear") == pytest.approx(13.65e6, rel=1e-3)
    assert cost.flops("ddpm_cifar10") == pytest.approx(12.44e9, rel=1e-3)


def test_evaluations_operations_and_disk_are_exact():
    found = predicted("samples=1000", "batch_size=50", "solver=prk", "steps=10", "save_images=npz")
    assert found.nfe == 37 and found.batch == 50
    assert found.flops == pytest.approx(37 * 1000 * 13.65e6, rel=1e-3)
    assert found.disk == 1000 * (2 * 64 + 4 * 64)
    assert found.sampling == pytest.approx(37 * 1000 * found.rate)
    assert found.features > 0 and found.memory > 2**26


def test_without_fid_there_are_no_features():
    found = predicted("samples=10", "steps=2", "fid=off")
    assert found.features is None and found.disk == 10 * 64


def test_missing_weights_take_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setenv("PNDM_HOME", str(tmp_path))
    found = predicted(
        "dataset=cifar10", "solver=ddim", "steps=10", "samples=50000", "batch_size=1"
    )
    assert found.nfe == 10 and found.flops == pytest.approx(10 * 50_000 * 12.44e9, rel=1e-3)
    assert found.disk == 50_000 * (3 * 32 * 32 + 4 * 2048) and found.features is None


def test_an_adaptive_method_tells_what_it_took():
    found = predicted("solver=pf", "solver.rtol=0.01", "solver.atol=0.01", "samples=4")
    assert 20 < found.nfe < 1000 and found.sampling > 0


def test_the_first_batch_warms_up(monkeypatch):
    clock = iter([0.0, 5.0, 6.0, 7.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = Stopwatch(6.5)
    watch(10)
    watch(10)
    with pytest.raises(StopTiming):
        watch(10)
    assert watch.rate == 0.1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["steps=0"], "give a whole number from 1 to 1000"),
        (["seconds=soon"], "seconds=soon: give a positive number"),
        (["seconds=-1"], "give a positive number"),
        (["step=5"], "did you mean steps"),
        (["dataset=cifar10", "solver=pf", "schedule=linear"], "models fetch"),
    ],
)
def test_what_cannot_be_foretold_is_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.setenv("PNDM_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=said) as stopped:
        cost.main(words)
    assert "\n" not in str(stopped.value)


def test_the_table_is_for_people(capsys):
    cost.main(["samples=1000", "steps=5", "seconds=0.2", "device=cpu"])
    out = capsys.readouterr().out
    for word in ("14 × 1,000 images", "sampling", "memory", "MiB", "images at once"):
        assert word in out
    assert cost.duration(7200) == "2.0 h" and cost.duration(90) == "90.0 s"
    assert cost.size(3 * 2**30) == "3.00 GiB"
