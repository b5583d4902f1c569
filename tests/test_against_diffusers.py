"""Whole trajectories against the schedulers of diffusers, each in the convention it implements.

Their ᾱ tables are replaced by ours in float64. PNDMScheduler agrees where its stride T // N is
even and exact; elsewhere its midpoints or its grid drift.
"""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler
from physics import make, mlp, normal, unet

import pndm
from pndm.solvers import Solver
from pndm.solvers.gradient import AB2, AB3, AB4, IMPROVED_EULER
from pndm.solvers.transfer import Pseudo

ONE = {"aligned": True, "diffusers": False}
"""Convention -> diffusers' set_alpha_to_one."""


def scheduler(kind, schedule, steps, **config):
    """A scheduler of diffusers on our table."""
    result = kind(**config)
    result.alphas_cumprod = torch.tensor(
        [schedule.node(t).alpha_bar for t in range(1000)], dtype=torch.float64
    )
    result.one = torch.tensor(1.0, dtype=torch.float64)
    final = result.one if config.get("set_alpha_to_one", True) else result.alphas_cumprod[0]
    result.final_alpha_cumprod = final
    result.set_timesteps(steps)
    return result


def follow(made, network, x, options=lambda i: {}):
    """diffusers' loop: the network at each of its timesteps, then its step."""
    for i, t in enumerate(made.timesteps):
        e = network(x, t.to(x).expand(len(x)))
        x = made.step(e, t, x, **options(i)).prev_sample
    return x


def check(ours, theirs):
    assert ours.dtype == torch.float64 and ours.isfinite().all()
    difference = (ours - theirs).abs().max().item()
    assert difference < 1e-10, difference


SLOW = pytest.mark.slow
SMALL = [4, 5, 10, 20, 25, 50, 100, *(pytest.param(n, marks=SLOW) for n in (125, 250, 500))]


@pytest.mark.parametrize("steps", SMALL)
@pytest.mark.parametrize("convention", ONE)
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "quad", "cosine"])
def test_plms_is_their_pndm(name, convention, steps):
    if name == "cosine" and convention == "diffusers":
        pytest.skip("not floored there: 1/√ᾱ = 2e4 magnifies the rounding error of both")
    schedule, network, x = make(name, convention), mlp(), normal(3, 12)
    reference = scheduler(PNDMScheduler, schedule, steps, set_alpha_to_one=ONE[convention])
    plan = pndm.plan(pndm.solvers.plms(), schedule, steps)
    assert plan.times == tuple(reference.timesteps.tolist())
    ours = pndm.sample(network, x, solver=pndm.solvers.plms(), schedule=schedule, steps=steps)
    check(ours, follow(reference, network, x))


@pytest.mark.parametrize("convention", ONE)
@pytest.mark.parametrize("kind", ["plms", "ddim", "ddpm"])
def test_on_a_small_unet(kind, convention):
    if kind == "ddpm" and convention == "diffusers":
        pytest.skip("their DDPMScheduler ends at ᾱ = 1 alone")
    schedule, network, x, steps = make("linear", convention), unet(), normal(2, 1, 8, 8), 10
    if kind == "ddpm":
        reference = scheduler(DDPMScheduler, schedule, steps)
        shared = normal(steps, *x.shape, seed=5)
        ours = pndm.sample(
            network,
            x,
            solver=pndm.solvers.ddpm(),
            schedule=schedule,
            steps=steps,
            noise=lambda i: shared[i],
        )
        check(ours, follow_ddpm(reference, network, x, shared))
        return
    options = {"clip_sample": False} if kind == "ddim" else {}
    family = {"plms": PNDMScheduler, "ddim": DDIMScheduler}[kind]
    reference = scheduler(family, schedule, steps, set_alpha_to_one=ONE[convention], **options)
    solver = pndm.solvers.SOLVERS[kind]()
    ours = pndm.sample(network, x, solver=solver, schedule=schedule, steps=steps)
    check(ours, follow(reference, network, x))


@pytest.mark.parametrize("steps", [4, 5, 8, 20, 40, 100, 125])
def test_plms_with_a_ramp_is_their_skip_prk(steps):
    """latent-diffusion's PLMS: improved Euler, AB2, AB3, AB4; one value in this frame."""
    ramp = Solver("ramp", Pseudo(), AB4, (IMPROVED_EULER, AB2, AB3))
    schedule, network, x = make("linear", "diffusers"), mlp(), normal(3, 12)
    reference = scheduler(
        PNDMScheduler, schedule, steps, skip_prk_steps=True, set_alpha_to_one=False
    )
    ours = pndm.sample(network, x, solver=ramp, schedule=schedule, steps=steps)
    check(ours, follow(reference, network, x))


@pytest.mark.parametrize(
    "steps", [1, 2, 8, 20, 40, 100, pytest.param(1000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("grid", ["leading", "trailing"])
@pytest.mark.parametrize("convention", ONE)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_their_ddim(eta, convention, grid, steps):
    if steps == 1 and grid == "leading":
        pytest.skip("theirs starts at time 0 and returns noise")
    schedule, network, x = make("linear", convention), mlp(), normal(3, 12)
    reference = scheduler(
        DDIMScheduler,
        schedule,
        steps,
        timestep_spacing=grid,
        clip_sample=False,
        set_alpha_to_one=ONE[convention],
    )
    noise = normal(steps, 3, 12, seed=9)
    ours = pndm.sample(
        network,
        x,
        solver=pndm.solvers.ddim(eta),
        schedule=schedule,
        steps=steps,
        grid=grid,
        noise=lambda i: noise[i],
    )
    shared = {"eta": eta}
    check(
        ours,
        follow(
            reference, network, x, lambda i: {**shared, "variance_noise": noise[i]} if eta else {}
        ),
    )


def follow_ddpm(theirs, network, x, noise):
    """Their loop, with the noise that is shared in the place of what it would draw."""
    from diffusers.schedulers import scheduling_ddpm

    drawn = iter(noise)
    own, scheduling_ddpm.randn_tensor = scheduling_ddpm.randn_tensor, lambda *a, **k: next(drawn)
    try:
        return follow(theirs, network, x)
    finally:
        scheduling_ddpm.randn_tensor = own


@pytest.mark.parametrize("steps", [2, 10, 50, 250, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddpm_is_their_ddpm(name, clip, variance, steps):
    schedule, network, x = make(name), mlp(), normal(3, 12)
    config = {"variance_type": f"fixed_{variance}", "clip_sample": clip}
    reference = scheduler(DDPMScheduler, schedule, steps, **config)
    noise = normal(steps, 3, 12, seed=9)
    ours = pndm.sample(
        network,
        x,
        solver=pndm.solvers.ddpm(variance, clip),
        schedule=schedule,
        steps=steps,
        noise=lambda i: noise[i],
    )
    # where ᾱ is floored a step has no length, but theirs adds 1e-10·z: it cuts variances at 1e-20
    plan = pndm.plan(pndm.solvers.ddpm(variance, clip), schedule, steps)
    moving = torch.tensor([row.noise > 0 for row in plan.rows])
    check(ours, follow_ddpm(reference, network, x, noise * moving[:, None, None]))


def golden(schedule, network=lambda x, t: x * (t / (t + 1))[:, None, None, None]):
    x = torch.arange(768, dtype=torch.float64).reshape(3, 8, 8, 4).div(768).permute(3, 0, 1, 2)
    x = pndm.sample(network, x, solver=pndm.solvers.plms(), schedule=schedule, steps=10)
    return x.abs().sum().item()


@pytest.mark.parametrize(
    ("beta_start", "convention", "theirs", "in_float64"),
    [
        (1e-4, "diffusers", 198.1318, 198.1317),
        (0.01, "aligned", 230.0399, 230.0369),
        (0.01, "diffusers", 186.9482, 186.9448),
    ],
)
def test_golden_sums(beta_start, convention, theirs, in_float64):
    """Σ|x| of diffusers' own full-loop tests (theirs in float32; ᾱ is below the floor here)."""
    schedule = make("linear", convention, beta_start=beta_start, min_alpha_bar=0)
    assert golden(schedule) == pytest.approx(in_float64, abs=1e-4)
    assert golden(schedule) == pytest.approx(theirs, abs=1e-2)


def test_the_floor_shows_in_the_golden_sum():
    assert make("linear", beta_start=0.01).alpha_bar(900) < 4e-5 * 4
    assert golden(make("linear", beta_start=0.01)) != pytest.approx(230.0369, abs=1e-4)
