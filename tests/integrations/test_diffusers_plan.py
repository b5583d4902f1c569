"""PlanScheduler with a learned plan: `pndm.sample`, in pipelines and after saving."""

from dataclasses import replace

import pytest
import torch

import pndm
from pndm import plans
from pndm._errors import InputError
from pndm.integrations.diffusers import PlanScheduler, PNDMPipeline

NAME = "digits_linear-5"


def images(pipe, steps=5):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(2, steps, generator=generator, output_type="pt").images


def test_a_pipeline_samples_as_we_do(unet, tmp_path):
    x_T = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x_0 = pndm.sample(
        lambda x, t: unet(x, t).sample, x_T, schedule=pndm.schedules.linear(), plan=NAME
    )
    want = (x_0 / 2 + 0.5).clamp(0, 1)
    plan = plans.load(NAME)
    for given in (NAME, plan, plan.learned.to_json()):
        scheduler = PlanScheduler(plan=given)
        pipe = PNDMPipeline(unet=unet, scheduler=scheduler)
        assert (images(pipe) - want).abs().max() < 1e-5
        assert scheduler.timesteps.tolist() == pytest.approx(plan.times, abs=1e-3)
        assert scheduler.order * 5 == 5
    pipe.save_pretrained(tmp_path)
    again = PNDMPipeline.from_pretrained(tmp_path)
    assert again.scheduler.learned == plan
    assert (images(again) - want).abs().max() < 1e-5


def test_it_begins_later_as_image_to_image_pipelines_do():
    scheduler = PlanScheduler(plan=NAME)
    scheduler.set_timesteps(5)
    scheduler.set_begin_index(2)
    x = torch.randn(1, 1, 8, 8)
    for t in scheduler.timesteps[2:]:
        x = scheduler.step(0.1 * x, t, x).prev_sample
    assert x.isfinite().all()


def test_noise_is_added_as_at_the_node_and_not_as_at_the_networks_time():
    scheduler, schedule = PlanScheduler(plan=NAME), pndm.schedules.linear()
    scheduler.set_timesteps(5)
    x_0, e = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    nodes = scheduler.learned.nodes[:-1]
    for t, node in zip(scheduler.timesteps, nodes, strict=True):
        a = schedule.node(node.time).alpha_bar
        got = scheduler.add_noise(x_0, e, t[None]).flatten()[0].item()
        assert got == pytest.approx((1 - a) ** 0.5, rel=1e-6)
    given = [schedule.node(t).alpha_bar for t in scheduler.timesteps.tolist()]
    assert max(abs(a - s.alpha_bar) for a, s in zip(given, nodes, strict=True)) > 1e-3


def test_rows_of_one_network_time_have_the_noise_of_the_one_that_begins():
    table = pndm.learned.read(NAME)
    same = replace(table, times=(999.0,) * len(table.times))
    scheduler, schedule = PlanScheduler(plan=same.to_json()), pndm.schedules.linear()
    scheduler.set_timesteps(5)
    x_0, e = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    for begin in range(5):
        scheduler.set_begin_index(begin)
        got = scheduler.add_noise(x_0, e, scheduler.timesteps[begin][None]).flatten()[0].item()
        a = schedule.node(table.nodes[begin].time).alpha_bar
        assert got == pytest.approx((1 - a) ** 0.5, rel=1e-6)


def test_the_last_choice_between_a_plan_and_a_solver_counts():
    learned = PlanScheduler(plan=NAME)
    for chosen in ({"solver": "ddim"}, {"grid": "karras"}):
        scheduler = PlanScheduler.from_config(learned.config, **chosen)
        assert scheduler.learned is None and scheduler.config.items() >= chosen.items()
    ddim = PlanScheduler(solver="ddim", grid="karras")
    assert PlanScheduler.from_config(ddim.config, plan=NAME).solver.name == "learned"
    assert PlanScheduler.from_config(learned.config).solver.name == "learned"
    for chosen in (
        {"solver": "ddim"},
        {"grid": "karras"},
        {"timestep_spacing": "trailing", "grid": "linspace"},
    ):
        with pytest.raises(InputError, match="plan takes the place of solver"):
            PlanScheduler(plan=NAME, **chosen)


def test_what_a_learned_plan_ignores_is_said():
    with pytest.warns(UserWarning, match="clip_sample=True is ignored: a learned plan"):
        PlanScheduler(plan=NAME, clip_sample=True)
    scheduler = PlanScheduler(plan=NAME)
    scheduler.set_timesteps(5)
    x = torch.zeros(1, 1, 8, 8)
    with pytest.warns(UserWarning, match="eta=1.0 is ignored: a learned plan adds no noise"):
        scheduler.step(x, scheduler.timesteps[0], x, eta=1.0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="another schedule"):
        PlanScheduler(plan=NAME, beta_schedule="squaredcos_cap_v2")
    with pytest.raises(InputError, match="another schedule"):
        PlanScheduler(plan=NAME, set_alpha_to_one=False)
    with pytest.raises(InputError, match="predict noise, not velocity"):
        PlanScheduler(plan=NAME, prediction_type="v_prediction")
    with pytest.raises(InputError, match="was not learned: pass solver="):
        PlanScheduler(plan=pndm.plan(pndm.solvers.ddim(), pndm.schedules.linear(), 5))
    with pytest.raises(InputError, match="pass num_inference_steps=5"):
        PlanScheduler(plan=NAME).set_timesteps(50)
    with pytest.raises(InputError, match="pass num_inference_steps=5"):
        PlanScheduler(plan=NAME).set_timesteps(timesteps=[900, 500, 0])
