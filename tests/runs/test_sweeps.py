"""The cells of a sweep, one after the other or elsewhere: one table, and nothing made twice."""

import importlib.util
import os
import signal

import pytest
import torch
from commands import ROOT, complete, finish, start, times, wait_for

from pndm.config.build import process_count
from pndm.config.compose import compose_runs
from pndm.config.schema import to_yaml
from pndm.runs import worker
from pndm.runs.worker import main

SWEEP = [
    *("-m", "schedule=linear,cosine", "solver=ddim,s_pndm,plms", "steps=2,3"),
    *("samples=40", "progress=false", "wandb.mode=disabled"),
]
LAUNCHERS = ["basic", "joblib", "slurm_local"]


def table(folder):
    """What must not depend on who made a cell: where its record lies, and its numbers."""
    return {path: (r["nfe"], r["fid"], r["key"]) for path, r in complete(folder).items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(SWEEP, folder))
    return table(folder)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_killed_and_repeated_anywhere_gives_the_same_table(
    undisturbed, tmp_path, launcher
):
    assert len(undisturbed) == 12
    sweep = [*SWEEP, f"launcher={launcher}"]
    process = start(sweep, tmp_path)
    wait_for(lambda: complete(tmp_path), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    cells, shards = times(tmp_path, "metrics.json"), times(tmp_path, "*.shard")
    assert 0 < len(cells) < 12

    out = finish(start(sweep, tmp_path))
    assert table(tmp_path) == undisturbed
    assert cells.items() <= times(tmp_path, "metrics.json").items()  # none was made again
    assert shards.items() <= times(tmp_path, "*.shard").items()
    rows = [line for line in out.splitlines() if line.startswith("│") and "complete" in line]
    assert len(rows) == 12


# Graphics cards are dealt out in turn


@pytest.fixture
def two_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture(scope="module")
def command():
    """run.py as a module."""
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cell(*arguments):
    (run,) = compose_runs([*arguments])
    return run


@pytest.mark.parametrize("launcher", ["joblib", "slurm_local"])
def test_cells_take_the_cards_of_a_machine_in_turn(two_cards, command, launcher):
    devices = [command.deal(cell(), launcher, number).device for number in range(3)]
    assert devices == ["cuda:0", "cuda:1", "cuda:0"]
    assert command.deal(cell("device=cpu"), launcher, 1).device == "cpu"
    assert command.deal(cell("device=cuda:1"), launcher, 0).device == "cuda:1"
    assert command.deal(cell("processes=auto"), launcher, 1).device == "auto"


def test_without_cards_there_is_nothing_to_deal(monkeypatch, command):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.deal(cell(), "joblib", 1).device == "auto"


def test_tasks_of_a_node_take_its_cards_in_turn(two_cards, command, monkeypatch):
    assert command.deal(cell(), "basic", 1).device == "auto"
    for task, device in enumerate(["cuda:0", "cuda:1", "cuda:0"]):
        monkeypatch.setenv("SLURM_LOCALID", str(task))
        assert command.deal(cell(), "slurm", 5).device == device
        assert command.deal(cell("processes=2"), "slurm", 5).device == "auto"


@pytest.mark.parametrize("cards", [None, "1,3"])
def test_cells_see_the_cards_that_their_sweep_saw(command, monkeypatch, cards):
    monkeypatch.delenv(command.CARDS, raising=False)
    if cards:
        monkeypatch.setenv(command.CARDS, cards)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so does submitit's local executor
    command.deal(cell("device=cpu"), "slurm_local", 0)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == cards


def test_workers_take_the_cards_of_a_machine_in_turn(two_cards, tmp_path, monkeypatch):
    settings, devices = tmp_path / "config.yaml", []
    settings.write_text(to_yaml(cell("processes=auto", "fid=off")))
    monkeypatch.setattr(worker, "process_shards", lambda job, *_: devices.append(str(job.device)))
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        main(str(settings))
    assert devices == ["cuda:0", "cuda:1", "cuda:0"]
    assert process_count(cell("processes=auto")) == 2
