"""The fitting: it learns, resumes, is deterministic, and refuses what it cannot do."""

import io
import json
import re
import shutil
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import pndm
from pndm import plans
from pndm._errors import FileError, NonFiniteError
from pndm._files import file_lock
from pndm.config.compose import compose_fit
from pndm.config.schema import ConfigError
from pndm.fit import __main__, loop, teacher
from pndm.fit.loss import MAX_DIMENSIONS, Loss, mean_and_covariance, projection
from pndm.models import registry
from pndm.models.analytic import Mixture
from pndm.models.files import CheckpointError
from pndm.models.locations import weights_sha256
from pndm.solvers import SOLVERS, Solver

SCHEDULE = pndm.schedules.linear()
MEANS = torch.tensor([[-0.6, 0.3], [0.5, -0.2], [0.2, 0.7]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64)
MIXTURE = Mixture(SCHEDULE, MEANS, torch.tensor([0.02, 0.03, 0.025]), WEIGHTS)
SMALL = ["steps=4", "images=64", "validation=32", "batch_size=32", "teacher=50", "device=cpu"]
SMALL += ["iterations=6", "validate_every=2", "progress=false", "grid=leading"]


class Network:
    """An analytic network in the place of a `Runner`, in float64."""

    def __init__(self, denoiser=MIXTURE, shape=(2,)):
        self.denoiser, self.arch, self.dtype = denoiser, SimpleNamespace(image=shape), "exact"
        self.calls, self.tf32 = 0, False

    def __call__(self, x, t):
        self.calls += 1
        return self.denoiser(x, t)

    def state_of(self, x):
        return x.double()


@pytest.fixture
def network(monkeypatch, tmp_path):
    """The network that every fit of a test loads; teachers are kept in the test's folder."""
    network = Network()
    monkeypatch.setattr(loop, "load_network", lambda cfg: (network, "0" * 64))
    monkeypatch.setattr(teacher, "cache_dir", lambda: tmp_path / "cache")
    return network


def fitted(folder, *words):
    keys = {word.partition("=")[0] for word in words}
    small = [word for word in SMALL if word.partition("=")[0] not in keys]
    path = loop.fit(compose_fit([*small, f"output={folder}", *words]))
    return json.loads(path.read_text())


def numbers(content):
    return content["nodes"], content["rows"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:grid=leading with one step:UserWarning")
def test_a_fitted_plan_of_four_evaluations_beats_every_fixed_method(network, tmp_path):
    """By a factor of 4 at least, on noise that it was not fitted to: a mixture of Gaussians."""
    words = ["iterations=300", "images=512", "batch_size=256", "validate_every=50", "moments=0"]
    fitted(tmp_path, *words)
    x_T = pndm.initial_noise(range(256), (2,)).double()
    table = teacher.fine_plan(SCHEDULE, 400, 999.0, -1.0, "noise")
    fine = pndm.execute.execute(table, MIXTURE, x_T)

    def error(**how):
        x = pndm.sample(MIXTURE, x_T, schedule=SCHEDULE, **how)
        return (x - fine).square().mean().sqrt().item()

    others = {}
    for name, make in SOLVERS.items():
        solver = make()
        if not isinstance(solver, Solver) or name == "ddpm":
            continue
        for grid in pndm.grids.GRIDS:
            steps = next((n for n in (4, 3, 2, 1) if solver.nfe(n) <= 4), None)
            others[name, grid] = error(solver=solver, steps=steps, grid=grid)
    learned, best = error(plan=tmp_path / "plan.json"), min(others.values())
    print(f"learned {learned:.4g}, the best fixed {best:.4g}: a factor of {best / learned:.3g}")
    assert 4 * learned < best


def test_it_leaves_a_plan_with_what_it_was_fitted_to(network, tmp_path):
    content = fitted(tmp_path, "solver=deis", "solver.order=2")
    made = content["fitted"]
    assert made["start"]["solver"]["name"] == "deis" and made["start"]["grid"] == "leading"
    assert content["network"] == {"name": "digits_linear", "sha256": "0" * 64}
    assert content["schedule"]["name"] == "linear" and content["prediction"] == "noise"
    assert made["seed_sets"] == {"fitting": 10**6, "validation": 10**6 + 1}
    assert made["best"]["loss"] < made["first"]["loss"] and made["date"] and made["seconds"]
    history = json.loads((tmp_path / "history.json").read_text())
    assert [entry["iteration"] for entry in history] == [0, 2, 4, 6]
    assert min(entry["loss"] for entry in history) == made["best"]["loss"]


def test_images_of_the_plan_are_those_of_the_fit(network, tmp_path):
    fitted(tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    plan = plans.load(tmp_path / "plan.json")
    start = pndm.plan(pndm.solvers.ipndm(), SCHEDULE, 4)
    student = loop.Student(start, SCHEDULE)
    student.load_state_dict(saved["best"]["student"])
    x_T = pndm.initial_noise(range(8), (2,)).double()
    images = pndm.execute.execute(plan, MIXTURE, x_T)
    assert (images - student(MIXTURE, x_T)).abs().max() < 1e-12


def test_learning_nothing_leaves_the_plan_as_it_is(network, tmp_path):
    fitted(tmp_path, "learn=nothing")
    x_T = pndm.initial_noise(range(4), (2,)).double()
    x = pndm.sample(MIXTURE, x_T, schedule=SCHEDULE, plan=tmp_path / "plan.json")
    same = pndm.sample(MIXTURE, x_T, schedule=SCHEDULE, solver=pndm.solvers.ipndm(), steps=4)
    assert (x - same).abs().max() < 1e-12


@pytest.mark.slow
def test_an_interrupted_fit_goes_on_as_if_it_had_not_been(network, tmp_path, monkeypatch):
    for words in ([], ["radius=0.1"]):
        folder = tmp_path / f"fit{len(words)}"
        whole = fitted(folder / "whole", *words)
        calls, call = [], Loss.__call__

        def interrupted(self, x, y, calls=calls, call=call):
            calls.append(1)
            if len(calls) == 7:  # two validations, four iterations and one more
                raise KeyboardInterrupt
            return call(self, x, y)

        monkeypatch.setattr(Loss, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitted(folder / "broken", *words)
        monkeypatch.setattr(Loss, "__call__", call)
        assert torch.load(folder / "broken" / "checkpoint.pt", weights_only=True)["iteration"] > 0
        assert numbers(fitted(folder / "broken", *words)) == numbers(whole)
        assert numbers(fitted(folder / "same", *words)) == numbers(whole)


def test_the_teacher_is_computed_once(network, tmp_path):
    fitted(tmp_path / "one", "iterations=0")
    first = network.calls
    fitted(tmp_path / "two", "iterations=0")
    assert network.calls - first == 4  # of the validation
    fitted(tmp_path / "three", "iterations=0", "teacher=49")
    assert network.calls - first > 50


def test_a_radius_gives_other_numbers_and_keeps_starts_in_the_ball(network, tmp_path):
    assert numbers(fitted(tmp_path / "r", "radius=0.2")) != numbers(fitted(tmp_path / "0"))
    offsets = torch.load(tmp_path / "r" / "checkpoint.pt", weights_only=True)["offsets"]
    lengths = offsets.norm(dim=1)
    assert 0 < lengths.max() <= 0.2 * 2**0.5 + 1e-12
    moved = loop.moved(torch.zeros(2, 3), torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), 1.0)
    assert moved[0].tolist() == pytest.approx([-(3**0.5) / 4, 0, 0]) and not moved[1].any()


def test_a_loss_that_is_not_finite_stops_and_leaves_the_best(network, tmp_path, monkeypatch):
    call, calls = Loss.__call__, []

    def broken(self, x, y):
        calls.append(1)
        return call(self, x, y) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(Loss, "__call__", broken)
    with pytest.raises(
        NonFiniteError, match="the loss is nan at iteration 4: lower lr.*plan.json"
    ):
        fitted(tmp_path)
    history = json.loads((tmp_path / "history.json").read_text())
    best = json.loads((tmp_path / "plan.json").read_text())["fitted"]["best"]
    assert best["loss"] == min(entry["loss"] for entry in history)
    assert plans.load(tmp_path / "plan.json").nfe == 4


def test_a_validation_that_is_not_finite_stops_and_leaves_the_best(network, tmp_path, monkeypatch):
    evaluate, calls = loop.evaluate, []

    def broken(*arguments):
        calls.append(1)
        scale = float("inf") if len(calls) == 3 else 1.0
        return {name: scale * value for name, value in evaluate(*arguments).items()}

    monkeypatch.setattr(loop, "evaluate", broken)
    with pytest.raises(NonFiniteError, match="the validation loss is inf at iteration 4: .*json"):
        fitted(tmp_path)
    made = json.loads((tmp_path / "plan.json").read_text())["fitted"]["optimizer"]
    assert (made["done"], made["iterations"]) == (2, 6)
    monkeypatch.setattr(loop, "evaluate", evaluate)
    assert fitted(tmp_path)["fitted"]["optimizer"]["done"] == 6


def test_the_teacher_solves_as_many_images_at_once_as_it_may(network, tmp_path):
    sizes = set()
    network.denoiser = lambda x, t: sizes.add(len(x)) or MIXTURE(x, t)
    fitted(tmp_path, "iterations=0", "batch_size=8")
    assert max(sizes) == 8


def test_a_teacher_that_is_not_finite_is_refused(network, tmp_path):
    network.denoiser = lambda x, t: x * float("nan")
    with pytest.raises(NonFiniteError, match="the teacher's images have NaN"):
        fitted(tmp_path)


def test_a_checkpoint_of_another_fit_is_refused(network, tmp_path):
    fitted(tmp_path)
    for word, said in {
        "moments=0.2": "moments=0.5",
        "huber=0": "huber=0.01",
        "solver.order=2": "solver.order=None",
    }.items():
        with pytest.raises(ConfigError, match=f"another training .*{said}"):
            fitted(tmp_path, word)


def test_a_checkpoint_is_refused_before_the_teacher_begins(network, tmp_path):
    fitted(tmp_path)
    calls = network.calls
    with pytest.raises(ConfigError, match="another training .*seed=0"):
        fitted(tmp_path, "seed=1")
    (tmp_path / "checkpoint.pt").write_bytes(b"junk")
    with pytest.raises(ConfigError, match="no checkpoint of this version"):
        fitted(tmp_path, "seed=1")
    assert network.calls == calls


def test_two_fits_into_one_folder_are_refused(network, tmp_path):
    with file_lock(tmp_path / "fit"), pytest.raises(FileError, match="locked by another process"):
        fitted(tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_missing_weights_leave_no_folder(tmp_path):
    with pytest.raises(CheckpointError, match="ddpm_cifar10"):
        loop.fit(compose_fit(["dataset=cifar10", "steps=4", f"output={tmp_path / 'new'}"]))
    assert not (tmp_path / "new").exists()


def test_a_file_with_the_name_of_registered_weights_is_the_file(tmp_path, monkeypatch):
    source = registry.find("digits_cosine").require()
    shutil.copy(source, tmp_path / "digits_linear")
    monkeypatch.chdir(tmp_path)
    words = ["schedule=cosine", "model.architecture=digits_cosine"]
    network, sha256 = loop.load_network(
        compose_fit([*words, "model.checkpoint=digits_linear", "device=cpu"])
    )
    assert sha256 == weights_sha256(source)
    expected = pndm.models.load("digits_cosine").state_dict()
    assert all(torch.equal(expected[k], v) for k, v in network.network.state_dict().items())


DAMAGE = {
    "junk": lambda images: b"junk",
    "no images": lambda images: archive(other=images),
    "other shape": lambda images: archive(images=images[:1]),
    "NaN": lambda images: archive(images=images * np.nan),
    "text": lambda images: archive(images=images.astype(str)),
}


def archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_images_of_the_teacher_are_computed_again(network, tmp_path, damage):
    whole = numbers(fitted(tmp_path / "whole"))
    for path in (tmp_path / "cache" / "teachers").iterdir():
        path.write_bytes(DAMAGE[damage](np.load(path)["images"]))
    calls = network.calls
    with pytest.warns(UserWarning, match="damaged: its images are computed again"):
        assert numbers(fitted(tmp_path / "again")) == whole
    assert network.calls > calls + 50
    assert numbers(fitted(tmp_path / "third")) == whole


def test_times_that_are_pushed_together_still_descend(network, tmp_path):
    content = fitted(tmp_path, "learn=times", "lr.times=100", "iterations=20", "moments=0")
    times = [node["time"] for node in content["nodes"]]
    assert all(t > s for t, s in pairwise(times)) and plans.load(tmp_path / "plan.json").nfe == 4


REFUSED = {
    "steps=0": "steps=0: give a whole number of at least 2",
    "steps=1": "steps=1: give a whole number of at least 2",
    "grid=[500,-1]": "steps=1: give a whole number of at least 2",
    "solver=plms": "solver=plms has Runge-Kutta steps.*use ddim, ipndm, deis, lms",
    "solver=dpmpp_2m": "predicted noise.*use ddim, ipndm, deis, lms",
    "solver=pf": "adaptive.*use ddim, ipndm, deis, lms",
    "solver=ddpm": "use ddim, ipndm, deis, lms",
    "learn=": "learn=: give some of times, weights, clock, or nothing",
    "learn=nothing,times": "learn=nothing,times: give some of",
    "seed=3000000000": "seed=3000000000: give a whole number of at most",
    "learn=timse": "learn=timse does not exist, did you mean times",
    "lr.weights=0": "lr.weights=0.0: give a positive number",
    "radius=-1": "radius=-1.0: give a number",
    "huber=-1": "huber=-1.0: give 0, or a number of at least 1e-06",
    "huber=nan": "huber=nan: give 0, or a number of at least 1e-06",
    "batch_size=4000": "batch_size=4000: there are only images=2048",
    "iterations=-1": "iterations=-1: give a whole number of at least 0",
    "convention=released": "convention=released truncates times",
    "schedule=quad": "has weights for schedule=linear",
    "step=5": "there is no step",
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_cannot_be_fitted_is_refused_in_one_line(word, capsys):
    with pytest.raises(SystemExit) as stopped:
        __main__.main([word])
    message = str(stopped.value)
    assert message.startswith("error: ") and "\n" not in message
    assert re.search(REFUSED[word], message), message


def test_steps_and_times_that_disagree_are_refused():
    with pytest.raises(ConfigError, match="has 3 steps, not steps=5: leave steps out"):
        compose_fit(["steps=5", "grid=[900,500,100,-1]"])
    assert compose_fit(["grid=[900,500,100,-1]"]).steps == 3


def test_moments_of_large_images_are_those_of_a_projection():
    x = pndm.initial_noise(range(8), (1, 28, 28))
    mean, covariance = mean_and_covariance(x)
    assert mean.shape == (MAX_DIMENSIONS,) and covariance.shape == (MAX_DIMENSIONS,) * 2
    columns = projection(784)
    torch.testing.assert_close(columns.T @ columns, torch.eye(MAX_DIMENSIONS).double())
    assert Loss(1.0)(x, x) == 0
    blurred = 0.5 * x
    assert Loss(1.0)(blurred, x) - Loss(0.0)(blurred, x) == pytest.approx(0.75**2 + 0.25, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_above_huber_count_linearly(dtype):
    h, d = 0.01, torch.tensor([0.0, 1e-6, 0.01, 100.0], dtype=dtype, requires_grad=True)
    y = pndm.initial_noise(range(4), (1, 8, 8)).to(dtype)
    found = Loss(0.0, h).distance(y + d.view(-1, 1, 1, 1), y)
    wanted = torch.tensor([0, 1e-12, 2 * h**2 * (2**0.5 - 1), 2 * h * 100], dtype=dtype)
    tolerance = 3e-2 if dtype == torch.float32 else 2e-4  # y + 1e-6 is rounded in float32
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=0)
    (slope,) = torch.autograd.grad(found.sum(), d)
    assert slope[0] == 0 and slope[3].item() == pytest.approx(2 * h, rel=1e-4)
    assert Loss(0.0)(y + 1, y).item() == pytest.approx(1)
