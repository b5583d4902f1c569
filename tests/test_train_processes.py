"""Training in several processes: the same weights, one checkpoint, one line when one ends."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from faulty import fail_in_second
from safetensors.torch import load_file

from pndm import _distributed, train
from pndm._distributed import Part, PartialDropout
from pndm.config.compose import compose_train
from pndm.config.schema import ConfigError

TINY = ["recipe.iterations=6", "recipe.checkpoint_every=2", "recipe.log_every=1", "device=cpu"]
TINY += ["recipe.batch_size=8", "recipe.warmup=1", "recipe.decay=false", "dataset.flip=true"]
TINY += ["recipe.lr=2e-4"]  # small, as Adam divides by the gradient, of rounding too


def trained(folder, *words):
    """Weights, losses and card of a training."""
    path = train.train(compose_train([*TINY, f"output={folder}", *words]))
    losses = torch.tensor(json.loads((folder / "losses.json").read_text())).double()
    return load_file(path), losses, json.loads(path.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("alone") / "net")


def assert_same(found, expected):
    """Both trainings to rounding: 1e-6, relative."""
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=0)
    one, other = (torch.cat([w.flatten() for w in side[0].values()]) for side in (found, expected))
    assert (one - other).norm() < 1e-6 * other.norm()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_a_batch(alone, tmp_path, processes):
    """Three have unequal parts of 8 images. Dropout and flips are on."""
    found = trained(tmp_path / "net", f"processes={processes}")
    assert_same(found, alone)
    assert found[2]["processes"] == processes and "processes" not in alone[2]
    assert not list((tmp_path / "net").glob(".*"))


@pytest.mark.slow
def test_another_number_of_processes_continues(alone, tmp_path):
    trained(tmp_path / "net", "recipe.iterations=2", "processes=2")
    trained(tmp_path / "net", "recipe.iterations=4")
    assert_same(trained(tmp_path / "net", "processes=2"), alone)


@pytest.mark.slow
def test_the_loss_of_another_training_or_of_none_is_one_line(tmp_path):
    trained(tmp_path / "net", "recipe.iterations=2")
    with pytest.raises(_distributed.PndmError, match=r"another training \(seed=0\)"):
        trained(tmp_path / "net", "seed=1", "processes=2")
    with pytest.raises(_distributed.PndmError, match="lower recipe.lr"):
        trained(tmp_path / "wild", "recipe.lr=1e30", "processes=2")


@pytest.mark.slow
def test_a_bug_keeps_the_traceback_of_the_process_that_has_it():
    with pytest.raises(RuntimeError, match="in fail_in_second(?s:.*)ZeroDivisionError: a bug"):
        _distributed.run_processes(fail_in_second, 2, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_all_processes_end_together(tmp_path, number):
    """By a signal to the command, or by one that kills a process; then the command continues."""
    words = [*TINY, f"output={tmp_path / 'net'}", "recipe.iterations=100000", "processes=2"]
    with (tmp_path / "log").open("wb") as log:
        command = psutil.Popen(
            [sys.executable, "-m", "pndm.train", *words], stdout=log, stderr=subprocess.STDOUT
        )
        while not (tmp_path / "net" / "checkpoint.pt").exists():
            assert command.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        children = command.children(recursive=True)
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 2
        (workers[1] if number == signal.SIGKILL else command).send_signal(number)
        assert command.wait(60) == (1 if number == signal.SIGKILL else 130)
    said = (tmp_path / "log").read_text()
    expected = "SIGKILL" if number == signal.SIGKILL else "interrupted"
    assert expected in said and "the same command continues from the last checkpoint" in said
    assert "Traceback" not in said
    assert not psutil.wait_procs(children, timeout=60)[1]
    done = torch.load(tmp_path / "net" / "checkpoint.pt", weights_only=True)["iteration"]
    _, losses, _ = trained(tmp_path / "net", f"recipe.iterations={done + 2}", "processes=2")
    assert len(losses) == done + 2


def test_parts_are_the_batch_in_order_and_weigh_as_much():
    for processes in range(1, 9):
        parts = [Part(rank, processes) for rank in range(processes)]
        batch = torch.arange(8.0)
        assert torch.equal(torch.cat([part.of(batch) for part in parts]), batch)
        means = [part.of(batch).mean() * part.weight(8) for part in parts]
        assert sum(means) / processes == pytest.approx(batch.mean())


def test_one_process_has_the_network_itself():
    network = torch.nn.Sequential(torch.nn.Dropout(0.1))
    assert _distributed.distribute(network, Part(), 8) is network
    assert Part().weight(7) == 1 and type(network[0]) is torch.nn.Dropout


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_of_parts_is_that_of_the_batch(layout):
    whole = torch.randn(5, 6, 4, 4).contiguous(memory_format=layout)
    torch.manual_seed(1)
    expected, parts = torch.nn.Dropout(0.3)(whole), []
    for rank in range(2):
        torch.manual_seed(1)
        part = Part(rank, 2)
        parts.append(PartialDropout(0.3, part, 5)(part.of(whole)))
    torch.testing.assert_close(torch.cat(parts), expected)
    torch.testing.assert_close(PartialDropout(0.3, part, 5).eval()(whole), whole, rtol=0, atol=0)


def test_gpus_are_one_for_each_process(monkeypatch):
    """`auto` is all of them, and no more than there are images in a batch."""
    monkeypatch.setattr("pndm.config.validate.resolve_device", lambda _: "cuda")
    monkeypatch.setattr("pndm.config.validate.check_device", lambda _: None)
    monkeypatch.setattr("pndm.config.validate.gpu_count", lambda: 4)
    words = ["dataset=digits", "device=cuda"]
    assert compose_train([*words]).processes == 1
    assert compose_train([*words, "processes=auto"]).processes == 4
    assert compose_train([*words, "processes=auto", "recipe.batch_size=3"]).processes == 3
    with pytest.raises(ConfigError, match="processes=9: this machine has 4 GPUs"):
        compose_train([*words, "processes=9"])
    with pytest.raises(ConfigError, match="device=cuda:1 is one GPU"):
        compose_train(["device=cuda:1", "processes=2"])
    monkeypatch.undo()
    assert compose_train([*TINY, "processes=auto"]).processes == 1


def test_torchrun_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ConfigError, match="python -m pndm.train processes=N"):
        compose_train(TINY)
