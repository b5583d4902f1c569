"""The exact denoisers against the definition of the score, by automatic differentiation."""

import math

import pytest
import torch
from physics import make, normal
from scipy.integrate import solve_ivp
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from pndm.models.analytic import Gaussian, Mixture, Point

F64 = torch.float64
TIMES = (0.0, 3.5, 250.0, 999.0)
COVARIANCE = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.2]], dtype=F64)
MEAN = torch.tensor([0.3, -0.5, 0.1], dtype=F64)
MEANS = torch.tensor([[0.9, 0.0, -0.3], [-0.6, 0.2, 0.4]], dtype=F64)
VARIANCES, WEIGHTS = torch.tensor([0.05, 0.3], dtype=F64), torch.tensor([2.0, 1.0], dtype=F64)


def noise_by_score(log_density, x, a):
    """e = −√(1−ᾱ)·∇ log p_t(x), Tweedie's formula."""
    x = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(log_density(x).sum(), x)
    return -math.sqrt(1 - a) * score


@pytest.mark.parametrize("name", ["linear", "cosine", "vp"])
@pytest.mark.parametrize("t", TIMES)
def test_gaussian_is_its_score(name, t):
    schedule, x = make(name), normal(6, 3)
    a = schedule.node(t).alpha_bar
    law = MultivariateNormal(
        math.sqrt(a) * MEAN, a * COVARIANCE + (1 - a) * torch.eye(3, dtype=F64)
    )
    got = Gaussian(schedule, MEAN, COVARIANCE)(x, torch.full((6,), t, dtype=F64))
    torch.testing.assert_close(got, noise_by_score(law.log_prob, x, a), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["linear", "cosine", "vp"])
@pytest.mark.parametrize("t", TIMES)
def test_mixture_is_its_score(name, t):
    schedule, x = make(name), normal(6, 3)
    a = schedule.node(t).alpha_bar
    spread = (a * VARIANCES + 1 - a).sqrt()[:, None].expand(2, 3)
    parts = Independent(Normal(math.sqrt(a) * MEANS, spread), 1)
    law = MixtureSameFamily(Categorical(WEIGHTS), parts)
    got = Mixture(schedule, MEANS, VARIANCES, WEIGHTS)(x, torch.full((6,), t, dtype=F64))
    torch.testing.assert_close(got, noise_by_score(law.log_prob, x, a), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("t", TIMES)
def test_they_are_one_family(t):
    schedule, x, t = make("linear"), normal(5, 3), torch.full((5,), t, dtype=F64)
    one = torch.ones(1, dtype=F64)
    mixture = Mixture(schedule, MEAN[None], 0.3 * one, one)(x, t)
    torch.testing.assert_close(mixture, Gaussian(schedule, MEAN, 0.3)(x, t))
    identity = torch.eye(3, dtype=F64)
    full = Gaussian(schedule, MEAN, 0.3 * identity)(x, t)
    torch.testing.assert_close(full, Gaussian(schedule, MEAN, 0.3)(x, t))
    torch.testing.assert_close(Gaussian(schedule, MEAN, 0.0)(x, t), Point(schedule, MEAN)(x, t))
    torch.testing.assert_close(
        Mixture(schedule, MEAN[None], 0 * one, one)(x, t), Point(schedule, MEAN)(x, t)
    )


def test_point_recovers_the_noise_that_was_mixed_in():
    schedule, e = make("linear"), normal(4, 3)
    for t in TIMES:
        a = schedule.alpha_bar(t)
        x = math.sqrt(a) * MEAN + math.sqrt(1 - a) * e
        got = Point(schedule, MEAN)(x, torch.full((4,), t, dtype=F64))
        torch.testing.assert_close(got, e, rtol=0, atol=1e-11)


@pytest.mark.parametrize("covariance", [COVARIANCE, 0.25, 1.0], ids=["full", "narrow", "unit"])
def test_the_gaussians_own_solution_solves_the_ode(covariance):
    """`exact` against eq. 10 integrated by DOP853 with right-hand sides written here."""
    schedule, x = make("vp"), normal(1, 3)
    sigma = covariance if isinstance(covariance, torch.Tensor) else covariance * torch.eye(3)
    sigma, identity = sigma.to(F64), torch.eye(3, dtype=F64)

    def slope(t, y):
        a, half = schedule.alpha_bar(t), schedule.dlog_alpha_bar(t) / 2
        y = torch.from_numpy(y)
        score = -torch.linalg.solve(a * sigma + (1 - a) * identity, y - math.sqrt(a) * MEAN)
        return (half * (y + score)).numpy()

    solution = solve_ivp(slope, (990, 20), x[0].numpy(), "DOP853", rtol=1e-12, atol=1e-13)
    got = Gaussian(schedule, MEAN, covariance).exact(x, 990.0, 20.0)
    assert abs(got[0].numpy() - solution.y[:, -1]).max() < 1e-9


def test_gaussian_closed_form_of_one_variance():
    schedule, x, v = make("linear"), normal(4, 3), 0.4
    a, b = schedule.alpha_bar(800), 1.0
    want = x * math.sqrt((b * v + 1 - b) / (a * v + 1 - a))
    got = Gaussian(schedule, torch.zeros(3, dtype=F64), v).exact(x, 800, -1)
    torch.testing.assert_close(got, want)


MODELS = {
    "point": lambda s: Point(s, MEAN.view(3, 1, 1)),
    "gaussian": lambda s: Gaussian(s, MEAN, COVARIANCE),
    "mixture": lambda s: Mixture(s, MEANS, VARIANCES, WEIGHTS),
}


@pytest.mark.parametrize("model", MODELS)
def test_images_keep_shape_and_type_and_do_not_mix(model):
    """Each image has a time of its own; float32 stays float32."""
    network, x = MODELS[model](make("linear")), normal(4, 3, 1, 1)
    t = torch.tensor([0.0, 10.5, 500.0, 999.0], dtype=F64)
    together = network(x, t)
    assert together.shape == x.shape and together.dtype == F64
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-13)
    single = network(x.float(), t.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), together, rtol=1e-3, atol=1e-3)


def test_far_from_all_components_is_finite():
    e = Mixture(make("linear"), MEANS, VARIANCES, WEIGHTS)(
        1e4 * normal(3, 3), torch.zeros(3, dtype=F64)
    )
    assert e.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("t", [0.0, 20.0, 999.0])
def test_every_dtype_is_answered_as_well_as_it_can_say(dtype, t):
    """1−ᾱ is 1e-4 at t = 0: nothing to ᾱ in half precision, and four digits of it in single."""
    schedule = make("linear")
    two = torch.tensor([[0.5, -0.5], [1.0, 0.0]])
    denoisers = (
        Point(schedule, two[0]),
        Gaussian(schedule, two[0], torch.tensor([[1.0, 0.25], [0.25, 0.5]])),
        Mixture(schedule, two, torch.tensor([0.5, 0.25]), torch.tensor([1.0, 3.0])),
    )
    x, times = normal(5, 2).to(dtype), torch.full((5,), t)
    for denoiser in denoisers:
        exact = denoiser(x.double(), times)
        torch.testing.assert_close(denoiser(x, times), exact.to(dtype), rtol=0, atol=0)
