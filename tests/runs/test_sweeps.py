"""The cells of a sweep, in sequence or in parallel: one table, and nothing computed twice."""

import os
import signal

import pytest
import torch
from commands import Fork, complete, finish, start, times, wait_for

from pndm.config.compose import compose_runs
from pndm.config.schema import to_yaml
from pndm.runs import command, worker
from pndm.runs.processes import assign_gpu, process_count
from pndm.runs.worker import main

SWEEP = [
    *("-m", "schedule=linear,cosine", "solver=plms", "steps=2,3,200"),
    *("samples=40", "progress=false", "wandb.mode=disabled"),
]
LAUNCHERS = ["basic", "joblib", "slurm_local"]


def table(folder):
    """What must not depend on the process of a cell: its record's path, and its numbers."""
    return {path: (r["nfe"], r["fid"], r["key"]) for path, r in complete(folder).items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(Fork(SWEEP, folder))
    return table(folder)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_killed_and_repeated_anywhere_gives_the_same_table(
    undisturbed, tmp_path, launcher
):
    assert len(undisturbed) == 6
    sweep = [*SWEEP, f"launcher={launcher}"]
    begin = Fork if launcher == "basic" else start
    process = begin(sweep, tmp_path)
    wait_for(lambda: complete(tmp_path), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    cells, shards = times(tmp_path, "metrics.json"), times(tmp_path, "shards/*/*/*.npz")
    assert 0 < len(cells) < 6

    out = finish(begin(sweep, tmp_path))
    assert table(tmp_path) == undisturbed
    assert cells.items() <= times(tmp_path, "metrics.json").items()  # none was made again
    assert shards.items() <= times(tmp_path, "shards/*/*/*.npz").items()
    rows = [line for line in out.splitlines() if line.startswith("│") and "complete" in line]
    assert len(rows) == 6


def test_an_experiment_is_a_sweep_without_m(tmp_path):
    words = ["experiment=abstract", "solver=ddim,s_pndm", "steps=2", "schedule=linear"]
    out = finish(Fork([*words, "samples=2", "fid=off", "wandb.mode=disabled"], tmp_path))
    assert len(complete(tmp_path)) == 2 and "not run" not in out


# GPUs are assigned in turn


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


def cell(*arguments):
    (run,) = compose_runs([*arguments])
    return run


@pytest.mark.parametrize("launcher", ["joblib", "slurm_local"])
def test_cells_take_the_gpus_of_a_machine_in_turn(two_gpus, launcher):
    devices = [assign_gpu(cell(), launcher, number).device for number in range(3)]
    assert devices == ["cuda:0", "cuda:1", "cuda:0"]
    assert assign_gpu(cell("device=cpu"), launcher, 1).device == "cpu"
    assert assign_gpu(cell("device=cuda:1"), launcher, 0).device == "cuda:1"
    assert assign_gpu(cell("processes=auto"), launcher, 1).device == "auto"


def test_without_gpus_there_is_nothing_to_assign(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert assign_gpu(cell(), "joblib", 1).device == "auto"


def test_tasks_of_a_node_take_its_gpus_in_turn(two_gpus, monkeypatch):
    assert assign_gpu(cell(), "basic", 1).device == "auto"
    for task, device in enumerate(["cuda:0", "cuda:1", "cuda:0"]):
        monkeypatch.setenv("SLURM_LOCALID", str(task))
        assert assign_gpu(cell(), "slurm", 5).device == device
        assert assign_gpu(cell("processes=2"), "slurm", 5).device == "auto"


@pytest.mark.parametrize("gpus", [None, "1,3"])
def test_cells_see_the_gpus_that_their_sweep_saw(monkeypatch, gpus):
    monkeypatch.delenv(command.VISIBLE_GPUS, raising=False)
    if gpus:
        monkeypatch.setenv(command.VISIBLE_GPUS, gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so does submitit's local executor
    command.restore_visible_gpus()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == gpus


def test_workers_take_the_gpus_of_a_machine_in_turn(two_gpus, tmp_path, monkeypatch):
    settings, devices = tmp_path / "config.yaml", []
    settings.write_text(to_yaml(cell("processes=auto", "fid=off")))
    monkeypatch.setattr(worker, "process_shards", lambda job, *_: devices.append(str(job.device)))
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        main(str(settings))
    assert devices == ["cuda:0", "cuda:1", "cuda:0"]
    assert process_count(cell("processes=auto")) == 2
