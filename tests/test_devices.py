"""Devices as a run sees them, with a machine that seems to have two GPUs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pndm._devices import check_device, resolve_precision
from pndm._errors import InputError
from pndm._files import file_state
from pndm._provenance import hardware
from pndm.config import compose
from pndm.config.compose import compose_runs
from pndm.config.schema import ConfigError
from pndm.models.architectures import ARCHITECTURES
from pndm.models.registry import find
from pndm.runs import command, job, record
from pndm.runs.job import Job, compile_setting
from pndm.runs.network import Runner, cached_runner
from pndm.runs.processes import process_count


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, the second of which has no TF32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    capability = {"cuda": (9, 0), "cuda:0": (9, 0), "cuda:1": (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: capability[str(name)])
    names = {"cuda:0": "first", "cuda:1": "second", "None": "current"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=None: names[str(name)])


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def run(*words):
    (cfg,) = compose_runs(["wandb.mode=disabled", *words])
    return cfg


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "auto", "cpu"])
def test_devices_that_are_here(gpus, name):
    check_device(name)
    torch.device("cpu" if name == "auto" else name)


@pytest.mark.parametrize(
    "name", ["cuda:99", "cuda:-1", "cuda:x", "cuda:", "cuda:01", "cuda:+1", "cuda:²", "cuda:1:1"]
)
def test_devices_that_are_not_are_told_in_one_line(gpus, name):
    with pytest.raises(InputError, match=f"device={name}".replace("+", r"\+")) as error:
        check_device(name)
    assert "\n" not in str(error.value)


# Precision


def test_automatic_precision(gpus):
    assert resolve_precision("auto", "cuda:0") == "tf32"
    assert resolve_precision("auto", "cuda:1") == resolve_precision("auto", "cpu") == "fp32"
    assert resolve_precision("bf16", "cuda:1") == "bf16"


def test_a_run_is_what_automatic_precision_means(gpus):
    cfg = run("device=cuda:0")
    assert cfg.precision == "auto" and Job(cfg).cfg.precision == "tf32"
    assert Job(cfg).key == Job(replace(cfg, precision="tf32")).key
    assert record.run_metadata(Job(cfg))["precision"] == "tf32"
    on_cpu = replace(cfg, device="cpu")
    assert Job(on_cpu).key == Job(replace(on_cpu, precision="fp32")).key
    assert Job(on_cpu).folder == Job(replace(cfg, device="cuda:1")).folder != Job(cfg).folder


def test_the_record_names_the_gpu_of_the_run(gpus):
    assert record.run_metadata(Job(run("device=cuda:1")))["machine"].endswith("second")
    assert hardware().endswith("current")


# The machine that runs is the one that checks


@pytest.mark.parametrize("words", [["device=cuda"], ["precision=tf32"], ["precision=fp16"]])
@pytest.mark.parametrize("launcher", ["launcher=slurm", "hydra/launcher=submitit_slurm"])
def test_a_node_without_gpus_submits_runs_for_one_with(no_gpu, monkeypatch, words, launcher):
    monkeypatch.setattr(compose, "_check_launcher", lambda name: None)
    monkeypatch.setattr(compose, "_check_hydra", lambda *_: None)
    with pytest.raises(ConfigError, match="GPU|CUDA"):
        compose_runs([*words, "solver=ddim,plms"], multirun=True)
    runs = compose_runs([*words, "solver=ddim,plms", launcher], multirun=True)
    assert len(runs) == 2


def submitted_job(run, monkeypatch):
    """Do what a job of a sweep does; return the runs that began."""
    began = []
    monkeypatch.setattr(command, "cells", [])
    monkeypatch.setattr(command, "current_cell", lambda: compose.Cell(0, "slurm_local", []))
    monkeypatch.setattr(command, "from_hydra", lambda cfg: run)
    monkeypatch.setattr("pndm.runs.processes.assign_gpu", lambda run, *_: run)
    monkeypatch.setattr("pndm.runs.run.run_experiment", lambda run, sweep: began.append(run))
    command.job(SimpleNamespace())
    return began


def test_a_job_checks_its_machine(no_gpu, monkeypatch, capsys):
    cfg = replace(run("device=cpu"), device="cuda")
    assert not submitted_job(cfg, monkeypatch)
    assert "error: device=cuda: this machine has no CUDA" in capsys.readouterr().err


def test_a_job_sees_its_gpus_before_it_checks(monkeypatch, capsys):
    """submitit's local executor hides all GPUs; what the sweep saw is restored first."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv(command.VISIBLE_GPUS, "0,1")
    monkeypatch.setattr(
        torch.cuda, "is_available", lambda: command.os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    )
    cfg = replace(run("device=cpu"), device="cuda")
    assert submitted_job(cfg, monkeypatch) == [cfg] and not capsys.readouterr().err


def test_a_sweep_is_summed_up_in_the_precision_of_its_jobs(no_gpu, tmp_path, capsys):
    """A login node does not know whether `auto` was tf32 where the jobs ran."""
    cfg = run(f"outputs={tmp_path}")
    done = Job(replace(cfg, precision="tf32"))
    done.folder.mkdir(parents=True)
    numbers = {"status": "complete", "schema": record.SCHEMA, "nfe": 59, "fid": {"value": 1.5}}
    numbers["seconds"] = {"sampling": 1, "features": 1, "total": 2}
    for name in ("metrics", "status"):
        (done.folder / f"{name}.json").write_text(json.dumps(numbers))
    (done.folder / "samples.png").touch()
    assert record.summarize([cfg]) == 0
    assert record.summarize([replace(cfg, precision="fp32")]) == 1


# Several processes


def test_tasks_do_not_start_a_worker_for_each_gpu(gpus, monkeypatch):
    """Each task of a Slurm step has its own GPU, and would else start workers on all of them."""
    cfg = run("processes=auto")
    assert process_count(cfg) == 2
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert process_count(cfg) == 1
    assert process_count(run("processes=3")) == 3


def test_a_worker_makes_its_gpu_the_current_one(gpus, monkeypatch, tmp_path):
    from pndm.config.schema import to_yaml
    from pndm.runs import worker

    order = []
    settings = tmp_path / "settings.yaml"
    settings.write_text(to_yaml(run("fid=off")))
    monkeypatch.setattr(torch.cuda, "set_device", lambda name: order.append(str(name)))
    monkeypatch.setattr(worker, "process_shards", lambda job, *_: order.append(job.device))
    monkeypatch.setenv("LOCAL_RANK", "1")
    worker.main(str(settings))
    assert order == ["cuda:1", torch.device("cuda:1")]


def test_the_shape_of_an_image_needs_no_gpu(gpus, monkeypatch):
    monkeypatch.setattr(job, "cached_runner", lambda *_: pytest.fail("moved to the GPU"))
    assert Job(run("device=cuda")).shape == (1, 8, 8)


# Compilation


def test_only_long_runs_are_compiled_by_themselves():
    cuda, big = torch.device("cuda"), ARCHITECTURES["ddpm_cifar10"]
    short, long = run("samples=500", "device=cpu"), run("samples=50000", "device=cpu")
    small = ARCHITECTURES["digits_linear"]
    assert compile_setting(long, big, cuda) == "auto"
    assert compile_setting(short, big, cuda) == compile_setting(long, small, cuda) == "off"
    assert compile_setting(replace(short, compile="max"), small, cuda) == "max"
    assert compile_setting(run("solver=pf", "samples=50000", "device=cpu"), big, cuda) == "auto"
    assert compile_setting(long, big, torch.device("cpu")) == "auto"


def test_small_networks_get_cuda_graphs():
    """Their evaluations take less time than launching them; few images at once are small too."""
    cuda, big = torch.device("cuda"), ARCHITECTURES["ddpm_cifar10"]
    small = ARCHITECTURES["digits_linear"]
    assert compile_setting(run("samples=1000000", "device=cpu"), small, cuda) == "graphs"
    few = run("samples=50000", "batch_size=4", "device=cpu")
    assert compile_setting(few, big, cuda) == "graphs"
    assert compile_setting(run("samples=50000", "device=cpu"), big, cuda) == "auto"


@pytest.fixture
def gpu_runner(monkeypatch):
    """A network as on a GPU, on the CPU: what `torch.compile` returns reuses its output."""
    settings, output = [], torch.empty(2, 1, 8, 8)

    def compiled(network, **how):
        settings.append(how)
        return lambda x, t: output.copy_(x)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "reset", lambda: settings.append("reset"))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *where, **how: self)

    def make(compile):
        cached_runner.cache_clear()
        path = find("digits_linear").require()
        how = (torch.device("cuda"), "fp32", compile)
        runner = cached_runner("digits_linear", None, "auto", file_state(path), *how)
        runner.device = torch.device("cpu")  # where its tensors are
        return runner, settings

    yield make
    cached_runner.cache_clear()


@pytest.mark.parametrize(
    ("compile", "mode", "is_graph"),
    [
        ("auto", "default", False),
        ("graphs", "reduce-overhead", True),
        ("max", "max-autotune", True),
    ],
)
def test_graphs_keep_neither_images_nor_memory(gpu_runner, compile, mode, is_graph):
    """Their outputs are copied, and the graphs of the network before are dropped."""
    runner, settings = gpu_runner(compile)
    assert settings == [*["reset"] * is_graph, {"mode": mode, "dynamic": False}]
    assert runner.mode == mode  # which is what the record says
    first = runner(torch.ones(2, 1, 8, 8), torch.zeros(2))
    runner(torch.zeros(2, 1, 8, 8), torch.zeros(2))
    assert (first == 1).all() == is_graph
    settings.clear()
    runner.free_memory()
    assert settings == ["reset"]


def test_compilation_is_for_static_shapes(monkeypatch):
    """A dynamic graph, which Dynamo makes after a second size, would serve later batches too."""
    how = []
    monkeypatch.setattr(torch, "compile", lambda network, **given: how.append(given) or network)
    from pndm.models.unet import UNet

    Runner(UNet(ARCHITECTURES["digits_linear"]), torch.device("cpu"), compile="max")
    assert how == [{"mode": "max-autotune-no-cudagraphs", "dynamic": False}]


# Copies


def test_a_copy_to_a_gpu_does_not_wait(monkeypatch):
    """From pageable memory it would wait for all work that is queued there."""
    from pndm._devices import copy_to

    calls = []

    def pin(tensor):
        calls.append("pinned")
        return tensor

    def to(tensor, *where, **how):
        calls.append((where, how))
        return tensor

    x = torch.zeros(2)
    assert copy_to(x, torch.device("cpu")) is x
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    copy_to(x, torch.device("cuda"))
    assert calls == ["pinned", ((torch.device("cuda"),), {"non_blocking": True})]


@pytest.mark.parametrize("solver", ["plms", "ddpm"])
def test_all_noise_is_copied_so(solver, monkeypatch, tmp_path):
    from pndm.runs import network
    from pndm.runs.batches import BatchSize, sample_batches

    copied = []
    monkeypatch.setattr(network, "copy_to", lambda x, device: copied.append(x.shape) or x)
    cfg = run(f"solver={solver}", "steps=5", "device=cpu", "samples=3")
    runner = Job(cfg).network
    monkeypatch.setattr(runner, "layout", torch.contiguous_format)
    sample_batches(cfg, runner, range(3), BatchSize(3, tmp_path), lambda images: None)
    rows = 4 if solver == "ddpm" else 0  # the last row adds none
    assert copied == [(3, 1, 8, 8)] * (1 + rows)


@pytest.mark.parametrize("solver", ["plms", "ddpm", "dpmpp_2m", "unipc"])
def test_a_batch_waits_for_the_gpu_at_its_end_only(solver, monkeypatch):
    """The number of waits does not depend on that of evaluations."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from pndm.runs.batches import sample_batch

    waits = []

    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), given=None):
            if "local_scalar" in str(operation) or "nonzero" in str(operation):
                waits.append(str(operation))
            return operation(*arguments, **(given or {}))

    for method in ("tolist", "numpy", "cpu"):
        plain = getattr(torch.Tensor, method)
        monkeypatch.setattr(
            torch.Tensor,
            method,
            lambda self, *given, plain=plain: waits.append("read") or plain(self, *given),
        )
    counts = []
    for steps in (4, 9):
        cfg = run(f"solver={solver}", f"steps={steps}", "device=cpu", "samples=3")
        runner = Job(cfg).network
        for _ in range(2):  # the first one also makes the plan
            waits.clear()
            with Waits():
                sample_batch(cfg, runner, range(3), lambda images: None)
        counts.append(len(waits))
    assert counts[0] == counts[1] <= 4
