"""The scheduler in diffusers' own pipelines, and the pipeline around it, on random networks."""

import json

import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UnCLIPScheduler,
)
from physics import mlp, normal

import pndm
from pndm.integrations.diffusers import PREDICTIONS, PlanScheduler, PNDMPipeline
from pndm.solvers import SOLVERS, Solver
from pndm.solvers.transfer import phi

FIXED = [name for name, factory in SOLVERS.items() if isinstance(factory(), Solver)]


class Untold:
    """A scheduler of diffusers whose step takes no generator."""

    def __init__(self, scheduler):
        self.scheduler, self.timesteps = scheduler, scheduler.timesteps
        self.scale_model_input = scheduler.scale_model_input

    def step(self, e, t, x, generator=None):
        return self.scheduler.step(e, t, x)


def follow(scheduler, network, x, generator=None):
    """diffusers' loop."""
    for t in scheduler.timesteps:
        e = network(scheduler.scale_model_input(x, t), t.to(x).expand(len(x)))
        x = scheduler.step(e, t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("grid", ["leading", "trailing", "quadratic", "karras"])
def test_steps_are_the_plans_rows(name, grid):
    scheduler, network, x = PlanScheduler(solver=name, grid=grid), mlp(), normal(3, 12)
    for steps in (1, 2, 3, 7, 20):
        if (steps, grid) == (1, "leading"):
            continue
        scheduler.set_timesteps(steps)
        assert len(scheduler.timesteps) == SOLVERS[name]().nfe(steps)
        drawn = torch.Generator().manual_seed(1)
        got = follow(scheduler, network, x, torch.Generator().manual_seed(1))
        want = pndm.sample(
            network,
            x,
            solver=SOLVERS[name](),
            schedule=scheduler.schedule,
            steps=steps,
            grid=grid,
            noise=lambda row, drawn=drawn: torch.randn(x.shape, generator=drawn, dtype=x.dtype),
        )
        whole = not scheduler.timesteps.is_floating_point()
        close = 1e-9 if whole else 1e-4  # fractional times go through float32
        torch.testing.assert_close(got, want, rtol=close, atol=close)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_prediction_is_converted_before_it_is_combined(kind):
    network, x = mlp(), normal(3, 12)
    scheduler = PlanScheduler(prediction_type=kind, solver="plms")
    scheduler.set_timesteps(10)
    want = pndm.sample(
        network,
        x,
        solver=pndm.solvers.plms(),
        schedule=pndm.schedules.linear(),
        steps=10,
        prediction=PREDICTIONS[kind],
    )
    torch.testing.assert_close(follow(scheduler, network, x), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [10, 50])
def test_in_diffusers_convention_it_is_their_pndm(steps):
    theirs = PNDMScheduler(steps_offset=1, set_alpha_to_one=False)
    ours = PlanScheduler.from_config(theirs.config, solver="plms")
    assert ours.schedule.convention == "diffusers"
    theirs.set_timesteps(steps)
    ours.set_timesteps(steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    network, x = mlp(), normal(3, 12).float()
    torch.testing.assert_close(
        follow(ours, network, x),
        follow(Untold(theirs), network, x),
        rtol=1e-3,
        atol=1e-3,
    )


def test_configs_of_others_are_taken_over(tmp_path):
    beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for kind in (PNDMScheduler, DDIMScheduler, DPMSolverMultistepScheduler):
        theirs = kind(**beta, prediction_type="v_prediction")
        ours = PlanScheduler.from_config(theirs.config, solver="deis", solver_options={"order": 3})
        assert ours.schedule.name == "scaled_linear" and ours.solver.order == 3
        assert ours.config.prediction_type == "v_prediction"
        torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-5, atol=0)
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["solver"] == "deis"
    again = PlanScheduler.from_pretrained(tmp_path)
    assert again.solver == ours.solver and again.schedule == ours.schedule
    back = EulerDiscreteScheduler.from_config(ours.config)
    assert back.config.beta_schedule == "scaled_linear"


def test_settings_of_others_mean_what_they_mean_there():
    """Nothing left of the signal at the end; DDPM's clipping and variance; the same images."""
    network, x = mlp(size=4), normal(3, 4)
    settings = {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
    settings |= {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    theirs = DDIMScheduler(**settings, clip_sample=False)
    ours = PlanScheduler.from_config(theirs.config, solver="ddim")
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-4, atol=1e-6)
    found = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(10)
        found.append(follow(Untold(scheduler), network, x))
    torch.testing.assert_close(*found, rtol=0, atol=1e-3)

    for settings in ({"clip_sample": False}, {"variance_type": "fixed_large"}, {}):
        found = []
        theirs = DDPMScheduler(**settings)
        for scheduler in (theirs, PlanScheduler.from_config(theirs.config, solver="ddpm")):
            scheduler.set_timesteps(10)
            found.append(follow(scheduler, network, x, torch.Generator().manual_seed(0)))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "kind",
    [
        *(PNDMScheduler, DDIMScheduler, DDPMScheduler, LCMScheduler, UnCLIPScheduler),
        *(EulerDiscreteScheduler, HeunDiscreteScheduler, DPMSolverMultistepScheduler),
    ],
)
def test_the_defaults_of_others_are_taken_over_too(kind):
    theirs = kind()
    ours = PlanScheduler.from_config(theirs.config)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod)
    for name in ("set_alpha_to_one", "timestep_spacing", "steps_offset"):
        assert ours.config[name] == theirs.config.get(name, ours.config[name])


def test_the_noise_grids_of_others_are_ours():
    for switch, grid in (("use_karras_sigmas", "karras"), ("use_lu_lambdas", "uniform_lambda")):
        theirs = DPMSolverMultistepScheduler(**{switch: True})
        assert PlanScheduler.from_config(theirs.config).config.grid == grid
        assert PlanScheduler.from_config(theirs.config, grid="trailing").config.grid == "trailing"
    with pytest.raises(ValueError, match="use_beta_sigmas"):
        PlanScheduler.from_config({"use_beta_sigmas": True})
    with pytest.raises(ValueError, match="clips at ±1"):
        PlanScheduler.from_config(DDPMScheduler(clip_sample_range=2.0).config, solver="ddpm")


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_without_signal_at_the_end_on_every_schedule(beta_schedule):
    theirs = DDIMScheduler(beta_schedule=beta_schedule, rescale_betas_zero_snr=True)
    ours = PlanScheduler.from_config(theirs.config)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-4, atol=1e-6)
    assert ours.alphas_cumprod[-1] > 0
    with pytest.raises(ValueError, match="2 at least"):
        PlanScheduler(num_train_timesteps=1, rescale_betas_zero_snr=True)


def test_without_a_floor_the_first_step_is_theirs():
    theirs = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", clip_sample=False, timestep_spacing="trailing"
    )
    found = []
    for scheduler in (
        theirs,
        PlanScheduler.from_config(theirs.config, solver="ddim", min_alpha_bar=0.0),
    ):
        scheduler.set_timesteps(10)
        e, x = torch.zeros(1, 1), torch.ones(1, 1)
        found.append(scheduler.step(e, scheduler.timesteps[0], x).prev_sample)
    torch.testing.assert_close(*found, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "kind",
    [
        *(FlowMatchEulerDiscreteScheduler, EDMEulerScheduler, CogVideoXDDIMScheduler),
        IPNDMScheduler,
    ],
)
def test_other_processes_are_not_taken_over(kind, unet):
    with pytest.raises(ValueError, match="cannot be taken over"):
        PlanScheduler.from_config(kind().config)
    with pytest.raises(ValueError, match="cannot be taken over"):
        PNDMPipeline(unet=unet, scheduler=kind())


def test_trained_betas_of_any_kind_are_kept(tmp_path):
    betas = torch.linspace(1e-3, 0.1, 20)
    for given in (betas, betas.numpy(), betas.tolist()):
        scheduler = PlanScheduler(num_train_timesteps=20, trained_betas=given)
        scheduler.save_pretrained(tmp_path)
        assert PlanScheduler.from_pretrained(tmp_path).schedule == scheduler.schedule


def test_an_offset_shifts_the_grid_as_far_as_it_goes():
    for steps, first in ((1000, 999), (500, 999), (10, 901)):
        scheduler = PlanScheduler(solver="ddim", steps_offset=1)
        scheduler.set_timesteps(steps)
        assert len(scheduler.timesteps) == steps and scheduler.timesteps[0] == first


def test_noise_and_velocity():
    scheduler = PlanScheduler()
    x, e, t = normal(3, 4), normal(3, 4, seed=1), torch.tensor([0, 500, 999])
    a = torch.tensor([scheduler.schedule.alpha_bar(float(s)) for s in t], dtype=torch.float64)[
        :, None
    ]
    noised = scheduler.add_noise(x, e, t)
    torch.testing.assert_close(noised, a.sqrt() * x + (1 - a).sqrt() * e)
    v = scheduler.get_velocity(x, e, t)
    torch.testing.assert_close(a.sqrt() * noised - (1 - a).sqrt() * v, x)
    theirs = DDIMScheduler()
    torch.testing.assert_close(noised, theirs.add_noise(x, e, t), rtol=1e-4, atol=1e-5)


def test_from_the_middle_as_image_to_image_does():
    network, x = mlp(), normal(3, 12)
    scheduler = PlanScheduler(solver="ipndm")
    scheduler.set_timesteps(10)
    rest = scheduler.timesteps[4:]
    scheduler.set_begin_index(4)
    got = x
    for t in rest:
        got = scheduler.step(network(got, t.expand(3).double()), t, got).prev_sample
    want = pndm.sample(
        network,
        x,
        solver=pndm.solvers.ipndm(),
        schedule=pndm.schedules.linear(),
        grid=[*map(float, rest), -1.0],
    )
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_what_a_pipeline_changes_between_steps_is_used():
    """Inpainting and callbacks overwrite the sample: the next step starts from theirs."""
    x, e, other = normal(2, 12), normal(2, 12, seed=1), normal(2, 12, seed=2)
    for solver in ("ddim", "deis"):
        scheduler = PlanScheduler(
            solver=solver, solver_options={"order": 1} if solver == "deis" else None
        )
        scheduler.set_timesteps(5)
        scheduler.step(e, scheduler.timesteps[0], x)
        got = scheduler.step(e, scheduler.timesteps[1], other).prev_sample
        t, s = (scheduler.schedule.node(t) for t in (600, 400))
        scale, gain = phi(t.alpha_bar, s.alpha_bar)
        torch.testing.assert_close(got, scale * other + gain * e)


@pytest.mark.parametrize("pipeline", [DDPMPipeline, DDIMPipeline, PNDMPipeline])
@pytest.mark.parametrize("solver", ["plms", "unipc", "ddpm"])
def test_pipelines(pipeline, solver, unet):
    scheduler = PlanScheduler(solver=solver)
    if pipeline is DDIMPipeline:
        made = PNDMPipeline(
            unet=pipeline(unet=unet, scheduler=DDIMScheduler()).unet, scheduler=scheduler
        )
    else:
        made = pipeline(unet=unet, scheduler=scheduler)
    made.set_progress_bar_config(disable=True)
    images = made(
        batch_size=2,
        num_inference_steps=6,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    assert images.shape == (2, 8, 8, 1) and np.isfinite(images).all()
    if solver == "ddpm":
        return
    x_T = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x_0 = pndm.sample(
        lambda x, t: unet(x, t).sample,
        x_T,
        solver=SOLVERS[solver](),
        schedule=pndm.schedules.linear(),
        steps=6,
    )
    want = (x_0 / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).detach().numpy()
    assert np.abs(images - want).max() < 1e-5


def test_the_pipeline_is_kept_and_loaded(unet, tmp_path):
    made = PNDMPipeline(unet=unet, scheduler=PNDMScheduler())
    assert isinstance(made.scheduler, PlanScheduler) and set(made.components) == {
        "unet",
        "scheduler",
    }
    made.save_pretrained(tmp_path)
    again = PNDMPipeline.from_pretrained(tmp_path).to("cpu")
    for pipe in (made, again):
        pipe.set_progress_bar_config(disable=True)
    first, second = (
        pipe(num_inference_steps=5, generator=torch.Generator().manual_seed(3), output_type="pt")
        for pipe in (made, again)
    )
    torch.testing.assert_close(first.images, second.images, rtol=0, atol=1e-5)
    (picture,) = again(num_inference_steps=5, generator=torch.Generator().manual_seed(3)).images
    assert picture.size == (8, 8)
    (tuple_,) = again(num_inference_steps=2, return_dict=False)
    assert len(tuple_) == 1


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("solver", ["plms", "deis", "unipc", "heun"])
def test_stable_diffusion(stable, solver, kind):
    scheduler = PlanScheduler.from_config(
        PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1, prediction_type=kind).config,
        solver=solver,
    )
    pipe = StableDiffusionPipeline(**stable, scheduler=scheduler, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    images = pipe("a cat", num_inference_steps=5, output_type="np", height=8, width=8).images
    assert images.shape[0] == 1 and np.isfinite(images).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prediction_type": "v"}, "use epsilon, sample, v_prediction"),
        ({"solver": "plsm"}, "solver=plsm does not exist"),
        ({"solver": "pf"}, "solver=pf does not exist"),
        ({"grid": "foo"}, "no grid 'foo'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule=sigmoid does not exist"),
        ({"solver": "deis", "solver_options": {"order": 9}}, "order is 9"),
        ({"solver": "plms", "solver_options": {"order": 3}}, "solver=plms solver_options"),
        ({"solver": "ddpm", "variance_type": "learned_range"}, "use fixed_small"),
        ({"thresholding": True}, "pass thresholding=False"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas are 2"),
        ({"steps_offset": -1}, "steps_offset is -1"),
    ],
)
def test_what_does_not_exist_is_one_line(settings, said):
    with pytest.raises(ValueError, match=said) as error:
        PlanScheduler(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("times", [[100, 200], [500, 500, 100], [1500, 100]])
def test_a_wrong_list_of_times_is_one_line(times):
    with pytest.raises(ValueError, match="descending|outside") as error:
        PlanScheduler().set_timesteps(timesteps=times)
    assert "\n" not in str(error.value)


def test_misuse_is_one_line(unet):
    with pytest.raises(ValueError, match="order 4 needs as many steps"):
        PlanScheduler(solver="deis", solver_options={"order": 4}).set_timesteps(3)
    with pytest.raises(ValueError, match="needs a unet"):
        PNDMPipeline(unet=None, scheduler=PlanScheduler())
    with pytest.raises(ValueError, match="call set_timesteps"):
        PlanScheduler().step(torch.zeros(1), 0, torch.zeros(1))
    with pytest.raises(ValueError, match="use pil, np or pt"):
        PNDMPipeline(unet=unet, scheduler=PlanScheduler())(output_type="png")
    scheduler = PlanScheduler(solver="ddim")
    with pytest.raises(ValueError, match="begin_index is -1"):
        scheduler.set_begin_index(-1)
    scheduler.set_timesteps(5)
    scheduler.set_begin_index(5)
    with pytest.raises(ValueError, match="there are 5 evaluations"):
        scheduler.step(torch.zeros(1, 2), 0, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="a learned variance must be cut off"):
        scheduler.step(torch.zeros(1, 4), 0, torch.zeros(1, 2))
    scheduler.set_timesteps(1, device="cpu")
    scheduler.step(torch.zeros(1), scheduler.timesteps[0], torch.zeros(1))
    with pytest.raises(ValueError, match="all 1 evaluations"):
        scheduler.step(torch.zeros(1), 0, torch.zeros(1))
