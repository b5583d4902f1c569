"""The predicted cost of runs against measurements."""

import pytest
import torch

import pndm
from pndm import cost
from pndm.config.compose import compose_runs
from pndm.runs import timing
from pndm.runs.batches import BatchSize
from pndm.runs.network import Runner


def predicted(*words, seconds=0.3):
    (cfg,) = compose_runs([*words, "device=cpu"])
    return cost.predict(cfg, seconds)


def test_flops_without_weights():
    assert cost.flops("digits_linear") == pytest.approx(13.65e6, rel=1e-3)
    assert cost.flops("ddpm_cifar10") == pytest.approx(12.44e9, rel=1e-3)


def test_evaluations_operations_and_disk_are_exact():
    result = predicted(
        "samples=1000", "batch_size=50", "solver=prk", "steps=10", "save_images=npz"
    )
    assert result.nfe == 37 and result.timing.batch == 50
    assert result.flops == pytest.approx(37 * 1000 * 13.65e6, rel=1e-3)
    assert result.disk == 1000 * (2 * 64 + 8 * 64)
    assert result.sampling == pytest.approx(37 * 1000 * result.timing.seconds)
    assert result.features > 0 and result.memory > 2**26


def test_without_fid_there_are_no_features():
    result = predicted("samples=10", "steps=2", "fid=off")
    assert result.features is None and result.disk == 10 * 64


def test_missing_weights_take_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setenv("PNDM_HOME", str(tmp_path))
    result = predicted(
        "dataset=cifar10", "solver=ddim", "steps=10", "samples=50000", "batch_size=1"
    )
    assert result.nfe == 10 and result.flops == pytest.approx(10 * 50_000 * 12.44e9, rel=1e-3)
    assert result.disk == 50_000 * (3 * 32 * 32 + 4 * 2048) and result.features is None


def test_an_adaptive_method_tells_what_it_took():
    result = predicted("solver=pf", "solver.rtol=0.01", "solver.atol=0.01", "samples=4")
    assert 20 < result.nfe < 1000 and result.sampling > 0


@pytest.fixture
def slow_network(monkeypatch):
    """A network whose every call takes 0.2 s for each image, the first of each size 5 s more."""
    now = [0.0]
    sizes = []

    def call(runner, x, t):
        now[0] += 0.2 * len(x) + 5 * (len(x) not in sizes)
        sizes.append(len(x))
        return x

    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Runner, "__call__", call)
    runner = Runner(pndm.models.load("digits_linear"), torch.device("cpu"))
    return runner, sizes


def test_the_first_call_warms_up(slow_network, tmp_path):
    runner, sizes = slow_network
    result = timing.time_evaluations(runner, BatchSize(1, tmp_path), seconds=1)
    assert result.seconds == pytest.approx(0.2) and result.batch == 1
    assert sizes == [1] * 6


def test_a_long_call_need_not_be_of_the_runs_batch_size(slow_network, tmp_path):
    runner, sizes = slow_network
    result = timing.time_evaluations(runner, BatchSize(500, tmp_path), seconds=1)
    assert result.seconds == pytest.approx(0.2) and max(sizes) == 1


def test_what_is_negligible_is_not_timed_further(slow_network, tmp_path):
    runner, sizes = slow_network
    timing.time_evaluations(runner, BatchSize(500, tmp_path), negligible=6)
    assert sizes == [1]


def test_batches_that_do_not_fit_are_halved(tmp_path, monkeypatch):
    runner = Runner(pndm.models.load("digits_linear"), torch.device("cpu"))
    network, sizes = runner.network, []

    def limited(x, t):
        sizes.append(len(x))
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(x, t)

    monkeypatch.setattr(runner, "network", limited)
    result = timing.time_evaluations(runner, BatchSize(16, tmp_path), seconds=0.01)
    assert result.batch == 4 and 16 in sizes


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
    assert cost.format_duration(7200) == "2.0 h" and cost.format_duration(90) == "90.0 s"
    assert cost.format_size(3 * 2**30) == "3.00 GiB"
