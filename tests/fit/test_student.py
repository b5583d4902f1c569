"""The student: the plan itself where nothing is learned, and gradients that are derivatives."""

import pytest
import torch

import pndm
from pndm._errors import InputError
from pndm.execute import execute
from pndm.fit.student import Student
from pndm.learned import PARTS
from pndm.models.analytic import Mixture
from pndm.plans import of_learned
from pndm.solvers import ddim, deis, ipndm, lms

SCHEDULES = {
    "linear": pndm.schedules.linear(),
    "cosine": pndm.schedules.cosine(),
    "diffusers": pndm.schedules.linear(convention="diffusers"),
    "vp": pndm.schedules.vp(),
}


class Smooth(torch.nn.Module):
    """A small network, smooth in x and in time, in float64."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = (torch.nn.Conv2d(1, 1, 3, padding=1).double() for _ in range(2))
        self.requires_grad_(False)

    def forward(self, x, t):
        phase = (t.double() / 300).view(-1, 1, 1, 1)
        return self.last(torch.tanh(self.first(x) + phase.sin())) + phase.cos() * x / 2


@pytest.fixture(scope="module")
def network():
    return Smooth()


def noise(count=2):
    return pndm.initial_noise(range(count), (1, 8, 8)).double()


@pytest.mark.parametrize("prediction", ["noise", "velocity", "data"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_learning_it_is_the_plan(network, schedule, prediction):
    schedule = SCHEDULES[schedule]
    for solver, grid in ((ipndm(), "leading"), (deis(3), "linspace"), (ddim(), [700, 300, 9.5])):
        start = pndm.plan(solver, schedule, 5 if isinstance(grid, str) else None, grid, prediction)
        student = Student(start, schedule, (), prediction)
        x = execute(start, network, noise())
        assert (student(network, noise()) - x).abs().max() < 1e-12 * x.abs().max()
        again = execute(of_learned(student.to_learned()), network, noise())
        assert (again - x).abs().max() < 1e-12 * x.abs().max()


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_gradients_are_derivatives(network, prediction):
    """Central differences of every number, and of the start, in float64."""
    schedule = SCHEDULES["linear"]
    times = [800.3, 500.7, 200.2, 3.4, -1]
    student = Student(pndm.plan(ipndm(), schedule, grid=times), schedule, PARTS, prediction)
    weight = pndm.initial_noise([8, 9], (1, 8, 8)).double()

    def value():
        return (student(network, noise()) * weight).sum()

    value().backward()
    h = 1e-5
    for part in PARTS:
        parameter = student.part(part)
        used = parameter.grad != 0
        assert used.any() and parameter.grad.isfinite().all()
        for i in used.nonzero():
            i = tuple(i)
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[i] += sign * h
                    sides.append(value().item())
                    parameter[i] -= sign * h
            numeric = (sides[0] - sides[1]) / (2 * h)
            scale = max(1.0, parameter.grad.abs().max().item())
            assert abs(numeric - parameter.grad[i].item()) < 1e-6 * scale, (part, i)


def test_recomputed_gradients_are_the_same(network):
    schedule = SCHEDULES["cosine"]
    gradients = []
    for recompute in (False, True):
        start = pndm.plan(lms(), schedule, 4, "leading")
        student = Student(start, schedule, PARTS, recompute=recompute)
        student(network, noise()).square().sum().backward()
        gradients.append([student.part(part).grad for part in PARTS])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, again, rtol=1e-12, atol=1e-12)


def test_float32_images_are_those_of_the_plan():
    schedule = SCHEDULES["linear"]
    student = Student(pndm.plan(ipndm(), schedule, 5, "quadratic"), schedule)
    with torch.no_grad():
        for part in PARTS:
            student.part(part).add_(0.01)
        network = pndm.models.load("digits_linear")
        x = student(network, noise().float())
    again = execute(of_learned(student.to_learned()), network, noise().float())
    assert (x - again).abs().max() < 1e-5


def test_times_descend_whatever_the_numbers():
    schedule = SCHEDULES["linear"]
    student = Student(pndm.plan(ipndm(), schedule, 6, "linspace"), schedule)
    with torch.no_grad():
        student.logits.copy_(5 * torch.randn(7, generator=torch.Generator().manual_seed(0)))
        student.offsets.fill_(-1e4)
    times = student.times
    assert (times.diff() < 0).all() and times[0] <= 999 and times[-1] >= 0
    assert student.to_learned().times == (0.0,) * 6


def test_only_what_is_learned_has_gradients():
    schedule = SCHEDULES["linear"]
    student = Student(pndm.plan(ipndm(), schedule, 3, "leading"), schedule, ("weights",))
    learned = {name for name, p in student.named_parameters() if p.requires_grad}
    assert learned == {"weights"}
    assert student.times.tolist() == [666, 333, 0]


def test_what_cannot_be_fitted_is_refused():
    schedule = SCHEDULES["linear"]
    refused = {"plms": "Runge-Kutta", "heun": "Runge-Kutta", "dpmpp_2m": "predicted noise"}
    refused |= {"ddpm": "predicted noise", "fon": "predicted noise", "unipc": "predicted noise"}
    for name, reason in refused.items():
        start = pndm.plan(pndm.solvers.SOLVERS[name](), schedule, 5)
        with pytest.raises(InputError, match=f"{reason}.*use ddim, ipndm, deis, lms"):
            Student(start, schedule)
    with pytest.raises(InputError, match="adds noise"):
        Student(pndm.plan(ddim(eta=1), schedule, 5), schedule)
    with pytest.raises(InputError, match="corrector"):
        Student(pndm.plan(pndm.solvers.unipc(predict="noise"), schedule, 5), schedule)
    with pytest.raises(InputError, match="learn=colour: there are times, weights, clock"):
        Student(pndm.plan(ddim(), schedule, 5), schedule, ("colour",))
    released = pndm.schedules.linear(convention="released")
    with pytest.raises(InputError, match="truncates times"):
        Student(pndm.plan(ddim(), released, 5), released, ("times",))


def test_a_mixture_takes_gradients_in_time():
    """An analytic network is differentiable in its time, as `pndm.fit` needs."""
    schedule = SCHEDULES["linear"]
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.2]], dtype=torch.float64)
    mixture = Mixture(schedule, means, torch.tensor([0.1, 0.2]), torch.tensor([0.4, 0.6]))
    x, t, h = torch.randn(3, 2, dtype=torch.float64), 321.4, 1e-4
    time = torch.full((3,), t, dtype=torch.float64, requires_grad=True)
    mixture(x, time).sum().backward()
    sides = [mixture(x, torch.full((3,), t + s, dtype=torch.float64)).sum() for s in (h, -h)]
    numeric = (sides[0] - sides[1]) / (2 * h)
    assert time.grad.sum().item() == pytest.approx(numeric.item(), rel=1e-6)
