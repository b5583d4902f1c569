"""Training: deterministic by seed, resumable as if it had never stopped, and able to learn."""

import contextlib
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import pndm
from experiments.main_table import fid_by_steps
from pndm import cost, schedules, train
from pndm._errors import FileError
from pndm._files import file_lock
from pndm.config.compose import compose_train
from pndm.config.schema import ConfigError
from pndm.evaluation import __main__
from pndm.models.analytic import Point

TINY = ["recipe.iterations=6", "recipe.checkpoint_every=2", "recipe.log_every=1", "device=cpu"]
TINY += ["recipe.batch_size=8", "recipe.warmup=1"]


def trained(folder, *arguments):
    keys = {word.partition("=")[0] for word in arguments}
    tiny = [word for word in TINY if word.partition("=")[0] not in keys]
    path = train.train(compose_train([*tiny, f"output={folder}", *arguments]))
    return load_file(path), json.loads(path.with_suffix(".json").read_text())


@pytest.mark.slow
def test_it_leaves_weights_a_card_a_loss_curve_and_a_picture(tmp_path):
    weights, card = trained(tmp_path / "net", "schedule=cosine")
    assert card["schedule"] == "cosine" and card["iterations"] == 6 and card["sha256"]
    assert len(json.loads((tmp_path / "net" / "losses.json").read_text())) == 6
    assert (tmp_path / "net" / "samples.png").exists()
    network = pndm.models.load(str(tmp_path / "net" / "net.safetensors"), card["architecture"])
    assert set(network.state_dict()) == set(weights)


@pytest.mark.slow
def test_the_seed_determines_the_weights(tmp_path):
    one, _ = trained(tmp_path / "one")
    same, _ = trained(tmp_path / "same")
    other, _ = trained(tmp_path / "other", "seed=1")
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole, card = trained(tmp_path / "whole")
    calls, loss = [], train.loss

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(train, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken")
    monkeypatch.setattr(train, "loss", loss)
    again, card_again = trained(tmp_path / "broken")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert card["loss"] == card_again["loss"]


@pytest.mark.slow
def test_a_wide_network_trains_in_channels_last(tmp_path, monkeypatch):
    sure = replace(train.ARCHITECTURES["digits_linear"], dropout=0.0)
    monkeypatch.setitem(train.ARCHITECTURES, "digits_linear", sure)
    plain, _ = trained(tmp_path / "plain")
    monkeypatch.setattr(train, "WIDE", 1)
    whole, _ = trained(tmp_path / "whole")
    assert all(whole[key].is_contiguous() for key in whole)
    for key in plain:
        torch.testing.assert_close(whole[key], plain[key], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_weights_are_kept_in_half_precision_where_the_recipe_says_so(tmp_path):
    whole, _ = trained(tmp_path / "net")
    half, card = trained(tmp_path / "net", "recipe.half=true")  # goes on from the last checkpoint
    assert card["precision"] == "half" and card["iterations"] == 6
    assert all(torch.equal(half[key], whole[key].half()) for key in whole)
    path = tmp_path / "net" / "net.safetensors"
    network = pndm.models.load(str(path))
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


@pytest.mark.slow
def test_a_training_can_end_at_its_last_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="to finish: train first"):
        trained(tmp_path / "none", "finish=true")
    learning_rate = train.learning_rate

    def interrupted(iteration, recipe):
        if iteration == 5:
            raise KeyboardInterrupt
        return learning_rate(iteration, recipe)

    monkeypatch.setattr(train, "learning_rate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "net")
    weights, card = trained(tmp_path / "net", "finish=true")
    assert (card["iterations"], card["iterations_of_recipe"]) == (4, 6)
    saved = torch.load(tmp_path / "net" / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(weights[key], saved["ema"][key]) for key in weights)


def test_a_training_can_end_before_its_first_logged_loss(tmp_path, monkeypatch):
    """And goes on with the losses that it had not logged yet."""
    words = ["recipe.log_every=5", "recipe.checkpoint_every=2"]
    rate = train.learning_rate

    def interrupted(iteration, recipe):
        if iteration == 3:
            raise KeyboardInterrupt
        return rate(iteration, recipe)

    _, whole = trained(tmp_path / "whole", *words)
    monkeypatch.setattr(train, "learning_rate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "net", *words)
    _, card = trained(tmp_path / "net", *words, "finish=true")
    assert card["iterations"] == 2 and 0 < card["loss"] < 3
    monkeypatch.setattr(train, "learning_rate", rate)
    _, card = trained(tmp_path / "net", *words)
    assert card["loss"] == whole["loss"]
    losses = [(tmp_path / n / "losses.json").read_text() for n in ("net", "whole")]
    assert losses[0] == losses[1] and len(json.loads(losses[0])) == 2


def test_a_schedule_of_few_times_is_sampled_in_as_many_steps(tmp_path):
    trained(tmp_path / "net", "recipe.iterations=1", "schedule.timesteps=20")
    assert (tmp_path / "net" / "samples.png").exists()


def test_settings_for_sampling_are_no_part_of_a_training(tmp_path):
    trained(tmp_path / "net", "recipe.iterations=2", "recipe.decay=false")
    more = ["recipe.decay=false", "recipe.iterations=3", "dataset.samples=7"]
    _, card = trained(tmp_path / "net", *more, "dataset.batch_size=3")
    assert card["iterations"] == 3
    with pytest.raises(ConfigError, match="another training .*dataset.flip=False"):
        trained(tmp_path / "net", *more, "dataset.flip=true")


@pytest.mark.slow
def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    out = tmp_path / "net"
    trained(out)
    others = {"seed=1": "seed=0", "schedule=cosine": "schedule.name=linear"}
    others |= {"recipe.iterations=2": "6 iterations done", "recipe.lr=0.5": "recipe.lr="}
    for argument, said in others.items():
        with pytest.raises(ConfigError, match=f"another training .*{said}.*output="):
            trained(out, argument)
    (out / "checkpoint.pt").write_bytes((out / "checkpoint.pt").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="no checkpoint of this version"):
        trained(out)


def test_two_trainings_into_one_folder_are_refused(tmp_path):
    with file_lock(tmp_path / "train"), pytest.raises(FileError, match="locked by another"):
        trained(tmp_path)


def test_help_shows_how_it_is_used(capsys):
    for main in (train.main, cost.main, __main__.main, fid_by_steps.main):
        with contextlib.suppress(SystemExit):  # by which argparse ends
            main(["--help"])
        assert "python -m " in capsys.readouterr().out


def test_an_architecture_for_other_images_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"not for images \[1, 8, 8\]"):
        trained(tmp_path / "net", "architecture=ddpm_cifar10")


def test_the_loss_is_zero_for_the_true_noise_and_one_for_none():
    schedule = schedules.linear()
    alpha_bar = torch.tensor([schedule.alpha_bar(t) for t in range(1000)])
    point = torch.randn(1, 8, 8)
    x_0 = point.expand(64, 1, 8, 8)
    t, e = train.times_and_noise(64, (1, 8, 8), 1000)
    assert train.loss(Point(schedule, point), x_0, t, e, alpha_bar) < 1e-3
    nothing = train.loss(lambda x, t: torch.zeros_like(x), x_0, t, e, alpha_bar)
    assert nothing == pytest.approx(1, abs=0.1)


def test_every_epoch_shows_every_image_once_and_resumes_anywhere():
    whole = train.batch_indices(10, 4, seed=0, start=0)
    first = [next(whole) for _ in range(5)]
    assert sorted(sum(first, [])) == sorted(list(range(10)) * 2)
    assert next(train.batch_indices(10, 4, seed=0, start=3)) == first[3]


def test_the_average_forgets_its_start():
    ema, model = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    for iteration in range(500):
        train.update_ema(ema, model, 0.99, iteration)
    torch.testing.assert_close(ema.weight, model.weight)


def test_the_learning_rate_warms_up_and_decays():
    recipe = compose_train([]).recipe
    rates = [train.learning_rate(i, recipe) for i in range(recipe.iterations)]
    assert rates[0] < 0.01 * recipe.lr and max(rates) <= recipe.lr
    assert rates[-1] < 1e-6


# On a GPU


def test_the_average_is_updated_at_once_and_as_one_by_one():
    torch.manual_seed(0)
    model, ema = (torch.nn.Linear(5, 3) for _ in range(2))
    expected = [
        a.lerp(w, 1 - 2 / 11) for a, w in zip(ema.parameters(), model.parameters(), strict=True)
    ]
    train.update_ema(ema, model, 0.9995, 1)
    assert all(torch.equal(*pair) for pair in zip(ema.parameters(), expected, strict=True))


def test_precision_is_part_of_a_training_compilation_and_processes_are_not():
    """Checkpoints from before there was a choice go on as fp32."""
    plain, half, compiled, shared = (
        train.identity(compose_train([*TINY, *words]))
        for words in ([], ["precision=bf16"], ["compile=auto"], ["processes=2"])
    )
    assert plain == compiled == shared and "precision" not in plain
    assert half == {**plain, "precision": "bf16"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("precision=fp16", "precision=fp16 does not exist"),
        ("compile=max", "compile=max does not exist"),
        ("precision=tf32", "precision=tf32 needs a GPU"),
        ("processes=0", "processes=0: give a whole number of at least 1, or auto"),
        ("processes=9", "processes=9: recipe.batch_size=8 has not an image for each"),
    ],
)
def test_trainings_that_cannot_be_done(word, message):
    with pytest.raises(ConfigError, match=message):
        compose_train([*TINY, word])


def test_a_checkpoint_is_read_to_the_cpu(tmp_path, monkeypatch):
    """Adam's step counts would else be on the GPU, and each parameter's read there waits."""
    how = []
    path, settings = tmp_path / "checkpoint.pt", {"seed": 0}
    torch.save({"iteration": 1, "settings": settings}, path)
    plain = torch.load
    monkeypatch.setattr(torch, "load", lambda *_, **given: how.append(given) or plain(*_, **given))
    train.resumed(path, settings, 2)
    assert [given["map_location"] for given in how] == ["cpu"]


def test_half_precision_is_of_the_network_alone(monkeypatch):
    seen = []

    class Network(torch.nn.Conv2d):
        def forward(self, x, t):
            e = super().forward(x)
            seen.append((self.weight.dtype, e.dtype))
            return e

    network, alpha_bar = Network(1, 1, 3, padding=1), torch.linspace(0.99, 0.01, 10)
    x = torch.randn(16, 1, 8, 8)
    t, e = train.times_and_noise(16, (1, 8, 8), 10)
    values = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values.append(train.loss(network, x, t, e, alpha_bar))
    values[1].backward()
    assert seen == [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)]
    assert values[1].dtype == network.weight.grad.dtype == torch.float32
    assert 0 < abs(values[0] - values[1]) < 0.01 * values[0]


@pytest.mark.slow
def test_training_in_half_precision_is_near_that_in_single(tmp_path):
    _, full = trained(tmp_path / "full")
    weights, half = trained(tmp_path / "half", "precision=bf16")
    assert half["training_precision"] == "bf16" and "training_precision" not in full
    assert 0 < abs(half["loss"] - full["loss"]) < 0.05 * full["loss"]
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
