"""The adaptive probability flow: accurate, per image, with the true number of evaluations."""

import math
from itertools import pairwise

import pytest
import torch
from physics import Counted, make, mlp, normal, unet
from scipy.integrate import solve_ivp

import pndm
from pndm import probability_flow
from pndm.models.analytic import Gaussian, Mixture, Point
from pndm.schedules import SCHEDULES
from pndm.solvers import pf

F64 = torch.float64
MEANS = torch.tensor([[-0.8, 0.4], [0.9, -0.1]], dtype=F64)


def mixture(schedule):
    return Mixture(schedule, MEANS, torch.tensor([0.05, 0.1]), torch.tensor([0.5, 0.5]))


def reference(network, schedule, x, start=999.0, end=0.0):
    """Eq. 10 by DOP853, image by image, with ᾱ and its slope by central differences."""

    def slope(t, y):
        a, h = schedule.alpha_bar(t), 1e-4
        low, high = max(t - h, -1), min(t + h, 999)
        rate = (schedule.log_alpha_bar(high) - schedule.log_alpha_bar(low)) / (high - low)
        y = torch.from_numpy(y)[None]
        e = network(y, torch.tensor([t], dtype=F64))
        return (rate / 2 * (y - e / math.sqrt(1 - a)))[0].numpy()

    ends = [
        solve_ivp(slope, (start, end), image.numpy(), "DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
        for image in x
    ]
    return torch.stack([torch.from_numpy(y) for y in ends])


def test_agrees_with_another_integrator():
    schedule, x = make("vp"), normal(3, 2)
    network = mixture(schedule)
    exact = reference(network, schedule, x)
    gaps = []
    for tolerance in (1e-3, 1e-5, 1e-8):
        got, _ = probability_flow.integrate(
            network, x, pf(tolerance, tolerance), schedule, [999, 0]
        )
        gaps.append((got - exact).abs().max().item())
    assert gaps[0] < 2e-2 and gaps[1] < 2e-4 and gaps[2] < 1e-6
    assert gaps == sorted(gaps, reverse=True)


@pytest.mark.parametrize("name", SCHEDULES)
def test_tolerances_are_kept_on_every_schedule(name):
    """The slope in t of a table jumps at every whole time, which log ᾱ as the variable avoids."""
    schedule, x = make(name), normal(3, 2)
    gaussian = Gaussian(schedule, torch.tensor([0.5, -0.2], dtype=F64), 0.3)
    exact = gaussian.exact(x, 899.1, 49.95)
    for tolerance in (1e-5, 1e-8, 1e-12):
        got, nfe = probability_flow.integrate(
            gaussian, x, pf(tolerance, tolerance), schedule, [899.1, 49.95]
        )
        assert (got - exact).abs().max() < 10 * tolerance and nfe.max() < 1000


def test_a_floored_start_does_not_move_to_where_the_floor_ends():
    """Cosine from 999 and from where its ᾱ crosses the floor: the same."""
    schedule, x = make("cosine"), normal(3, 2)
    crossing = schedule.inverse(math.log(schedule.min_alpha_bar))
    assert 950 < crossing < 999
    result = [
        probability_flow.integrate(mixture(schedule), x, pf(), schedule, [t, 0])
        for t in (999, crossing)
    ]
    torch.testing.assert_close(result[0][0], result[1][0], rtol=0, atol=1e-9)


def test_a_list_and_its_steps_agree():
    network, x, schedule = mlp(size=2), normal(2, 2), make("vp")
    with pytest.raises(ValueError, match="but the list of 2 times has 1"):
        pndm.sample(network, x, solver=pf(), schedule=schedule, steps=7, grid=[900, 20])
    seen = []
    pndm.sample(
        network, x, solver=pf(), schedule=schedule, callback=lambda row, x: seen.append(row)
    )
    assert seen == [0]


def test_named_grids_take_one_transfer_from_time_0_to_the_image():
    schedule, x = make("vp"), normal(3, 2)
    network = mixture(schedule)
    at_0, nfe = probability_flow.integrate(network, x, pf(), schedule, [999, 0])
    got, more = probability_flow.integrate(network, x, pf(), schedule)
    want = pndm.sample(network, at_0, solver=pndm.solvers.ddim(), schedule=schedule, grid=[0, -1])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    assert torch.equal(more, nfe + 1)


def test_point_and_gaussian_data():
    schedule, x = make("linear"), normal(3, 2)
    point = torch.tensor([0.3, -0.8], dtype=F64)
    got = pndm.sample(Point(schedule, point), x, solver=pf(), schedule=schedule)
    assert (got - point).abs().max() < 1e-10
    schedule = make("vp")
    gaussian = Gaussian(schedule, point, torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64))
    got, _ = probability_flow.integrate(gaussian, x, pf(1e-8, 1e-8), schedule, [990, 50])
    assert (got - gaussian.exact(x, 990, 50)).abs().max() < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_an_image_does_not_depend_on_the_others(dtype):
    """Neither its result nor its evaluations; the images of the batch need different numbers."""
    schedule = make("vp")
    network, x = mixture(schedule), normal(6, 2).to(dtype)
    x[3] *= 6
    got, nfe = probability_flow.integrate(network, x, pf(), schedule)
    assert len(set(nfe.tolist())) > 1
    for i in range(len(x)):
        alone, its = probability_flow.integrate(network, x[i : i + 1], pf(), schedule)
        assert its.item() == nfe[i].item()
        assert (alone[0] - got[i]).abs().max() < (1e-10 if dtype == F64 else 5e-5)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-5])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_reported_evaluations_are_the_calls(name, tolerance, dtype):
    schedule, x = make(name), normal(1, 2).to(dtype)
    for grid in ("leading", [900, 30]):
        counted = Counted(mixture(schedule))
        got, nfe = probability_flow.integrate(counted, x, pf(tolerance, tolerance), schedule, grid)
        assert nfe.tolist() == [counted.calls]
        assert got.dtype == dtype and got.isfinite().all() and not got.requires_grad
        first, last = (999, 0) if grid == "leading" else (900, 30)
        assert min(counted.times) >= last and max(counted.times) <= first
        assert counted.times[-1] == last


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_dtype_is_kept(dtype):
    seen = set()
    network = mlp(size=4)

    def listening(x, t):
        seen.add((x.dtype, t.dtype))
        return network(x.float(), t)

    x = normal(2, 2, 2).to(dtype)
    got = pndm.sample(listening, x, solver=pf(1e-2, 1e-2), schedule=make("vp"))
    assert got.dtype == dtype and got.shape == x.shape
    assert seen == {(dtype, torch.promote_types(dtype, torch.float32))}


def test_on_a_small_unet():
    network, x = unet(torch.float32), normal(2, 1, 8, 8, dtype=torch.float32)
    got, nfe = probability_flow.integrate(network, x, pf(1e-2, 1e-2), make("linear"))
    assert got.shape == x.shape and got.isfinite().all() and (nfe > 0).all()


def test_sample_is_integrate():
    schedule, x = make("vp"), normal(2, 2)
    got = pndm.sample(mixture(schedule), x, solver=pf(), schedule=schedule)
    assert torch.equal(got, probability_flow.integrate(mixture(schedule), x, pf(), schedule)[0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_an_error(value):
    with pytest.raises(FloatingPointError, match="check the network"):
        probability_flow.integrate(
            lambda x, t: torch.full_like(x, value), normal(2, 2), pf(), make("linear")
        )


@pytest.mark.parametrize("shape", [(2, 3), (1, 2), (2, 2, 1), (2,)])
def test_an_answer_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="returned shape") as error:
        probability_flow.integrate(
            lambda x, t: torch.zeros(shape), torch.zeros(2, 2), pf(), make("vp")
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("grid", ["foo", [0, 999], [999], [999, -2], [-0.5, -1]])
def test_bad_grids_are_refused(grid):
    with pytest.raises(ValueError):
        probability_flow.integrate(mlp(size=2), normal(2, 2), pf(), make("vp"), grid)


@pytest.mark.parametrize("timesteps", [2, 10, 50, 1000])
@pytest.mark.parametrize("convention", ["aligned", "released", "diffusers"])
@pytest.mark.parametrize("name", ["linear", "quad", "scaled_linear", "cosine"])
def test_the_ends_of_every_table_are_met(name, convention, timesteps):
    """They are the table's own numbers, which exp and log would move by a rounding."""
    schedule = SCHEDULES[name](timesteps=timesteps, convention=convention)
    gaussian = Gaussian(schedule, torch.zeros(3), 0.5)
    for dtype in (torch.float32, torch.float64):
        x = normal(2, 3).to(dtype)
        result = pndm.sample(gaussian, x, solver=pf(), schedule=schedule)
        assert result.dtype == dtype and result.isfinite().all()


@pytest.mark.parametrize("convention", ["aligned", "released", "diffusers"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_clock_is_inverted_for_a_whole_batch(name, convention):
    """As for each image, at the knots too, and NaN does not end in an error."""
    how = {} if name == "vp" else {"convention": convention}
    schedule = SCHEDULES[name](**how)
    logs = [schedule.log_alpha_bar(t) for t in (-1, 0, 0.5, 1, 17, 300.25, 998, 999)]
    inverse = schedule.inverse_on(torch.device("cpu"))
    times = inverse(torch.tensor(logs, dtype=F64))
    expected = torch.tensor([schedule.inverse(value) for value in logs], dtype=F64)
    assert times.dtype == F64
    torch.testing.assert_close(times, expected, rtol=1e-15, atol=1e-12)
    inverse(torch.tensor([math.nan], dtype=F64))


def test_a_schedule_of_ones_own_needs_no_tensors():
    from pndm.schedules import Schedule

    class Own(Schedule):
        def log_alpha_bar(self, t):
            return -(t + 1) / 100

        def dlog_alpha_bar(self, t):
            return -1 / 100

        def inverse(self, log_alpha_bar):
            return -100 * log_alpha_bar - 1

    schedule, x = Own("own", 1000, "aligned", 0.0), normal(3, 2)
    got, _ = probability_flow.integrate(mixture(schedule), x, pf(1e-8, 1e-8), schedule, [900, 0])
    exact = reference(mixture(schedule), schedule, x, 900.0)
    assert (got - exact).abs().max() < 1e-6


def test_an_evaluation_does_not_wait_for_the_device(monkeypatch):
    """Only torchode does, to know whether it goes on and whether the end is reached."""
    from torch.utils._python_dispatch import TorchDispatchMode

    waits, inside = [], []

    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), given=None):
            if "local_scalar" in str(operation) or "nonzero" in str(operation):
                waits.append(operation)
            return operation(*arguments, **(given or {}))

    def network(x, t):
        inside.append(len(waits))
        return x / 2

    for method in ("tolist", "numpy", "cpu"):
        monkeypatch.setattr(
            torch.Tensor, method, lambda *_, name=method: pytest.fail(f"waits in {name}")
        )
    with Waits():
        _, nfe = probability_flow.integrate(network, normal(50, 2), pf(1e-6, 1e-6), make("linear"))
    steps, between = len(inside) / 6, [b - a for a, b in pairwise(inside)]
    assert steps > 8 and sum(wait > 0 for wait in between) < steps + 3
