"""Beginning in the middle: image-to-image, inpainting, denoising_start, times given as a list."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from physics import mlp, normal
from PIL import Image

import pndm
from pndm.integrations.diffusers import PlanScheduler
from pndm.integrations.diffusers.scheduler import EvaluationsPerStep
from pndm.plans import remainder
from pndm.solvers import SOLVERS, Solver
from pndm.solvers.gradient import AB2, AB3, EULER, RK4
from pndm.solvers.transfer import Ancestral, Classical, ReleasedClassical

FIXED = [name for name, factory in SOLVERS.items() if isinstance(factory(), Solver)]
ON_MANIFOLD = [
    name
    for name in FIXED
    if not isinstance(SOLVERS[name]().transfer, Ancestral | Classical | ReleasedClassical)
]
STRENGTHS = [0.05, 0.1, 0.15, 0.3, 0.5, 0.6, 0.8, 0.85, 0.9, 0.95, 1.0]
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STABLE |= {"steps_offset": 1, "set_alpha_to_one": False}


def image_to_image_times(scheduler, steps, strength):
    """What image-to-image pipelines do with a strength: the steps left out, the times left."""
    left_out = steps - min(int(steps * strength), steps)
    first = left_out * scheduler.order
    scheduler.set_begin_index(first)
    return left_out, scheduler.timesteps[first:]


def refiner_times(scheduler, denoising_start):
    """What SDXL's pipelines do with denoising_start: count the times below it."""
    cutoff = round(1000 - denoising_start * 1000)
    left = int((scheduler.timesteps < cutoff).sum())
    if scheduler.order == 2 and left % 2 == 0:
        left += 1
    first = len(scheduler.timesteps) - left
    scheduler.set_begin_index(first)
    return scheduler.timesteps[first:]


def walk(scheduler, network, x, times, generator=None):
    """A pipeline's loop over the times that it chose."""
    for t in times:
        x = scheduler.step(network(x, t.to(x).expand(len(x))), t, x, generator).prev_sample
    return x


@pytest.mark.parametrize("name", FIXED)
def test_every_strength_begins_where_the_pipeline_means(name):
    """There as if sampled from the noised image along what is left of the grid."""
    scheduler = PlanScheduler(solver=name, **STABLE)
    network, x = mlp(), normal(3, 12)
    for strength in STRENGTHS:
        scheduler.set_timesteps(20)
        nodes = [node.time for node in scheduler.plan.nodes]
        left_out, times = image_to_image_times(scheduler, 20, strength)
        assert float(times[0]) == nodes[left_out]
        got = walk(scheduler, network, x, times, torch.Generator().manual_seed(1))
        with pytest.raises(ValueError, match="evaluations are made"):
            scheduler.step(x, times[-1], x)
        drawn = torch.Generator().manual_seed(1)
        want = pndm.sample(
            network,
            x,
            solver=SOLVERS[name]().after(left_out),
            schedule=scheduler.schedule,
            grid=nodes[left_out:],
            noise=lambda row, drawn=drawn: torch.randn(x.shape, generator=drawn, dtype=x.dtype),
        )
        close = 1e-4 if times.is_floating_point() else 1e-9  # fractional ones pass float32
        torch.testing.assert_close(got, want, rtol=close, atol=close)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("name", FIXED)
def test_order_counts_the_evaluations_of_the_first_steps(name, steps):
    solver = SOLVERS[name]()
    rows = pndm.plan(solver, pndm.schedules.linear(), steps, "trailing").rows
    order = EvaluationsPerStep(solver)
    firsts = [0, *(i + 1 for i, row in enumerate(rows) if row.ends is not None)][:-1]
    assert [step * order for step in range(steps)] == firsts
    assert order * 3 == 3 * order and order == solver.gradient.stages


def test_second_order_is_laid_out_as_theirs():
    theirs, ours = HeunDiscreteScheduler(), PlanScheduler(solver="heun")
    theirs.set_timesteps(10)
    ours.set_timesteps(10)
    assert ours.order == theirs.order == 2 and len(ours.timesteps) == len(theirs.timesteps)


@pytest.mark.parametrize(
    ("name", "steps", "starters"),
    [
        ("plms", 1, (RK4, RK4, AB3)),
        ("plms", 2, (RK4, AB2, AB3)),
        ("plms", 3, (EULER, AB2, AB3)),
        ("fon", 9, (EULER, AB2, AB3)),
        ("s_pndm", 1, (EULER,)),
        ("ipndm", 5, ()),
        ("heun", 5, ()),
    ],
)
def test_behind_the_starters_the_order_rises(name, steps, starters):
    solver = SOLVERS[name]()
    assert solver.after(0) is solver
    assert solver.after(steps).starters == starters
    assert solver.after(steps).gradient == solver.gradient
    skips = PlanScheduler(skip_prk_steps=True).solver
    assert skips.after(1).starters == (EULER, AB2, AB3)
    assert SOLVERS["deis"](order=4).after(1).order is None  # fewer steps than that may be left


@pytest.mark.parametrize("name", ON_MANIFOLD)
def test_from_any_evaluation_the_image_of_one_point_is_reached(name):
    """φ is exact there, so whatever begins at the wrong time or place misses the point."""
    scheduler, x_0 = PlanScheduler(solver=name), normal(2, 5)
    scheduler.set_timesteps(8)
    whole, schedule = scheduler.plan, scheduler.schedule

    def network(x, t):
        a = torch.tensor([schedule.node(float(s)).alpha_bar for s in t], dtype=x.dtype)[:, None]
        return (x - a.sqrt() * x_0) / (1 - a).sqrt()

    for first in range(whole.nfe):
        rest = remainder(whole, first, schedule, "noise")
        assert rest.times == whole.times[first:]
        a = schedule.node(rest.times[0]).alpha_bar
        x = a**0.5 * x_0 + (1 - a) ** 0.5 * normal(2, 5, seed=1)
        got = pndm.execute.execute(rest, network, x)
        torch.testing.assert_close(got, x_0, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("denoising_start", [0.2, 0.55, 0.8, 0.93])
@pytest.mark.parametrize("name", ["plms", "s_pndm", "heun", "prk", "rk4_rho", "unipc", "ddpm"])
def test_a_refiner_goes_on_where_the_first_model_ended(name, denoising_start):
    scheduler = PlanScheduler(solver=name, **STABLE)
    scheduler.set_timesteps(20)
    times = refiner_times(scheduler, denoising_start)
    assert float(times[0]) <= 1000 - 1000 * denoising_start + 50
    network, x = mlp(), normal(3, 12)
    got = walk(scheduler, network, x, times, torch.Generator().manual_seed(1))
    assert got.isfinite().all()
    assert scheduler.step_index == len(times) == scheduler.plan.nfe
    assert scheduler.plan.times == pytest.approx(times.tolist())


@pytest.mark.parametrize("name", ["plms", "heun", "ipndm"])
def test_times_that_are_given_are_counted_as_evaluations(name):
    """Pipelines take len(timesteps) for the number of steps then, and strength is of these."""
    scheduler = PlanScheduler(solver=name)
    scheduler.set_timesteps(timesteps=[900, 700, 500, 300, 100, 50, 10])
    count = len(scheduler.timesteps)
    left_out, times = image_to_image_times(scheduler, count, 0.5)
    assert scheduler.order == 1 and len(times) == count - left_out
    assert walk(scheduler, mlp(), normal(2, 12), times).isfinite().all()
    scheduler.set_timesteps(4)
    assert scheduler.order == scheduler.solver.gradient.stages


def test_without_a_begin_index_a_time_begins_its_step():
    scheduler = PlanScheduler(solver="heun")
    scheduler.set_timesteps(10)
    x = normal(1, 4)
    scheduler.step(x, 500, x)
    assert scheduler.plan.times[0] == 500 and scheduler.plan.nfe == 11
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="no evaluation is at time 501"):
        scheduler.step(x, 501, x)


def test_no_step_left_is_one_line():
    scheduler = PlanScheduler()
    with pytest.raises(ValueError, match="strength times num_inference_steps must be 1"):
        scheduler.add_noise(normal(1, 4), normal(1, 4), torch.tensor([]))


@pytest.mark.parametrize("solver", ["unipc", "dpmpp_2m", "ddim"])
def test_a_change_by_a_pipeline_is_kept_by_a_corrector_too(solver):
    """Inpainting puts noised pixels into the sample: the next state begins from their noise."""
    scheduler, x_0, noise = PlanScheduler(solver=solver), normal(3, 12), normal(3, 12, seed=1)
    scheduler.set_timesteps(10)
    times, x = scheduler.timesteps, normal(3, 12, seed=2)

    def network(x, t):
        a = scheduler.schedule.node(float(t)).alpha_bar
        return (x - a**0.5 * x_0) / (1 - a) ** 0.5

    change = len(times) - 4
    for i, t in enumerate(times[:-1]):
        x = scheduler.add_noise(x_0, noise, times[i : i + 1]) if i == change else x
        x = scheduler.step(network(x, t), t, x).prev_sample
        if i >= change:
            want = scheduler.add_noise(x_0, noise, times[i + 1 : i + 2])
            torch.testing.assert_close(x, want, rtol=0, atol=1e-9)


def start_of(pipeline, parts, scheduler, strength):
    """The time of the first evaluation, the number of evaluations, and whether all is finite."""
    pipe = pipeline(**parts, scheduler=scheduler, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    times = []
    hook = pipe.unet.register_forward_pre_hook(lambda unet, given: times.append(float(given[1])))
    picture = Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))
    more = {"mask_image": picture.convert("L"), "height": 16, "width": 16}
    try:
        images = pipe(
            "a cat",
            image=picture,
            strength=strength,
            num_inference_steps=10,
            guidance_scale=1.0,
            output_type="np",
            generator=torch.Generator().manual_seed(0),
            **(more if pipeline is StableDiffusionInpaintPipeline else {}),
        ).images
    finally:
        hook.remove()
    return times[0], len(times), bool(np.isfinite(images).all())


QUICK = [("plms", 0.5), ("plms", 0.9), ("heun", 0.6)]
ALL = [(name, strength) for name in FIXED for strength in (0.1, 0.3, 0.6, 0.9, 1.0)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "pipeline", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline]
)
@pytest.mark.parametrize(
    ("name", "strength"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in dict.fromkeys(ALL + QUICK)
    ],
)
def test_pipelines_that_begin_with_a_picture(stable, pipeline, name, strength):
    theirs = PNDMScheduler(**STABLE, skip_prk_steps=True)
    right = start_of(pipeline, stable, DDIMScheduler.from_config(theirs.config), strength)
    ours = PlanScheduler.from_config(theirs.config, solver=name)
    got = start_of(pipeline, stable, ours, strength)
    solver, steps = ours.solver, round(10 * strength)
    want = solver.nfe(10) - (10 - steps) * EvaluationsPerStep(solver)
    assert got == (right[0], want, True)
