"""Half precision, and whose memory is whose: what a step keeps and what it returns."""

import itertools

import pytest
import torch
from physics import normal

import pndm
from pndm.execute import execute
from pndm.integrations.diffusers import PREDICTIONS, PlanScheduler
from pndm.solvers import SOLVERS, Solver

FIXED = [name for name, factory in SOLVERS.items() if isinstance(factory(), Solver)]
ODE = [name for name in FIXED if name not in ("ddpm", "f_pndm")]
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULES = {
    "linear": {},
    "stable": STABLE | {"set_alpha_to_one": False, "steps_offset": 1},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero_snr": STABLE | {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
}
HALVES = [torch.float16, torch.bfloat16]


def gaussian(schedule, kind, mean=0.6, deviation=0.3):
    """The exact network of data N(mean, deviation²), in float64."""

    def network(x, t):
        a = torch.tensor(schedule.alpha_bar(float(t)), dtype=torch.float64)
        x, v = x.double(), deviation**2
        x_0 = mean + a.sqrt() * v / (a * v + 1 - a) * (x - a.sqrt() * mean)
        e = (x - a.sqrt() * x_0) / (1 - a).sqrt()
        velocity = a.sqrt() * e - (1 - a).sqrt() * x_0
        return {"epsilon": e, "sample": x_0, "v_prediction": velocity}[kind]

    return network


def error(x, exact):
    return (x.double() - exact).square().mean().sqrt().item()


def check_rounding(name, kind, settings, dtype, steps=10):
    """No more error than in float64 with a network that is given and answers `dtype`."""
    scheduler = PlanScheduler(solver=name, prediction_type=kind, **settings)
    scheduler.set_timesteps(steps)
    network = gaussian(scheduler.schedule, kind)
    x_T = normal(800, 1).to(dtype)
    exact = execute(scheduler.plan, lambda x, t: network(x, t[0]), x_T.double())
    rounded = execute(
        scheduler.plan, lambda x, t: network(x.to(dtype), t[0]).to(dtype).double(), x_T.double()
    )
    best, x = error(rounded.to(dtype), exact), x_T
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t).to(dtype), t, x).prev_sample
        assert x.dtype == dtype
    assert error(x, exact) <= 1.2 * best


CASES = list(itertools.product(ODE, PREDICTIONS, SCHEDULES))
QUICK = {
    *itertools.product(["plms", "prk", "ipndm", "unipc"], PREDICTIONS, ["zero_snr"]),
    *itertools.product(["plms", "heun", "dpmpp_2m"], ["epsilon"], ["linear", "stable", "cosine"]),
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("name", "kind", "schedule"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_half_precision_loses_only_what_the_network_rounds(name, kind, schedule, dtype):
    check_rounding(name, kind, SCHEDULES[schedule], dtype)


@pytest.mark.parametrize("name", ["plms", "prk", "heun"])
def test_single_precision_survives_a_start_without_signal(name):
    """In sums of float32 PLMS is off by 0.3 there, and pseudo Runge-Kutta by 2."""
    check_rounding(name, "v_prediction", SCHEDULES["zero_snr"], torch.float32)


@pytest.mark.parametrize("dtype", HALVES)
def test_noise_and_velocity_are_rounded_once(dtype):
    scheduler = PlanScheduler(**STABLE)
    x_0, e, t = normal(3, 64).to(dtype), normal(3, 64, seed=1).to(dtype), torch.tensor([0, 9, 999])
    for mix in (scheduler.add_noise, scheduler.get_velocity):
        got, want = mix(x_0, e, t), mix(x_0.double(), e.double(), t)
        assert got.dtype == dtype and torch.equal(got, want.to(dtype))
    assert scheduler.add_noise(x_0, e, torch.tensor([0]))[0].sub(x_0[0]).abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", FIXED)
def test_a_step_keeps_none_of_the_callers_tensors(name, dtype):
    """Networks that answer in the same memory each time, and pipelines that write into a sample.

    Both leave the images as they are."""

    def sample(reuses):
        scheduler = PlanScheduler(solver=name)
        scheduler.set_timesteps(6)
        generator, x = torch.Generator().manual_seed(0), normal(2, 8).to(dtype)
        answer = torch.empty_like(x)
        for t in scheduler.timesteps:
            if reuses:
                answer.copy_(torch.tanh(x) * (1 + t / 1000))
                following = scheduler.step(answer, t, x, generator).prev_sample
                x.fill_(7.0)
                answer.fill_(7.0)
            else:
                e = torch.tanh(x) * (1 + t / 1000)
                following = scheduler.step(e, t, x, generator).prev_sample
            x = following
        return x

    torch.testing.assert_close(sample(reuses=True), sample(reuses=False), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ddim", "plms", "unipc"])
def test_what_a_pipeline_writes_into_half_of_a_sample_is_used(name):
    """Where it wrote its value counts, elsewhere the digits that half precision has not."""
    scheduler = PlanScheduler(solver=name)
    scheduler.set_timesteps(30)
    x = normal(1, 8).half()
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(x, t, x).prev_sample
        x[:, :4] = 0.5 if i + 1 < len(scheduler.timesteps) else x[:, :4]
    again = PlanScheduler(solver=name)
    again.set_timesteps(30)
    y = normal(1, 8)
    for i, t in enumerate(again.timesteps):
        y = again.step(y, t, y).prev_sample
        y[:, :4] = 0.5 if i + 1 < len(again.timesteps) else y[:, :4]
    torch.testing.assert_close(x.double(), y.double(), rtol=0.02, atol=0.02)


def test_a_sample_of_other_precision_than_the_network_keeps_its_own():
    scheduler = PlanScheduler(solver="plms")
    scheduler.set_timesteps(5)
    x = normal(2, 4).float()
    got = scheduler.step(x.bfloat16(), scheduler.timesteps[0], x).prev_sample
    assert got.dtype == torch.float32
    (got,) = scheduler.step(x.bfloat16(), scheduler.timesteps[1], got, return_dict=False)
    assert got.dtype == torch.float32 and pndm.execute.execute is execute


@pytest.mark.parametrize("name", FIXED)
def test_a_network_may_return_the_same_buffer_at_every_call(name):
    """As a CUDA graph does, whose next replay overwrites what it returned before."""
    results, buffer, x_T = [], torch.empty(3, 2), normal(3, 2).float()
    network = gaussian(PlanScheduler().schedule, "epsilon")
    for overwrites in (False, True):
        scheduler = PlanScheduler(solver=name)
        scheduler.set_timesteps(8)
        generator, x = torch.Generator().manual_seed(0), x_T
        for t in scheduler.timesteps:
            e = network(x, t).float()
            if overwrites:
                e = buffer.copy_(e)
            x = scheduler.step(e, t, x, generator=generator).prev_sample
            if overwrites:
                buffer.fill_(torch.nan)
        results.append(x)
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
@torch.no_grad()
def test_a_pipeline_keeps_its_images_in_single_precision(dtype, monkeypatch):
    from diffusers import UNet2DModel

    from pndm.integrations.diffusers import PNDMPipeline

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    ).to(dtype)
    seen, plain = [], PlanScheduler.step

    def step(self, e, t, x, **how):
        seen.append((e.dtype, x.dtype))
        return plain(self, e, t, x, **how)

    monkeypatch.setattr(PlanScheduler, "step", step)
    pipeline = PNDMPipeline(unet, PlanScheduler())
    pipeline.set_progress_bar_config(disable=True)
    (images,) = pipeline(
        2, 3, torch.Generator().manual_seed(0), output_type="pt", return_dict=False
    )
    state = torch.float64 if dtype == torch.float64 else torch.float32
    assert set(seen) == {(dtype, state)} and images.dtype == state
