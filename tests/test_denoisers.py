"""Denoisers that reuse, overwrite or return special tensors, and torch's defaults."""

import pytest
import torch

import pndm
from pndm._errors import InputError
from pndm.noise import initial_noise, step_noise
from pndm.solvers import SOLVERS, quadrature

SHAPE = (2, 3, 3)
SEEDS = range(3)
SCHEDULE = pndm.schedules.linear()


def network(x, t):
    """Smooth, without special structure, each image independent."""
    scale = (t / 1000).sqrt().view(-1, *[1] * (x.ndim - 1)).to(x)
    return (0.9 * x + 0.1 * x.tanh()) * scale


class Buffers:
    """One that returns the same few tensors again and again, as TensorRT and CUDA graphs do."""

    def __init__(self, count=1):
        self.buffers, self.calls = [torch.zeros(len(SEEDS), *SHAPE) for _ in range(count)], 0

    def __call__(self, x, t):
        self.calls += 1
        return self.buffers[self.calls % len(self.buffers)].copy_(network(x, t))


class Shared:
    """The same by way of NumPy, which torch does not see."""

    def __init__(self):
        self.array = torch.zeros(len(SEEDS), *SHAPE).numpy()

    def __call__(self, x, t):
        self.array[...] = network(x, t).numpy()
        return torch.from_numpy(self.array)


class Late:
    """One that overwrites its input, or its previous output, in the next call."""

    def __init__(self, of_input):
        self.of_input, self.last = of_input, torch.zeros(())

    def __call__(self, x, t):
        self.last.fill_(float("nan"))
        e = network(x, t)
        self.last = x if self.of_input else e
        return e


def in_place(x, t):
    return x.copy_(network(x, t))


def guided(x, t):
    """Classifier guidance: a gradient in x, which is marked for it."""
    with torch.enable_grad():
        x.requires_grad_(True)
        gradient = torch.autograd.grad(network(x, t).sum(), x)[0]
    return network(x, t) + 0 * gradient


def with_graph(x, t):
    with torch.enable_grad():
        return network(x, t) * torch.ones((), requires_grad=True)


def views(x, t):
    return torch.cat([network(x, t), x])[: len(x)].transpose(-1, -2).contiguous().mT


DENOISERS = {
    "one buffer": Buffers,
    "two buffers": lambda: Buffers(2),
    "five buffers": lambda: Buffers(5),
    "NumPy's memory": Shared,
    "inputs destroyed later": lambda: Late(True),
    "results destroyed later": lambda: Late(False),
    "in place": lambda: in_place,
    "guidance": lambda: guided,
    "with a graph": lambda: with_graph,
    "in inference mode": lambda: torch.inference_mode()(network),
    "in float64": lambda: lambda x, t: network(x.double(), t),
    "a parameter": lambda: lambda x, t: torch.nn.Parameter(network(x, t)),
    "another layout": lambda: lambda x, t: network(x, t).to(memory_format=torch.channels_last),
    "views": lambda: views,
}


def solve(denoiser, name, x_T=None, **options):
    x_T = initial_noise(SEEDS, SHAPE) if x_T is None else x_T
    noise = step_noise(SEEDS, SHAPE)
    solver = SOLVERS[name]()
    options = {"steps": 7, "noise": noise} | options
    return pndm.solve(denoiser, x_T, solver=solver, schedule=SCHEDULE, **options)


@pytest.mark.parametrize("name", SOLVERS)
def test_denoisers_may_do_with_their_tensors_what_they_like(name):
    expected = solve(network, name).x_0
    for what, make in DENOISERS.items():
        x_T = initial_noise(SEEDS, SHAPE)
        x_0 = solve(make(), name, x_T).x_0
        rounding = 1e-4 if what == "in float64" else 1e-6
        assert torch.allclose(x_0, expected, rtol=0, atol=rounding), what
        assert not x_0.requires_grad and not x_T.requires_grad, what
        assert torch.equal(x_T, initial_noise(SEEDS, SHAPE)), what


def test_the_times_of_a_batch_are_one():
    """Writing into them raises torch's own error with the fix."""
    with pytest.raises(RuntimeError, match=r"clone\(\) the tensor"):
        solve(lambda x, t: network(x, t.mul_(0.5)), "ddim")
    halved = solve(lambda x, t: network(x, t.clone().mul_(0.5)), "ddim").x_0
    assert torch.equal(halved, solve(lambda x, t: network(x, t * 0.5), "ddim").x_0)
    one = initial_noise([0], SHAPE)
    once = solve(lambda x, t: network(x, t.mul_(0.5)), "plms", one).x_0
    assert torch.equal(once, solve(lambda x, t: network(x, t * 0.5), "plms", one).x_0)


@pytest.mark.parametrize("name", SOLVERS)
def test_what_is_no_prediction_is_refused(name):
    for wrong in (
        lambda x, t: (network(x, t),),
        lambda x, t: {"sample": network(x, t)},
        lambda x, t: network(x, t).numpy(),
        lambda x, t: network(x, t)[:1],
        lambda x, t: torch.cat([network(x, t)] * 2, 1),
        lambda x, t: network(x, t).to(torch.complex64),
        lambda x, t: None,
    ):
        with pytest.raises(InputError, match="the denoiser returned") as caught:
            solve(wrong, name)
        assert "\n" not in str(caught.value)


@pytest.fixture
def defaults():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


SETTINGS = {
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "float16": lambda: torch.set_default_dtype(torch.float16),
    "bfloat16": lambda: torch.set_default_dtype(torch.bfloat16),
    # a device on which nothing can be read represents one used by other code
    "meta": lambda: torch.set_default_device("meta"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_torchs_defaults_do_not_matter(setting, defaults):
    """Neither in noise nor in results; plans and quadrature weights are recomputed."""
    x_T, steps = initial_noise([*SEEDS, 2**40], SHAPE), 6
    expected = {name: solve(network, name, steps=steps).x_0 for name in SOLVERS}
    pndm.plans._compile.cache_clear()
    quadrature._gauss.cache_clear()
    SETTINGS[setting]()
    assert torch.equal(initial_noise([*SEEDS, 2**40], SHAPE), x_T)
    assert initial_noise([], SHAPE).dtype == torch.float32
    for name in SOLVERS:
        x_0, nfe = solve(network, name, steps=steps)
        assert torch.equal(x_0, expected[name]), name
        assert nfe.device.type == "cpu" and nfe.dtype == torch.int64
        assert (
            len(solve(network, name, x_T[:0], steps=steps, noise=step_noise([], SHAPE)).nfe) == 0
        )


@pytest.mark.parametrize("setting", SETTINGS)
def test_nor_to_networks_data_and_features(setting, defaults):
    from pndm.data import datasets, images
    from pndm.evaluation.features import load_extractor

    times = torch.full((5,), 500.0)

    def results():
        digits = datasets.digits("holdout").images[:5]
        e = pndm.models.load("digits_linear")(images.from_uint8(digits), times)
        return digits, e, load_extractor("digits")(digits)

    expected = results()
    SETTINGS[setting]()
    for ours, reference in zip(results(), expected, strict=True):
        assert torch.equal(ours, reference) and ours.dtype == reference.dtype


@pytest.mark.parametrize("name", SOLVERS)
def test_inference_mode_and_gradients_around_it(name):
    expected = solve(network, name).x_0
    with torch.inference_mode():
        x_T = initial_noise(SEEDS, SHAPE)
        assert torch.equal(solve(network, name, x_T).x_0, expected)
    assert torch.equal(solve(network, name, x_T).x_0, expected)  # its tensors used outside
    x_T = initial_noise(SEEDS, SHAPE).requires_grad_()
    x_0 = solve(network, name, x_T).x_0
    assert torch.equal(x_0, expected) and not x_0.requires_grad and x_T.grad is None


@pytest.mark.parametrize("name", ["ddim", "plms", "ddpm", "pf"])
@pytest.mark.parametrize("grid", [[999.5, 3], [1000, 3], [-1, -2], [float("nan"), 3], [9, 9], [3]])
def test_times_that_the_schedule_does_not_have(name, grid):
    with pytest.raises(InputError) as caught:
        solve(network, name, grid=grid, steps=None)
    assert "\n" not in str(caught.value)
