"""Runs with own weights are checked against the metadata next to them."""

import json
import shutil

import pytest

from pndm.config.compose import compose_runs
from pndm.config.schema import ConfigError
from pndm.models.registry import WEIGHTS


@pytest.fixture
def weights(tmp_path):
    """The shipped cosine weights as a user's own file, with their card."""
    path = WEIGHTS["digits_cosine"].path
    shutil.copy(path, tmp_path / "mine.safetensors")
    shutil.copy(path.with_suffix(".json"), tmp_path / "mine.json")
    return tmp_path / "mine.safetensors"


def write_card(weights, **changes):
    card = weights.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | changes))


def compose(weights, *words):
    own = [f"model.checkpoint={weights}", "model.architecture=digits_cosine"]
    (run,) = compose_runs([*own, *words])
    return run


def refused(match, weights, *words):
    with pytest.raises(ConfigError, match=match) as caught:
        compose(weights, *words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_schedule(weights):
    cure = refused("mine.safetensors was trained with schedule=cosine", weights)
    assert cure.endswith("not linear: add schedule=cosine")
    assert compose(weights, "schedule=cosine").schedule["timesteps"] == 1000


def test_another_number_of_times(weights):
    write_card(weights, timesteps=100)
    cure = refused("schedule.timesteps=100", weights, "schedule=cosine")
    run = compose(weights, "schedule=cosine", cure.rpartition("add ")[2])
    assert run.schedule["timesteps"] == 100
    refused("add schedule.timesteps=100", weights, "schedule=cosine", "schedule.timesteps=1000")


def test_another_prediction(weights):
    write_card(weights, prediction="velocity")
    refused("add model.prediction=velocity", weights, "schedule=cosine")
    run = compose(weights, "schedule=cosine", "model.prediction=velocity")
    assert run.model.prediction == "velocity"


def test_other_ends_of_the_noise(weights):
    write_card(weights, schedule="linear", beta_start=1e-4, beta_end=0.01)
    refused("add schedule.beta_end=0.01", weights)
    assert compose(weights, "schedule.beta_end=0.01").schedule["beta_end"] == 0.01


def test_a_folder_of_diffusers(weights):
    folder = weights.parent / "pipeline"
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    shutil.copy(weights, folder / "unet/diffusion_pytorch_model.safetensors")
    config = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    refused("add schedule=cosine", folder)
    refused("add model.prediction=data", folder, "schedule=cosine")
    assert compose(folder, "schedule=cosine", "model.prediction=data").model.name == "pipeline"
    shutil.rmtree(folder / "unet")
    refused("folder without", folder)


@pytest.mark.parametrize("content", ['{"lr": 0.001}', "[]", '{"schedule": "cosine"}', None])
def test_without_a_card_the_run_decides(weights, content):
    if content is None:
        weights.with_suffix(".json").unlink()
    else:
        weights.with_suffix(".json").write_text(content)
    for schedule in ("linear", "cosine"):
        assert compose(weights, f"schedule={schedule}").schedule["name"] == schedule
    weights.with_suffix(".json").write_text("{")
    refused("not a card of weights: fix or remove it", weights)


def test_sharded_weights_name_a_run_by_their_parts(weights, tmp_path):
    from safetensors.torch import load_file, save_file

    from pndm.runs.job import Job

    folder, state = tmp_path / "parts", load_file(weights)
    folder.mkdir()
    names = {key: f"p{i % 2}.safetensors" for i, key in enumerate(state)}
    for part in set(names.values()):
        save_file({k: state[k] for k, name in names.items() if name == part}, folder / part)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    job = Job(compose(folder))
    job.load_weights()
    key = job.key
    save_file({k: state[k] + 1 for k, name in names.items() if name == part}, folder / part)
    assert Job(compose(folder)).key != key
