"""The loop: exact ends, evaluations counted, images that do not depend on their batch."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from physics import CONVENTIONS, Counted, make, mlp, normal, unet

import pndm
from pndm.grids import GRIDS, times
from pndm.models.analytic import Gaussian, Mixture, Point
from pndm.noise import initial_noise, step_noise
from pndm.schedules import SCHEDULES, vp
from pndm.solvers import SOLVERS, Solver
from pndm.solvers.transfer import Ancestral, Data, Pseudo

pytestmark = pytest.mark.filterwarnings("ignore:grid=leading with one step:UserWarning")

FIXED = [name for name, factory in SOLVERS.items() if isinstance(factory(), Solver)]
EXACT = [name for name in FIXED if isinstance(SOLVERS[name]().transfer, Pseudo | Data | Ancestral)]
CLOCKED = ("uniform_lambda", "karras")


def sample(network, x, name, schedule, steps, grid="leading", **options):
    options.setdefault("noise", step_noise(range(len(x)), x.shape[1:]))
    solver = SOLVERS[name]() if isinstance(name, str) else name
    return pndm.sample(
        network, x, solver=solver, schedule=schedule, steps=steps, grid=grid, **options
    )


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_evaluations_counted(name, grid, convention):
    """The network is evaluated at the plan's times, as often as declared, one time per image."""
    if grid in CLOCKED and convention == "released":
        pytest.skip("refused: no inverse clock")
    schedule = make("linear", convention)
    for steps in (1, 2, 3, 4, 11):
        counted = Counted(mlp(size=4))
        sample(counted, normal(3, 4), name, schedule, steps, grid)
        plan = pndm.plan(SOLVERS[name](), schedule, steps, grid)
        assert counted.calls == SOLVERS[name]().nfe(steps) == plan.nfe
        assert counted.times == pytest.approx(plan.times, abs=1e-12)
        assert min(counted.times) >= 0 and set(counted.sizes) == {3}
        nodes = set(times(grid, steps, schedule)[:-1])
        assert nodes <= set(counted.times)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("steps", [27, 101, 333, 501, 999, 1000])
def test_evaluations_counted_at_many_steps(name, steps):
    counted = Counted(mlp(size=4))
    sample(counted, normal(1, 4), name, make("linear"), steps)
    assert counted.calls == SOLVERS[name]().nfe(steps)


POINT = torch.tensor([0.9, -0.4, 0.1, -1.0], dtype=torch.float64)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_point_data_ends_at_the_point(name, grid, schedule):
    schedule = make(schedule)
    for steps in (1, 2, 3, 4, 5, 17):
        x = sample(Point(schedule, POINT), normal(3, 4), name, schedule, steps, grid)
        assert (x - POINT).abs().max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_point_data_ends_at_the_point_in_any_number_of_steps(name):
    schedule = make("linear")
    for steps in [*range(1, 60), 333, 1000]:
        x = sample(Point(schedule, POINT), normal(1, 4), name, schedule, steps)
        assert (x - POINT).abs().max() < 1e-9, steps


@settings(max_examples=20, deadline=None)
@given(eta=st.floats(0, 1), steps=st.integers(1, 30), grid=st.sampled_from(list(GRIDS)))
def test_point_data_ends_at_the_point_for_every_eta(eta, steps, grid):
    schedule, solver = make("linear"), SOLVERS["ddim"](eta=eta)
    x = sample(Point(schedule, POINT), normal(2, 4), solver, schedule, steps, grid)
    assert (x - POINT).abs().max() < 1e-9


@pytest.mark.parametrize("name", [name for name in EXACT if name != "ddpm"])
def test_point_data_stays_on_its_manifold(name):
    """On every node x is √ᾱ·x* + √(1−ᾱ)·e with the e of the start, where ᾱ ends below 1 too."""
    schedule, x = make("linear", "diffusers"), normal(2, 4)
    plan = pndm.plan(SOLVERS[name](), schedule, 8, "trailing")
    a = plan.nodes[0].alpha_bar
    e = (x - math.sqrt(a) * POINT) / math.sqrt(1 - a)
    seen = {}
    sample(Point(schedule, POINT), x, name, schedule, 8, "trailing", callback=seen.__setitem__)
    for i, row in enumerate(plan.rows):
        if row.ends is not None:
            a = plan.nodes[row.ends].alpha_bar
            want = math.sqrt(a) * POINT + math.sqrt(1 - a) * e
            torch.testing.assert_close(seen[i], want, rtol=0, atol=1e-10)


def test_fon_reaches_the_point_only_in_the_limit():
    schedule = vp()
    network, a, b = Point(schedule, POINT), schedule.alpha_bar(990), schedule.alpha_bar(50)
    x = normal(3, 4)
    e = (x - math.sqrt(a) * POINT) / math.sqrt(1 - a)
    want = math.sqrt(b) * POINT + math.sqrt(1 - b) * e
    gaps = []
    for steps in (20, 200):
        nodes = [990 - 940 * i / steps for i in range(steps + 1)]
        gaps.append((sample(network, x, "fon", schedule, None, nodes) - want).abs().max())
    assert gaps[1] < 1e-6 < 1e-4 < gaps[0]


@pytest.mark.parametrize(("name", "tolerance"), [("fon", 1e-7), ("plms", 2e-5), ("ddim", 1e-2)])
def test_gaussian_data_follow_their_closed_form(name, tolerance):
    """x_s = x_t·√((ᾱ_s·v + 1−ᾱ_s)/(ᾱ_t·v + 1−ᾱ_t)) for data N(0, v)."""
    schedule, x, v = vp(), normal(4, 3), 0.3
    network = Gaussian(schedule, torch.zeros(3, dtype=torch.float64), v)
    nodes = [990 - 940 * i / 300 for i in range(301)]
    a, b = schedule.alpha_bar(990), schedule.alpha_bar(50)
    want = x * math.sqrt((b * v + 1 - b) / (a * v + 1 - a))
    got = sample(network, x, name, schedule, None, nodes)
    assert 0 < (got - want).abs().max() < tolerance
    torch.testing.assert_close(network.exact(x, 990, 50), want)


@pytest.mark.parametrize("name", EXACT)
def test_gaussian_data_of_unit_variance_do_not_move(name):
    """With N(0, I) data e = √(1−ᾱ)·x, and dx/dt = 0."""
    if name == "ddpm":
        pytest.skip("adds noise")
    schedule, x = make("linear"), normal(4, 3)
    network = Gaussian(schedule, torch.zeros(3, dtype=torch.float64), 1.0)
    got = sample(network, x, name, schedule, 100)
    assert (got - x).abs().max() < 0.1 * x.abs().max()


def mixture(schedule):
    means = torch.tensor([[-0.8, 0.4], [0.9, -0.1]], dtype=torch.float64)
    return Mixture(schedule, means, torch.tensor([0.02, 0.05]), torch.tensor([0.5, 0.5]))


def explodes(steps, grid, network, x):
    got = sample(network, x, "plms", make("cosine"), steps, grid)
    return not got.isfinite().all()


@pytest.mark.parametrize("grid", GRIDS)
def test_cosine_with_plms_is_finite(grid):
    schedule = make("cosine")
    for network, x in ((mlp(size=2), normal(2, 2)), (mixture(schedule), normal(2, 2))):
        some = [1, 2, 3, 4, 5, 8, 10, 12, 20, 50]
        assert [n for n in some if explodes(n, grid, network, x)] == []


@pytest.mark.slow
def test_cosine_with_plms_is_finite_at_any_number_of_steps():
    network, x = mlp(size=2), normal(1, 2)
    assert [
        n for n in (*range(1, 150), *range(150, 1001, 10)) if explodes(n, "leading", network, x)
    ] == []


@pytest.mark.parametrize("name", ["plms", "ddim", "ddpm"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.float64, 1e-10)])
def test_an_image_does_not_depend_on_its_batch(name, dtype, tolerance):
    """The same 64 images in batches of 1, 7 and 64, from bit-identical x_T and step noise."""
    schedule, network, shape = make("linear"), unet(dtype), (1, 8, 8)
    steps = 3
    results = {}
    for size in (1, 7, 64):
        batches = [range(64)[i : i + size] for i in range(0, 64, size)][:3]
        parts = [
            sample(
                network,
                initial_noise(seeds, shape).to(dtype),
                name,
                schedule,
                steps,
                noise=step_noise(seeds, shape),
            )
            for seeds in batches
        ]
        results[size] = torch.cat(parts)
    # a random network leaves images of size 1/√ᾱ_T; what is compared is in units of their size
    size = max(1.0, results[64].abs().max().item())
    for part in (results[1], results[7]):
        assert (part - results[64][: len(part)]).abs().max() < tolerance * size


@pytest.mark.parametrize("name", ["plms", "fon", "ddpm"])
def test_an_image_does_not_depend_on_its_batch_on_exact_data(name):
    """In the size of images, without a scale: 5e-5 in float32, 1e-10 in float64."""
    schedule = make("linear")
    for dtype, tolerance in ((torch.float32, 5e-5), (torch.float64, 1e-10)):
        x = initial_noise(range(64), (2,)).to(dtype)
        noise = step_noise(range(64), (2,))
        whole = sample(mixture(schedule), x, name, schedule, 20, noise=noise)
        seven = sample(
            mixture(schedule), x[7:14], name, schedule, 20, noise=step_noise(range(7, 14), (2,))
        )
        one = sample(mixture(schedule), x[9:10], name, schedule, 20, noise=step_noise([9], (2,)))
        assert (whole[7:14] - seven).abs().max() < tolerance
        assert (whole[9:10] - one).abs().max() < tolerance


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(name, dtype):
    """x keeps its type, the network sees it in that type, and time in float32 at least."""
    seen = set()

    def network(x, t):
        seen.add((x.dtype, t.dtype))
        return x * 0.1

    x = sample(network, normal(2, 4).to(dtype), name, make("linear"), 5)
    assert x.dtype == dtype
    assert seen == {(dtype, torch.promote_types(dtype, torch.float32))}


def test_a_float32_network_in_a_float64_state():
    network, reference = mlp(size=4), mlp(size=4)
    x, schedule = normal(3, 4), make("linear")
    mixed = sample(lambda x, t: network(x.float(), t.float()), x, "plms", schedule, 10)
    assert mixed.dtype == torch.float64
    want = sample(reference, x, "plms", schedule, 10)
    assert (mixed - want).abs().max() < 1e-3 * want.abs().max()


DEVICES = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("name", [name for name in FIXED if name != "ddpm"])
@pytest.mark.parametrize("device", DEVICES)
def test_device_is_kept_and_nothing_is_read_back(name, device):
    """On "meta" there are no numbers at all, so a loop that ran there read none of them."""
    x = torch.empty(2, 4, device=device)
    got = sample(lambda x, t: x * t[:, None], x, name, make("linear"), 7)
    assert got.device.type == device and got.shape == x.shape


@pytest.mark.parametrize("name", FIXED)
def test_callback_sees_every_row(name):
    plan, seen = pndm.plan(SOLVERS[name](), make("linear"), 6), []
    x = sample(
        mlp(size=4),
        normal(2, 4),
        name,
        make("linear"),
        6,
        callback=lambda row, x: seen.append((row, x.clone())),
    )
    assert [row for row, _ in seen] == list(range(plan.nfe))
    assert torch.equal(seen[-1][1], x)


@pytest.mark.parametrize("name", FIXED)
def test_the_network_is_asked_at_what_the_callback_saw(name):
    seen, calls = [], []
    network = mlp(size=4)

    def listening(x, t):
        calls.append(x.clone())
        return network(x, t)

    sample(
        listening,
        normal(2, 4),
        name,
        make("linear"),
        6,
        callback=lambda row, x: seen.append(x.clone()),
    )
    assert all(torch.equal(a, b) for a, b in zip(calls[1:], seen[:-1], strict=True))


@pytest.mark.parametrize("name", FIXED)
def test_memory_is_of_the_order_not_of_the_steps(name):
    """At most seven outputs of the network, or copies of them, are alive at any evaluation."""
    alive, most = weakref.WeakSet(), 0
    network = mlp(size=4)

    class Answer(torch.Tensor):
        """A tensor that can be distinguished from tensors derived from it, except for copies."""

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            result = super().__torch_function__(func, types, args, kwargs)
            if func is torch.Tensor.to and result is not args[0]:
                alive.add(result)
            return result

    def listening(x, t):
        nonlocal most
        gc.collect(0)
        most = max(most, len(alive))
        e = network(torch.Tensor.as_subclass(x, torch.Tensor), t).as_subclass(Answer)
        alive.add(e)
        return e

    sample(listening, normal(2, 4), name, make("linear"), 100)
    assert 1 <= most <= 7


@pytest.mark.parametrize("name", FIXED)
def test_inputs_are_left_alone(name):
    """x_T is not modified, nothing has a gradient, and an output that is x itself is fine."""
    x = normal(2, 4).requires_grad_()
    before = x.detach().clone()
    got = sample(lambda x, t: x, x, name, make("linear"), 12)
    assert torch.equal(x, before) and not got.requires_grad
    copy = sample(lambda x, t: x.clone(), x, name, make("linear"), 12)
    assert torch.equal(got, copy)


@pytest.mark.parametrize("name", FIXED)
def test_the_same_again(name):
    network, x = unet(torch.float32), initial_noise(range(2), (1, 8, 8))
    first, second = (sample(network, x, name, make("linear"), 4) for _ in range(2))
    assert torch.equal(first, second)


def test_noise_is_asked_for_where_the_plan_adds_it():
    calls = []

    def noise(row):
        calls.append(row)
        return torch.zeros(2, 4)

    sample(mlp(size=4), normal(2, 4), "ddpm", make("linear"), 5, noise=noise)
    assert calls == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["ddpm", SOLVERS["ddim"](eta=0.3)])
def test_missing_noise_is_refused_before_anything_runs(name):
    counted = Counted(mlp(size=4))
    with pytest.raises(ValueError, match="noise=pndm.noise.step_noise") as error:
        sample(counted, normal(2, 4), name, make("linear"), 5, noise=None)
    assert counted.calls == 0 and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ddim", SOLVERS["ddim"](eta=0.0), "plms"])
def test_deterministic_methods_need_no_noise(name):
    sample(mlp(size=4), normal(2, 4), name, make("linear"), 5, noise=None)


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 1, 8), (1, 4), (4,), (2, 1)])
@pytest.mark.parametrize("name", SOLVERS)
def test_an_answer_of_the_wrong_shape_is_refused(name, shape):
    with pytest.raises(ValueError, match="the denoiser returned shape") as error:
        sample(lambda x, t: torch.zeros(shape), torch.zeros(2, 4), name, make("linear"), 5)
    assert "\n" not in str(error.value) and str(shape) in str(error.value)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("answer", [None, (torch.zeros(2, 4),), 1.0])
def test_an_answer_that_is_no_tensor_is_refused(name, answer):
    message = "the denoiser returned a (NoneType|tuple|float) for"
    with pytest.raises(ValueError, match=message) as error:
        sample(lambda x, t: answer, torch.zeros(2, 4), name, make("linear"), 5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SOLVERS)
def test_whole_numbers_are_no_state(name):
    with pytest.raises(ValueError, match=r"x_T must be .* of torch\.int64"):
        sample(mlp(size=4), torch.ones(2, 4, dtype=torch.int64), name, make("linear"), 5)


@pytest.mark.parametrize("x_T", [np.zeros((2, 4)), [[0.0]], None, torch.tensor(1.0)])
def test_what_is_no_batch_is_no_state(x_T):
    with pytest.raises(ValueError, match="x_T must be a floating-point tensor"):
        pndm.sample(
            lambda x, t: x, x_T, solver=SOLVERS["plms"](), schedule=make("linear"), steps=5
        )


@pytest.mark.parametrize("z", [None, np.zeros((2, 4)), 0.0])
def test_noise_that_is_no_tensor_is_refused(z):
    with pytest.raises(ValueError, match="the noise of row 0 returned a"):
        sample(mlp(size=4), normal(2, 4), "ddpm", make("linear"), 5, noise=lambda row: z)


@pytest.mark.parametrize("solver", ["plms", SOLVERS["plms"]])
def test_names_and_factories_are_no_solvers(solver):
    x, schedule = torch.zeros(2, 4), make("linear")
    with pytest.raises(ValueError, match=r"as pndm\.solvers\.plms\(\)"):
        pndm.sample(mlp(size=4), x, solver=solver, schedule=schedule, steps=5)
    with pytest.raises(ValueError, match=r"as pndm\.schedules\.linear\(\)"):
        pndm.sample(mlp(size=4), x, solver=SOLVERS["plms"](), schedule="linear", steps=5)


@pytest.mark.parametrize("name", SOLVERS)
def test_batches_of_none_and_images_of_one_number(name):
    assert sample(lambda x, t: x, torch.zeros(0, 3), name, make("linear"), 5).shape == (0, 3)
    flat = normal(3)
    result = sample(lambda x, t: 0.5 * x, flat, name, make("linear"), 5, noise=no_noise)
    assert result.shape == flat.shape and result.isfinite().all()


def no_noise(row):
    return torch.zeros(3)


@pytest.mark.parametrize("size", [1, 2])
def test_noise_of_the_wrong_shape_is_refused(size):
    with pytest.raises(ValueError, match="the noise of row 0 returned shape"):
        sample(
            *(mlp(size=4), normal(3 - size, 4), "ddpm", make("linear"), 5),
            noise=lambda row: torch.zeros(size, 4),
        )


def test_the_wrong_answer_is_named_by_number_and_time():
    network = mlp(size=4)

    def breaking(x, t):
        return network(x, t)[:, : 3 if t[0] < 500 else 4]

    with pytest.raises(ValueError, match="evaluation 14 at time 400"):
        sample(breaking, normal(2, 4), "plms", make("linear"), 10)


@pytest.mark.parametrize("name", SOLVERS)
def test_an_unknown_grid_is_refused(name):
    with pytest.raises(ValueError, match="use leading"):
        sample(mlp(size=4), normal(2, 4), name, make("linear"), 5, grid="foo")
