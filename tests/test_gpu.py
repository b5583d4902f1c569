"""What only a GPU shows; PNDM_TEST_DEVICE=cpu rehearses what a CPU can do of it.

Run by benchmarks/gpu.sh, with the other tests that skip themselves where there is no GPU.
"""

import os
import warnings

import numpy as np
import pytest
import torch
from references.families import difference

import pndm
from pndm import noise, train
from pndm._devices import use_device
from pndm.config.compose import compose_runs, compose_train
from pndm.runs.batches import BatchSize, sample_batch, sample_batches
from pndm.runs.network import Runner
from pndm.runs.run import run_experiment

NAME = os.environ.get("PNDM_TEST_DEVICE", "cuda")
DEVICE, CPU = torch.device(NAME), torch.device("cpu")
IS_CUDA = DEVICE.type == "cuda"
LINEAR = pndm.schedules.linear()

pytestmark = pytest.mark.skipif(
    IS_CUDA and not torch.cuda.is_available(), reason="no CUDA here, nor PNDM_TEST_DEVICE=cpu"
)
needs_cuda = pytest.mark.skipif(not IS_CUDA, reason="a CPU has no queue and no such memory")


def digits(precision="fp32", compile="off", device=DEVICE):
    use_device(str(device))
    return Runner(pndm.models.load("digits_linear"), device, precision, compile)


@torch.no_grad()
def images(runner, seeds, solver="plms", steps=10):
    """Images [B, 1, 8, 8] of the given seeds, on the runner's device."""
    z = noise.step_noise(seeds, runner.arch.image)
    return pndm.sample(
        runner,
        runner.state_of(pndm.initial_noise(seeds, runner.arch.image)),
        solver=pndm.solvers.SOLVERS[solver](),
        schedule=LINEAR,
        steps=steps,
        noise=lambda row: runner.state_of(z(row)),
    )


def run(folder, *words):
    """A configuration on the device."""
    common = ["wandb.mode=disabled", "progress=false", "compile=off", f"outputs={folder}"]
    (cfg,) = compose_runs([*common, f"device={NAME}", *words])
    return cfg


@pytest.mark.parametrize("solver", ["plms", "ddim", "ddpm", "dpmpp_2m", "unipc", "fon"])
@pytest.mark.parametrize(("precision", "bound"), [("fp64", 1e-5), ("fp32", 1e-4)])
def test_solvers_give_the_same_images_as_on_a_cpu(solver, precision, bound):
    """To the largest difference; in fp64 that of the float32 sinusoids of the times."""
    expected = images(digits("fp64", device=CPU), range(16), solver)
    assert (
        difference(images(digits(precision), range(16), solver).double().cpu(), expected) < bound
    )


def test_the_adaptive_method_gives_the_same_images_as_on_a_cpu():
    how = {"solver": pndm.solvers.pf(), "schedule": LINEAR}
    solutions = []
    for device in (CPU, DEVICE):
        runner = digits(device=device)
        x = runner.state_of(pndm.initial_noise(range(16), (1, 8, 8)))
        with torch.no_grad():
            solutions.append(pndm.sampling.solve(runner, x, **how))
    expected, found = solutions
    assert difference(found.x_0.cpu(), expected.x_0) < 1e-2
    nfe, expected_nfe = (s.nfe.double().mean().item() for s in (found, expected))
    assert nfe == pytest.approx(expected_nfe, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "graphs"])
def test_a_batch_does_not_depend_on_those_before_it(compile):
    """Bit for bit, also where another size was compiled, and replayed, in between."""
    runner = digits(compile=compile)
    first = images(runner, range(32))
    again = images(runner, range(32))
    images(runner, range(5))
    assert torch.equal(first, again) and torch.equal(first, images(runner, range(32)))
    assert (runner.mode is not None) == (IS_CUDA and compile != "off")


@needs_cuda
@pytest.mark.parametrize(
    ("words", "per_evaluation"), [(["solver=plms"], 0), (["solver=ddpm"], 0), (["solver=pf"], 1)]
)
def test_sampling_does_not_wait_for_the_gpu(tmp_path, words, per_evaluation):
    """But at the end of a batch, and once in a slope of the adaptive method."""
    cfg, runner = run(tmp_path, "steps=10", *words), digits()
    sample_batch(cfg, runner, range(16), lambda count: None)
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            _, nfe = sample_batch(cfg, runner, range(16), lambda count: None)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(waits) <= 8 + per_evaluation * int(nfe.max())


@needs_cuda
def test_a_batch_that_does_not_fit_is_halved(tmp_path):
    """As on a GPU of one gigabyte, of whose memory the allocator may use no more."""
    runner = digits()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**30 / total)
    try:
        size = BatchSize(2**15, tmp_path)
        pixels, _ = sample_batches(
            run(tmp_path, "steps=2", "solver=ddim"), runner, range(2**15), size, lambda n: None
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(pixels) == 2**15 and size.now < 2**15


@pytest.mark.slow
def test_two_processes_on_a_gpu_make_the_images_of_one(tmp_path):
    found = []
    for processes in (1, 2):
        cfg = run(
            tmp_path / str(processes),
            *(f"processes={processes}", "samples=1200", "steps=5", "save_images=npz", "fid=off"),
        )
        record = run_experiment(cfg)
        with np.load(record.parent / "images.npz") as arrays:
            found.append(arrays["images"])
    assert found[0].shape == (1200, 8, 8, 1) and (found[0] == found[1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", *(["tf32"] if IS_CUDA else []), "bf16"])
def test_a_training_step_has_the_loss_of_a_cpu(tmp_path, precision):
    losses = []
    for device, what in (("cpu", "fp32"), (NAME, precision)):
        folder = tmp_path / device / what
        words = [f"device={device}", f"precision={what}", f"output={folder}", "seed=0"]
        words += ["recipe.iterations=2", "recipe.batch_size=16", "recipe.log_every=1"]
        train.train(compose_train(words))
        losses.append(float((folder / "losses.json").read_text().split()[-3].strip("],")))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4 if precision == "fp32" else 2e-2)
