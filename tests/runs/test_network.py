"""Precision, layout, compilation and memory: their effects on results, and the invariants."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from references.families import DDPM, difference
from references.parameters import randomised

import pndm
from pndm.config.compose import compose_runs
from pndm.config.schema import SWITCH_VALUES, ConfigError
from pndm.models.architectures import ARCHITECTURES
from pndm.models.unet import OUTER, UNet
from pndm.runs.network import (
    GPU_LAYOUTS,
    MODES,
    PRECISIONS,
    Runner,
    cached_runner,
    load_network,
    memory_layout,
)
from pndm.runs.run import run_experiment

CPU = torch.device("cpu")
SMALL = ["samples=20", "steps=3", "wandb.mode=disabled", "progress=false", "device=cpu"]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")


def digits(**how):
    return Runner(pndm.models.load("digits_linear"), how.pop("device", CPU), **how)


def inputs(rows=5):
    return pndm.initial_noise(range(rows), (1, 8, 8)), torch.full((rows,), 300.0)


def forget_networks():
    """Clear the networks cached in this process."""
    cached_runner.cache_clear()
    load_network.cache_clear()


@pytest.fixture
def run(tmp_path):
    """Execute a run in a fresh outputs folder; return its record."""
    forget_networks()

    def go(*arguments):
        (cfg,) = compose_runs([*SMALL, f"outputs={tmp_path}", *arguments])
        return json.loads(run_experiment(cfg).read_text())

    yield go
    forget_networks()


# Times


@torch.no_grad()
def test_one_time_for_all_images_is_embedded_once(monkeypatch):
    unet = UNet(DDPM["ddpm_cifar10"]).double().eval()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    expected = unet(x, torch.full((4,), 7.25))
    rows = []
    unet.temb.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    assert difference(unet(x, torch.tensor([7.25]).expand(4)), expected) < 1e-12
    unet(x, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert rows == [1, 4]


@torch.no_grad()
def test_sampling_tells_one_time_for_all():
    strides = []

    def denoiser(x, t):
        strides.append(t.stride())
        return x

    pndm.sample(
        denoiser,
        torch.randn(3, 2),
        solver=pndm.solvers.plms(),
        schedule=pndm.schedules.linear(),
        steps=4,
    )
    assert set(strides) == {(0,)}


# Precision


def test_configuration_and_runner_know_the_same_names():
    for name in PRECISIONS:
        if name not in ("tf32", "fp16"):
            assert compose_runs([*SMALL, f"precision={name}"])[0].precision == name
    for names in MODES.values():
        assert names.keys() == {*SWITCH_VALUES["compile"].values(), "graphs"}
        assert names.keys() - {"graphs"} == {
            compose_runs([*SMALL, f"compile={name}"])[0].compile
            for name in SWITCH_VALUES["compile"]
        }


@pytest.mark.parametrize("name", ["tf32", "fp16"])
def test_what_a_processor_lacks_is_refused(name):
    with pytest.raises(ConfigError, match=f"precision={name} needs a GPU"):
        compose_runs([*SMALL, f"precision={name}"])


@torch.no_grad()
def test_the_state_keeps_its_precision():
    x, t = inputs()
    exact = digits(precision="fp64")
    expected = exact(exact.state_of(x), t)
    assert expected.dtype == torch.float64
    for precision, bound in (("fp32", 1e-5), ("bf16", 1e-2)):
        result = digits(precision=precision)(x, t)
        assert result.dtype == torch.float32
        assert 0 < difference(result.double(), expected) < bound


@torch.no_grad()
def half_errors(name, t, unet):
    """RMS errors of e in bf16, relative to e in fp64: all layers rounded, and all but OUTER."""
    x = pndm.initial_noise(range(4), unet.arch.image)
    exact = Runner(copy.deepcopy(unet), CPU, "fp64")
    expected = exact(exact.state_of(x), torch.full((4,), t))
    whole = copy.deepcopy(unet).bfloat16()(x.bfloat16(), torch.full((4,), t))
    outer = Runner(unet, CPU, "bf16")(x, torch.full((4,), t))
    scale = expected.square().mean().sqrt()
    return [((e - expected).square().mean().sqrt() / scale).item() for e in (whole, outer)]


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("digits_linear", 0.7),
        ("fashion_linear", 0.7),
        pytest.param("ddpm_cifar10", 0.95, marks=pytest.mark.slow),
    ],
)
def test_first_and_last_layers_in_single_precision_pay(name, bound):
    """The weights of ddpm_cifar10 are random."""
    if name == "ddpm_cifar10":
        unet = UNet(ARCHITECTURES[name]).eval()
        unet.load_state_dict({k: randomised(k, v.shape) for k, v in unet.state_dict().items()})
    else:
        unet = pndm.models.load(name)
    whole, outer = half_errors(name, 500.0, unet)
    assert outer < bound * whole < 0.02 * bound


@torch.no_grad()
def test_half_precision_is_of_the_layers_between():
    """By the dtype of the weights, and under autocast, where these are float32."""
    halves = [torch.nn.Conv2d, torch.nn.Linear]
    runner, single = digits(precision="bf16"), digits(precision="fp32")
    for network, autocast in ((runner.network, False), (single.network, True)):
        dtypes = {}
        for name, layer in network.named_modules():
            if type(layer) in halves:
                layer.register_forward_hook(
                    lambda _, given, found, name=name, dtypes=dtypes: dtypes.update(
                        {name: found.dtype}
                    )
                )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            e = network(torch.zeros(2, 1, 8, 8), torch.zeros(2))
        assert e.dtype == torch.float32 and len(dtypes) > 20
        for name, dtype in dtypes.items():
            assert dtype == (torch.float32 if name.split(".")[0] in OUTER else torch.bfloat16)


def test_precision_names_the_run(run):
    full, half = run(), run("precision=bf16")
    assert full["key"] != half["key"]
    assert (full["precision"], half["precision"]) == ("fp32", "bf16")
    assert half["fid"]["value"] == pytest.approx(full["fid"]["value"], rel=0.1)


# Layout


@torch.no_grad()
def test_wide_networks_run_in_channels_last():
    runner = Runner(UNet(ARCHITECTURES["ddpm_cifar10"]).eval(), CPU)
    seen = []
    for module in runner.network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x = runner.state_of(torch.randn(1, 3, 32, 32))
    e = runner(x, torch.zeros(1))
    for tensor in (x, *seen, e):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_narrow_networks_do_where_vectors_are_wide(monkeypatch):
    (x, t), layouts, results = inputs(), [], []
    for vectors in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda v=vectors: v)
        runner = digits()
        layouts.append(runner.layout)
        results.append(runner(runner.state_of(x), t))
    assert layouts == [torch.contiguous_format, torch.channels_last]
    assert difference(*results) < 1e-5


def test_the_layout_on_a_gpu_is_that_of_tensor_cores_where_they_work():
    """Every precision has one, for narrow networks too."""
    assert GPU_LAYOUTS.keys() == PRECISIONS.keys()
    for precision, layout in GPU_LAYOUTS.items():
        assert memory_layout(torch.device("cuda", 1), precision, 16) == layout
        assert (layout == torch.channels_last) == (precision in ("tf32", "bf16", "fp16"))


# Compilation


@pytest.mark.slow
def test_without_a_compiler_the_network_runs_as_it_is(tmp_path):
    environment = {
        **os.environ,
        "CXX": "no-such-compiler",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", UNCOMPILED], env=environment, capture_output=True, text=True
    )
    assert "the network is not compiled:" in done.stderr and "No working C++" in done.stderr
    assert done.returncode == 0, done.stderr


UNCOMPILED = """
import torch, pndm
from pndm.runs.network import Runner

x, t = pndm.initial_noise(range(5), (1, 8, 8)), torch.full((5,), 300.0)
eager, runner = (
    Runner(pndm.models.load("digits_linear"), torch.device("cpu"), compile=how)
    for how in ("off", "max")
)
with torch.no_grad():
    assert torch.equal(runner(x, t), runner(x, t)) and runner.mode is None
    assert torch.equal(runner(x, t), eager(x, t))
"""


@pytest.mark.slow
def test_the_record_names_what_was_compiled(run, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **how: network)
    assert run("compile=auto")["compile"] == "off"  # on a processor it would not pay
    cached_runner.cache_clear()
    assert run("compile=max", "seed=1")["compile"] == "max-autotune-no-cudagraphs"


@pytest.mark.slow
@torch.no_grad()
def test_compiled_once_for_all_steps_and_methods(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", True)
    x_T, _ = inputs(4)
    tiny = replace(ARCHITECTURES["digits_linear"], channel_mult=(1,), attention=(8,))
    networks = [UNet(tiny).eval() for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    plain, compiled = Runner(networks[0], CPU), Runner(networks[1], CPU, compile="max")
    schedule = pndm.schedules.linear()
    for solver in (pndm.solvers.plms(), pndm.solvers.prk(), pndm.solvers.ddim()):
        how = {"solver": solver, "schedule": schedule, "steps": 7}
        result, expected = pndm.sample(compiled, x_T, **how), pndm.sample(plain, x_T, **how)
        assert difference(result, expected) < 1e-5
    assert compiled.mode == "max-autotune-no-cudagraphs"


@pytest.mark.slow
@torch.no_grad()
def test_the_network_is_one_graph():
    unet = UNet(DDPM["ddpm_cifar10"]).eval()
    result = torch._dynamo.explain(unet)(torch.randn(2, 3, 16, 16), torch.tensor([3.5]).expand(2))
    assert (result.graph_count, result.graph_break_count) == (1, 0)


# Memory


def no_room_for(rows, monkeypatch):
    """Let the network run out of memory with as many images at once."""
    plain, sizes = Runner.__call__, []

    def call(self, x, t):
        sizes.append(len(x))
        if len(x) >= rows:
            raise torch.OutOfMemoryError("out of memory")
        return plain(self, x, t)

    monkeypatch.setattr(Runner, "__call__", call)
    return sizes


def test_batches_are_halved_until_they_fit_and_that_is_kept(run, monkeypatch, capsys):
    expected = run("batch_size=20", "seed=2")["fid"]["value"]
    sizes = no_room_for(8, monkeypatch)
    record = run("batch_size=20", "seed=2", "overwrite=true")
    assert sizes[1:4] == [20, 10, 5] and set(sizes[4:]) == {5}  # the first is timed
    assert (record["batch_size"], record["status"]) == (5, "complete")
    assert record["fid"]["value"] == pytest.approx(expected, rel=1e-3)
    assert "out of memory with 20 images at once: 10 from now on" in capsys.readouterr().out
    sizes.clear()
    more = run("batch_size=20", "seed=2", "samples=25")
    assert max(sizes) == 5 and more["batch_size"] == 5


def test_one_image_that_does_not_fit_is_told_in_a_line(run, monkeypatch):
    no_room_for(1, monkeypatch)
    with pytest.raises(MemoryError, match="one image of digits_linear does not fit") as raised:
        run("batch_size=4")
    assert "\n" not in str(raised.value)


def test_other_errors_are_not_taken_for_memory(run, monkeypatch):
    def call(self, x, t):
        raise RuntimeError("something else")

    monkeypatch.setattr(Runner, "__call__", call)
    with pytest.raises(RuntimeError, match="something else"):
        run()


# CUDA


RMS = {"fp64": 1e-6, "fp32": 1e-5, "tf32": 5e-2, "bf16": 0.1, "fp16": 2.5e-2}
"""The largest RMS difference of images from the CPU's in fp64: four times what a CPU shows.

That is 2.7e-6 in fp32 and 2.2e-2 in bf16; tf32 and fp16 have three bits more than bf16, but tf32
is of the first and last layers too. In fp64 the sines and cosines of the times are float32, which
devices round differently.
"""


@needs_cuda
@torch.no_grad()
@pytest.mark.parametrize(
    ("precision", "compile"),
    [*((name, "off") for name in RMS), ("tf32", "auto"), ("fp32", "graphs"), ("bf16", "max")],
)
def test_a_gpu_gives_the_same_images(precision, compile):
    x_T, _ = inputs(16)
    how = {"solver": pndm.solvers.plms(), "schedule": pndm.schedules.linear(), "steps": 10}
    exact = digits(precision="fp64")
    expected = pndm.sample(exact, exact.state_of(x_T), **how)
    runner = digits(device=torch.device("cuda"), precision=precision, compile=compile)
    result = pndm.sample(runner, runner.state_of(x_T), **how)
    assert (result.double().cpu() - expected).square().mean().sqrt() < RMS[precision]
    assert runner.mode == MODES["cuda"][compile]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.no_grad()
def test_the_bounds_of_a_gpu_hold_on_a_cpu(precision):
    """With room, and they are not so wide that a wrong precision would pass."""
    x_T, _ = inputs(16)
    how = {"solver": pndm.solvers.plms(), "schedule": pndm.schedules.linear(), "steps": 10}
    exact, runner = digits(precision="fp64"), digits(precision=precision)
    expected = pndm.sample(exact, exact.state_of(x_T), **how)
    error = (pndm.sample(runner, runner.state_of(x_T), **how) - expected).square().mean().sqrt()
    assert RMS[precision] / 100 < error < RMS[precision] / 2


@needs_cuda
def test_a_run_on_a_graphics_card(run):
    record = run("device=cuda", "samples=64", "batch_size=16")
    assert record["device"] == "cuda" and record["fid"]["value"] > 0
    cpu = run("samples=64", "batch_size=16", "overwrite=true")
    assert record["fid"]["value"] == pytest.approx(cpu["fid"]["value"], rel=1e-2)
