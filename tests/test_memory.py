"""Out of memory, in every form in which torch tells it, and what happens then."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from pndm import _memory
from pndm._errors import MemoryLimit
from pndm._memory import is_out_of_memory
from pndm.config.compose import compose_runs
from pndm.evaluation import features
from pndm.evaluation.features import extract_in_chunks, load_extractor
from pndm.models.architectures import Architecture
from pndm.models.unet import UNet
from pndm.runs.batches import BatchSize, equal_parts, sample_batches
from pndm.runs.measure import compute_fid
from pndm.runs.network import Runner
from pndm.runs.timing import time_evaluations

CPU = torch.device("cpu")
TINY = Architecture(
    8, in_channels=1, channels=8, channel_mult=(1,), blocks=1, attention=(), norm_groups=4
)
KINDS = {
    "allocator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "accelerator": getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "engine": RuntimeError("GET was unable to find an engine to execute this computation"),
    "processor": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
    "python": MemoryError(),
}


def run(*words):
    (cfg,) = compose_runs(["device=cpu", "steps=3", "wandb.mode=disabled", *words])
    return cfg


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Runner(UNet(TINY).eval(), CPU)


def fail_above(network, rows, error, monkeypatch):
    """Let evaluations of more than so many images run out of memory; return their sizes."""
    plain, sizes = Runner._evaluate, []

    def evaluate(self, x, t):
        sizes.append(len(x))
        if len(x) > rows:
            raise error
        return plain(self, x, t)

    monkeypatch.setattr(Runner, "_evaluate", evaluate)
    return sizes


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_recognised(kind):
    assert is_out_of_memory(KINDS[kind])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("expected 3 channels"),
        ValueError("out of memory"),
        None,
    ],
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)


def test_it_is_found_behind_other_errors():
    for hidden in (False, True):
        try:
            try:
                raise KINDS["cudnn"]
            except RuntimeError as cause:
                raise RuntimeError("backend failed") from (None if hidden else cause)
        except RuntimeError as error:
            assert is_out_of_memory(error)
    circle = RuntimeError("a")
    circle.__cause__ = RuntimeError("b")
    circle.__cause__.__cause__ = circle
    assert not is_out_of_memory(circle)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "python"])
def test_sampling_goes_on_with_smaller_batches(kind, network, tmp_path, monkeypatch):
    whole, _ = sample_batches(run(), network, range(8), BatchSize(8, tmp_path), lambda n: None)
    sizes = fail_above(network, 2, KINDS[kind], monkeypatch)
    size = BatchSize(8, tmp_path)
    pixels, nfe = sample_batches(run(), network, range(8), size, lambda n: None)
    assert sizes[:3] == [8, 4, 2] and set(sizes[2:]) == {2} and size.now == 2
    assert (pixels.int() - whole.int()).abs().max() <= 1 and nfe.shape == (8,)


def test_nothing_of_a_failed_batch_is_held_when_memory_is_freed(network, tmp_path, monkeypatch):
    """A traceback keeps the tensors of its frames: freeing inside of the except clause is void."""
    held, found = [], []
    plain = Runner._evaluate

    def evaluate(self, x, t):
        if len(x) > 2:
            activations = torch.empty(100)
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("out of memory")
        return plain(self, x, t)

    def free(device):
        gc.collect()
        found.append(held[-1]() is None)

    monkeypatch.setattr(Runner, "_evaluate", evaluate)
    monkeypatch.setattr("pndm.runs.network.free_memory", free)
    sample_batches(run(), network, range(4), BatchSize(4, tmp_path), lambda n: None)
    time_evaluations(network, BatchSize(4, tmp_path / "other"), 0.01)
    assert found == [True, True]


def test_freeing_empties_the_cache_of_the_gpu(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("cache"))
    _memory.free_memory(CPU)
    assert not calls
    _memory.free_memory(torch.device("cuda", 1))
    assert calls == ["cache"]


def test_memory_missing_while_compiling_does_not_end_compilation(tmp_path, monkeypatch):
    """The compiler's error is raised, its graphs are dropped, and it compiles the next size."""
    from torch._dynamo.exc import BackendCompilerFailed

    resets, sizes = [], []

    def compiled(x, t):
        sizes.append(len(x))
        if len(x) > 2:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            except RuntimeError as error:
                raise BackendCompilerFailed(lambda: None, error, None) from error
        return x

    monkeypatch.setattr(torch, "compile", lambda network, **how: compiled)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(True))
    network = Runner(UNet(TINY).eval(), CPU, compile="max")
    size = BatchSize(4, tmp_path)
    sample_batches(run(), network, range(4), size, lambda n: None)
    assert network.mode is not None and resets == [True]
    assert sizes[:2] == [4, 2] and set(sizes[1:]) == {2}


def test_a_broken_compiler_ends_compilation(monkeypatch):
    from torch._dynamo.exc import BackendCompilerFailed

    def compiled(x, t):
        raise BackendCompilerFailed(lambda: None, RuntimeError("no C++ compiler"), None)

    monkeypatch.setattr(torch, "compile", lambda network, **how: compiled)
    network = Runner(UNet(TINY).eval(), CPU, compile="max")
    with torch.no_grad(), pytest.warns(UserWarning, match="the network is not compiled"):
        network(torch.zeros(2, 1, 8, 8), torch.zeros(2))
    assert network.mode is None


# Features


@pytest.fixture
def extractor():
    return load_extractor("digits")


def images(count=250):
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8)


def test_features_do_not_depend_on_the_chunk(extractor, monkeypatch):
    pixels = images()
    whole = extractor(pixels)
    for chunk in (100, 33, 1):
        monkeypatch.setattr(features, "EXTRACTION", chunk)
        parts = extract_in_chunks(extractor, pixels)
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["accelerator", "cudnn", "engine"])
def test_the_chunk_of_features_is_halved_on_its_own(kind, extractor, monkeypatch):
    plain, sizes, pixels = features.Extractor.__call__, [], images()
    whole = extractor(pixels)

    def call(self, batch):
        sizes.append(len(batch))
        if len(batch) > 30:
            raise KINDS[kind]
        return plain(self, batch)

    monkeypatch.setattr(features.Extractor, "__call__", call)
    parts = extract_in_chunks(extractor, pixels)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    assert sizes[:5] == [250, 125, 62, 31, 15] and max(sizes[4:]) == 15


def test_features_of_one_image_that_do_not_fit_are_told_in_a_line(extractor, monkeypatch):
    def call(self, batch):
        raise KINDS["cublas"]

    monkeypatch.setattr(features.Extractor, "__call__", call)
    with pytest.raises(MemoryLimit, match="digits features of one image do not fit") as error:
        extract_in_chunks(extractor, images(3))
    assert "\n" not in str(error.value)


# Batches of one size, on a GPU


def test_equal_parts():
    assert [equal_parts(500, n) for n in (500, 200, 16, 600)] == [500, 167, 16, 500]
    for count in range(1, 60):
        for largest in range(1, 60):
            length = equal_parts(count, largest)
            assert length <= largest and -(-count // length) == -(-count // largest)


@pytest.mark.parametrize("solver", ["plms", "ddpm"])
def test_all_batches_of_a_gpu_have_one_size(solver, network, tmp_path, monkeypatch):
    """So that an image has the same kernels and the same graph, whichever are with it."""
    sizes, seen = fail_above(network, 99, None, monkeypatch), []
    cfg, size = run(f"solver={solver}"), BatchSize(4, tmp_path)
    expected, evaluations = sample_batches(cfg, network, range(10), size, lambda n: None)
    assert set(sizes) == {4, 2}
    network.device = FakeCuda()
    sizes.clear()
    pixels, nfe = sample_batches(cfg, network, range(10), size, seen.append)
    assert set(sizes) == {4} and sum(seen) == 10 * int(nfe[0])
    assert torch.equal(pixels, expected) and torch.equal(nfe, evaluations)
    sizes.clear()
    rest, _ = sample_batches(cfg, network, range(7, 10), size, lambda n: None, whole=10)
    assert set(sizes) == {4} and torch.equal(rest, expected[7:])


class FakeCuda:
    """A device that calls itself CUDA, for code that does not reach it."""

    type = "cuda"


@pytest.fixture(autouse=True)
def copies(monkeypatch):
    """Copies to the fake device stay on the processor."""
    plain = Runner.state_of

    def state_of(self, x):
        device, self.device = self.device, CPU
        try:
            return plain(self, x)
        finally:
            self.device = device

    monkeypatch.setattr(Runner, "state_of", state_of)


# Where nothing fits, or nothing is left


def test_a_network_that_does_not_fit_is_told_in_a_line(monkeypatch):
    from pndm.runs import network

    def full(*arguments):
        raise KINDS["accelerator"]

    monkeypatch.setattr(network, "Runner", full)
    network.cached_runner.cache_clear()
    with pytest.raises(MemoryLimit, match="digits_linear does not fit into the free memory of"):
        network.cached_runner("digits_linear", None, "auto", None, CPU, "fp32", "off")


def test_an_extractor_that_does_not_fit_is_told_in_a_line(monkeypatch):
    def full(*arguments):
        raise KINDS["allocator"]

    monkeypatch.setitem(features.EXTRACTORS, "digits", full)
    with pytest.raises(MemoryLimit, match="the network of digits features does not fit"):
        load_extractor("digits")


@pytest.mark.parametrize("solver", ["plms", "pf"])
def test_the_cost_of_a_run_is_that_of_batches_that_fit(solver, network, monkeypatch):
    from pndm import cost

    fail_above(network, 4, KINDS["cudnn"], monkeypatch)
    loose = ["solver.rtol=1", "solver.atol=1"] if solver == "pf" else []
    cfg = run(f"solver={solver}", "samples=64", "batch_size=64", *loose)
    timing = (
        cost.time_adaptive(cfg, network, 1e9)[1]
        if solver == "pf"
        else cost.time_network(cfg, network, 0.1)
    )
    assert timing.batch == 4 and timing.seconds > 0


def test_the_cost_leaves_out_the_first_call(network, monkeypatch):
    """Which compiles, on a GPU for longer than a short run takes."""
    import time

    from pndm import cost

    clock, sizes = [0.0], set()

    def evaluate(self, x, t):
        clock[0] += 0.001 * len(x) if len(x) in sizes else 1000.0
        sizes.add(len(x))
        return x

    monkeypatch.setattr(Runner, "_evaluate", evaluate)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    cfg = run("samples=8", "batch_size=8")
    assert cost.time_network(cfg, network, 0.1).seconds == pytest.approx(0.001)
    sizes.clear()
    loose = run("solver=pf", "solver.rtol=1", "solver.atol=1", "samples=8", "batch_size=8")
    _, timing = cost.time_adaptive(loose, network, 60.0)
    assert timing.seconds == pytest.approx(0.001)


def test_the_cost_counts_finished_calls(network, tmp_path, monkeypatch):
    """A GPU's calls return when they are launched: each is waited for."""
    from pndm.runs import timing

    events, plain = [], Runner._evaluate
    monkeypatch.setattr(
        Runner, "_evaluate", lambda *given: events.append("launched") or plain(*given)
    )
    monkeypatch.setattr(timing, "synchronize", lambda device: events.append("waited"))
    time_evaluations(network, BatchSize(2, tmp_path), 0.01)
    assert events == ["launched", "waited"] * (len(events) // 2) and len(events) > 4


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "DeviceError"),
        ("CUDA error: uncorrectable ECC error encountered", "DeviceError"),
        ("CUDA error: device-side assert triggered", "RuntimeError"),
    ],
)
def test_a_lost_gpu_is_told_in_a_line_and_bugs_are_not(said, kind):
    from pndm._devices import device_errors

    with pytest.raises(RuntimeError) as error, device_errors(torch.device("cuda", 0)):
        raise RuntimeError(f"{said}\nCompile with TORCH_USE_CUDA_DSA")
    assert type(error.value).__name__ == kind
    assert kind == "RuntimeError" or "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_eigenproblems_that_do_not_fit_on_a_gpu_are_solved_on_the_cpu(kind, monkeypatch):
    devices, freed = [], []

    def fid(blocks, reference, device="cpu"):
        devices.append(str(device))
        if str(device) == "cuda" or kind == "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"value": 1.0}

    monkeypatch.setattr("pndm.evaluation.metrics.fid", fid)
    monkeypatch.setattr("pndm.runs.measure.free_memory", freed.append)
    evaluator = SimpleNamespace(extractor=SimpleNamespace(device=torch.device(kind)), reference=0)
    if kind == "cpu":
        with pytest.raises(torch.OutOfMemoryError):
            compute_fid([], evaluator)
    else:
        assert compute_fid([], evaluator) == {"value": 1.0}
        assert devices == ["cuda", "cpu"] and freed == [torch.device("cuda")]


def test_features_come_to_the_cpu_once_and_images_go_pinned(extractor, monkeypatch):
    """Once for each extraction, whatever its chunks, as each copy waits for the GPU."""
    pixels, copies, uploads = images(), [], []
    whole = extractor(pixels)
    plain = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: copies.append(len(t)) or plain(t))
    monkeypatch.setattr(
        features, "copy_to", lambda t, device: uploads.append((len(t), device)) or t.to(device)
    )
    monkeypatch.setattr(features, "EXTRACTION", 100)
    torch.testing.assert_close(extract_in_chunks(extractor, pixels), whole)
    assert copies == [250] and uploads == [(100, CPU), (100, CPU), (50, CPU)]
