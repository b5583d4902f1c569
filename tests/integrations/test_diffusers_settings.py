"""What a config of diffusers says happens here, or is warned of; swapping, saving and loading."""

import inspect
import json
import warnings

import diffusers
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DEISMultistepScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from physics import mlp, normal

from pndm.integrations.diffusers import PlanScheduler, PNDMPipeline
from pndm.integrations.diffusers.config import DEFAULTS, configured_nodes

STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def follow(scheduler, network, x, **options):
    """diffusers' loop."""
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.to(x).expand(len(x))), t, x, **options).prev_sample
    return x


def messages(make):
    """What `make` makes, and the warnings on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = make()
    return made, [str(one.message) for one in caught]


def test_an_eta_that_a_solver_lacks_is_ignored_with_a_warning():
    scheduler = PlanScheduler(solver="plms")
    scheduler.set_timesteps(10)
    x = torch.randn(1, 1, 4, 4)
    _, said = messages(lambda: scheduler.step(0.1 * x, scheduler.timesteps[0], x, eta=0.5))
    assert any("eta=0.5 is ignored" in line for line in said)
    assert scheduler.order * 5 == 14 and scheduler.solver.name == "plms"


# Grids


@pytest.mark.parametrize(
    ("spacing", "offset"), [("leading", 0), ("leading", 1), ("linspace", 1), ("trailing", 1)]
)
def test_the_grid_is_theirs_for_every_number_of_steps(spacing, offset):
    theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset, clip_sample=False)
    ours = PlanScheduler.from_config(theirs.config, solver="ddim")
    for steps in range(2, 1001):
        theirs.set_timesteps(steps)
        nodes = configured_nodes(ours.config, steps, ours.schedule)
        want = theirs.timesteps.tolist()[:steps]  # trailing may have −1 as one more
        if max(want) < 1000:  # an offset may lead out of the table
            assert list(nodes[:-1]) == want, steps
    assert nodes[0] == 999 and len(nodes) == 1001
    ours.set_timesteps(30)
    theirs.set_timesteps(30)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


def test_a_grid_of_ours_is_ours():
    scheduler = PlanScheduler(solver="ddim", grid="leading", timestep_spacing="trailing")
    for made in (scheduler, PlanScheduler(solver="ddim")):
        made.set_timesteps(6)
        assert made.timesteps.tolist() == [833, 666, 500, 333, 166, 0]
    scheduler = PlanScheduler(solver="ddim", timestep_spacing="leading")
    with pytest.warns(UserWarning, match="starts at 999"):
        scheduler.set_timesteps(1)


def test_where_others_end_early_we_do():
    theirs = DPMSolverMultistepScheduler(final_sigmas_type="sigma_min", algorithm_type="dpmsolver")
    ours = PlanScheduler.from_config(theirs.config)
    assert ours.schedule.convention == "diffusers"
    assert "set_alpha_to_one" in ours.config[DEFAULTS]


# Methods


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_skip_prk_steps_is_their_plms(steps):
    theirs = PNDMScheduler(**STABLE, skip_prk_steps=True, steps_offset=1)
    ours = PlanScheduler.from_config(theirs.config)
    network, x = mlp(), normal(3, 12)
    theirs.set_timesteps(steps)
    ours.set_timesteps(steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    torch.testing.assert_close(
        follow(ours, network, x), follow(theirs, network, x), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_eta_of_a_step_is_ddims(eta):
    theirs = DDIMScheduler(clip_sample=False)
    ours = PlanScheduler.from_config(theirs.config, solver="ddim")
    found, (network, x) = [], (mlp(), normal(3, 12))
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(10)
        drawn = torch.Generator().manual_seed(0)
        found.append(follow(scheduler, network, x, eta=eta, generator=drawn))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)
    ours.set_timesteps(10)
    assert not ours.plan.stochastic
    own = PlanScheduler(solver="ddim", solver_options={"eta": eta})
    own.set_timesteps(10)
    drawn = torch.Generator().manual_seed(0)
    torch.testing.assert_close(follow(own, network, x, eta=0.0, generator=drawn), found[1])


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("limit", [1.0, 0.3])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_clip_sample_is_ddims(kind, limit, eta):
    theirs = DDIMScheduler(prediction_type=kind, clip_sample_range=limit)
    ours = PlanScheduler.from_config(theirs.config, solver="ddim")
    network, x = mlp(), normal(3, 12)
    for begin in (0, 3):
        found = []
        for scheduler in (theirs, ours):
            scheduler.set_timesteps(10)
            drawn, y = torch.Generator().manual_seed(0), x
            for t in scheduler.timesteps[begin:]:
                e = network(y, t.to(y).expand(3))
                y = scheduler.step(e, t, y, eta=eta, generator=drawn).prev_sample
            found.append(y)
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    assert "x_0 within" in str(ours.plan)


@pytest.mark.parametrize(
    ("theirs", "solver", "expected"),
    [
        (UniPCMultistepScheduler(), "unipc", {"gradient.order": 2, "order": None}),
        (UniPCMultistepScheduler(solver_order=3), "unipc", {"gradient.order": 3}),
        (UniPCMultistepScheduler(solver_type="bh1"), "unipc", {"gradient.halfway": "bh1"}),
        (UniPCMultistepScheduler(predict_x0=False), "unipc", {"gradient.transfer_clock": "rho"}),
        (UniPCMultistepScheduler(), "dpmpp_3m", {"gradient.order": 3}),
        (DEISMultistepScheduler(solver_order=3), "deis", {"gradient.order": 3}),
        (PNDMScheduler(), "unipc", {"gradient.order": 3}),
    ],
)
def test_settings_of_a_method_are_those_of_its_namesake(theirs, solver, expected):
    made = PlanScheduler.from_config(theirs.config, solver=solver).solver
    for path, value in expected.items():
        found = made
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value
    few = PlanScheduler.from_config(theirs.config, solver=solver)
    few.set_timesteps(1 if few.config.timestep_spacing != "leading" else 2)


# Warnings and errors


@pytest.mark.parametrize(
    ("theirs", "settings", "said"),
    [
        (DDIMScheduler(), {"solver": "plms"}, "clip_sample=True is ignored"),
        (DDPMScheduler(), {}, "clip_sample=True is ignored"),
        (DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), {}, "no noise is added"),
        (UniPCMultistepScheduler(disable_corrector=[0]), {}, "unipc corrects in every step"),
        (DPMSolverMultistepScheduler(lambda_min_clipped=-5.1), {}, "lambda_min_clipped"),
        (EulerDiscreteScheduler(sigma_min=0.1, sigma_max=10.0), {}, "sigma_max"),
    ],
)
def test_what_is_ignored_is_said_in_one_line(theirs, settings, said):
    _, found = messages(lambda: PlanScheduler.from_config(theirs.config, **settings))
    assert any(said in message for message in found)
    assert not any("\n" in message for message in found)


@pytest.mark.parametrize(
    ("theirs", "settings"),
    [
        (DDPMScheduler(), {"solver": "ddpm"}),
        (DDIMScheduler(clip_sample=False), {}),
        (PNDMScheduler(skip_prk_steps=True), {}),
        (DPMSolverMultistepScheduler(), {}),
        (UniPCMultistepScheduler(), {"solver": "unipc"}),
        (LMSDiscreteScheduler(), {"solver": "lms"}),
        (EulerDiscreteScheduler(), {"solver": "ddim"}),
    ],
)
def test_what_is_taken_over_is_silent(theirs, settings):
    assert messages(lambda: PlanScheduler.from_config(theirs.config, **settings))[1] == []


def test_eta_for_a_method_without_noise_is_said_once():
    scheduler, x = PlanScheduler(solver="plms"), normal(1, 4)
    scheduler.set_timesteps(5)
    _, found = messages(lambda: follow(scheduler, lambda x, t: x, x, eta=1.0))
    assert len(found) == 1 and "eta=1.0 is ignored" in found[0]


def test_another_batch_needs_its_own_beginning():
    scheduler = PlanScheduler()
    scheduler.set_timesteps(5)
    scheduler.step(normal(2, 4), scheduler.timesteps[0], normal(2, 4))
    with pytest.raises(ValueError, match="call set_timesteps before another batch"):
        scheduler.step(normal(1, 4), scheduler.timesteps[0], normal(1, 4))
    scheduler.set_timesteps(5)
    scheduler.step(normal(1, 4), scheduler.timesteps[0], normal(1, 4))


def test_other_processes_that_look_like_ours_are_refused():
    theirs = EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    with pytest.raises(ValueError, match="timestep_type=continuous"):
        PlanScheduler.from_config(theirs.config)


def test_a_learned_variance_is_cut_off_where_the_config_says_so():
    theirs = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    scheduler, x = PlanScheduler.from_config(theirs.config), normal(2, 3, 4, 4)
    scheduler.set_timesteps(5)
    output = torch.cat([x, torch.full_like(x, 9.0)], dim=1)
    got = scheduler.step(output, scheduler.timesteps[0], x).prev_sample
    scheduler.set_timesteps(5)
    torch.testing.assert_close(got, scheduler.step(x, scheduler.timesteps[0], x).prev_sample)


@pytest.mark.filterwarnings("ignore")
def test_what_a_pipeline_changes_in_the_config_counts(stable):
    """Stable Diffusion's constructors switch clipping off and, for inpainting, PRK steps."""
    ddpm = PlanScheduler(solver="ddpm", clip_sample=True)
    assert ddpm.solver.transfer.clip == 1.0
    StableDiffusionPipeline(**stable, scheduler=ddpm, requires_safety_checker=False)
    assert ddpm.solver.transfer.clip is None
    given = PlanScheduler.from_config(PNDMScheduler().config)
    own = PlanScheduler()
    for scheduler, calls in ((given, 11), (own, 19)):
        StableDiffusionInpaintPipeline(
            **stable, scheduler=scheduler, requires_safety_checker=False
        )
        scheduler.set_timesteps(10)
        assert len(scheduler.timesteps) == calls


# Swapping, saving, loading

SOURCES = [
    PNDMScheduler(skip_prk_steps=True, steps_offset=1),
    DDIMScheduler(clip_sample=False, **STABLE),
    DDIMScheduler(clip_sample_range=2.0, set_alpha_to_one=False),
    DDPMScheduler(variance_type="fixed_large", timestep_spacing="trailing"),
    DPMSolverMultistepScheduler(use_karras_sigmas=True, solver_order=3),
    UniPCMultistepScheduler(predict_x0=False, prediction_type="v_prediction"),
    EulerDiscreteScheduler(timestep_spacing="trailing", **STABLE),
    LMSDiscreteScheduler(),
]
TARGETS = [PNDMScheduler, DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler]
TARGETS += [EulerDiscreteScheduler, UniPCMultistepScheduler, DEISMultistepScheduler]


def settings(scheduler):
    """The settings that the class of a scheduler has."""
    names = inspect.signature(type(scheduler).__init__).parameters.keys() - {"self"}
    return {name: scheduler.config[name] for name in names}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_a_way_through_ours_changes_nothing(source, target):
    ours = PlanScheduler.from_config(source.config, solver="unipc", grid="quadratic")
    through, direct = target.from_config(ours.config), target.from_config(source.config)
    assert settings(through) == settings(direct)
    back = PlanScheduler.from_config(through.config)
    again = PlanScheduler.from_config(PlanScheduler.from_config(ours.config).config)
    for other in (back, again):
        assert (other.config.solver, other.config.grid) == ("unipc", "quadratic")
    assert settings(again) == settings(ours) and set(again.config[DEFAULTS]) == set(
        ours.config[DEFAULTS]
    )
    assert settings(type(source).from_config(ours.config)) == settings(source)


def test_a_grid_that_a_switch_meant_goes_with_the_switch():
    theirs = DPMSolverMultistepScheduler(use_karras_sigmas=True)
    ours = PlanScheduler.from_config(theirs.config)
    off = EulerDiscreteScheduler.from_config(ours.config, use_karras_sigmas=False)
    assert PlanScheduler.from_config(off.config).config.grid is None
    assert PlanScheduler.from_config(ours.config).config.grid == "karras"
    own = PlanScheduler(grid="karras")
    assert (
        PlanScheduler.from_config(EulerDiscreteScheduler.from_config(own.config).config).config[
            "grid"
        ]
        == "karras"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_files_of_schedulers_come_back_as_they_were(source, tmp_path):
    ours = PlanScheduler.from_config(source.config, solver="deis", steps_offset=2)
    ours.save_pretrained(tmp_path)
    again = PlanScheduler.from_pretrained(tmp_path)
    assert settings(again) == settings(ours) and again.solver == ours.solver
    assert (
        type(source).from_pretrained(tmp_path).config.steps_offset == 2
        if hasattr(source.config, "steps_offset")
        else True
    )


@pytest.mark.filterwarnings("ignore")
def test_files_that_lack_settings_have_those_of_their_class(tmp_path):
    """As Stable Diffusion 1's: written before there was a timestep_spacing."""
    written = {"_class_name": "PNDMScheduler", "steps_offset": 1, "skip_prk_steps": True, **STABLE}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(written))
    ours, theirs = (kind.from_pretrained(tmp_path) for kind in (PlanScheduler, PNDMScheduler))
    assert ours.schedule.convention == "diffusers"  # PNDM's default, not ours
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(30)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    written["_class_name"] = "DDIMScheduler"
    (tmp_path / "scheduler_config.json").write_text(json.dumps(written))
    assert PlanScheduler.from_pretrained(tmp_path).schedule.convention == "aligned"


def images(pipe, **options):
    pipe.set_progress_bar_config(disable=True)
    drawn = torch.Generator().manual_seed(0)
    options = {"batch_size": 2, "num_inference_steps": 6, "output_type": "np", **options}
    return torch.from_numpy(pipe(generator=drawn, **options).images)


@pytest.mark.parametrize("loader", [DiffusionPipeline, PNDMPipeline, DDPMPipeline])
def test_a_saved_pipeline_gives_the_same_images(unet, tmp_path, loader):
    made = PNDMPipeline(unet=unet, scheduler=PlanScheduler(solver="unipc", grid="quadratic"))
    made.save_pretrained(tmp_path)
    again = loader.from_pretrained(tmp_path)
    assert type(again) is (DDPMPipeline if loader is DDPMPipeline else PNDMPipeline)
    assert type(again.scheduler) is PlanScheduler
    torch.testing.assert_close(images(again), images(made), rtol=0, atol=1e-6)
    again.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(
        images(DiffusionPipeline.from_pretrained(tmp_path / "again")),
        images(made),
        rtol=0,
        atol=1e-6,
    )
    assert diffusers.PNDMPipeline is not PNDMPipeline  # theirs is left alone


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_another_saved_pipeline_keeps_our_scheduler(stable, unet, tmp_path):
    scheduler = PlanScheduler.from_config(PNDMScheduler(**STABLE).config, solver="heun")
    made = StableDiffusionPipeline(**stable, scheduler=scheduler, requires_safety_checker=False)
    made.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(again) is StableDiffusionPipeline and again.scheduler.solver == scheduler.solver
    PNDMPipeline(unet=unet, scheduler=scheduler).save_pretrained(tmp_path / "own")
    other = PlanScheduler(solver="ddim")
    again = DiffusionPipeline.from_pretrained(tmp_path / "own", scheduler=other)
    assert again.scheduler is other


def test_a_pipeline_of_another_kind_is_taken_over(unet):
    other = DDIMPipeline(unet=unet, scheduler=DDIMScheduler(clip_sample=False))
    made = PNDMPipeline.from_pipe(other)
    assert made.unet is unet and type(made.scheduler) is PlanScheduler
    assert type(DDPMPipeline.from_pipe(made).scheduler) is PlanScheduler


# UNets


def test_unets_with_classes_learned_variances_and_no_size(make_unet):
    classes = PNDMPipeline(unet=make_unet(num_class_embeds=5), scheduler=PlanScheduler())
    one, two = images(classes, class_labels=1), images(classes, class_labels=[1, 2])
    torch.testing.assert_close(one[0], two[0], rtol=0, atol=1e-6)
    assert (one[1] - two[1]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="pass class_labels="):
        images(classes)
    with pytest.raises(ValueError, match="3 class_labels for batch_size=2"):
        images(classes, class_labels=torch.tensor([1, 2, 3]))
    plain = PNDMPipeline(unet=make_unet(), scheduler=PlanScheduler())
    with pytest.raises(ValueError, match="leave class_labels out"):
        images(plain, class_labels=1)
    learned = PNDMPipeline(unet=make_unet(out_channels=2), scheduler=PlanScheduler())
    assert images(learned).shape == (2, 8, 8, 1)
    sizeless = PNDMPipeline(unet=make_unet(sample_size=None), scheduler=PlanScheduler())
    with pytest.raises(ValueError, match="pass height= and width="):
        images(sizeless)
    assert images(sizeless, height=8, width=16).shape == (2, 8, 16, 1)
    oblong = PNDMPipeline(unet=make_unet(sample_size=(8, 16)), scheduler=PlanScheduler())
    assert images(oblong).shape == (2, 8, 16, 1)


def test_a_unet_with_prompts_is_refused(stable):
    with pytest.raises(ValueError, match="needs prompts"):
        PNDMPipeline(unet=stable["unet"], scheduler=PlanScheduler())


def test_eta_reaches_ddim_through_a_pipeline(unet):
    made = PNDMPipeline(unet=unet, scheduler=PlanScheduler(solver="ddim"))
    assert (images(made, eta=1.0) - images(made)).abs().max() > 1e-3
    assert "eta" in inspect.signature(PlanScheduler.step).parameters
