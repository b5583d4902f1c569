"""W&B's own environment: respected where nothing is on the command line, unchanged afterwards."""

import os
import sys
from types import SimpleNamespace

import pytest

from pndm.config.compose import compose_runs
from pndm.config.schema import ConfigError, Wandb
from pndm.config.validate import resolve_wandb
from pndm.runs.tracking import WandbLogger


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": ""}, "offline"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, "disabled"),
        ({"WANDB_DISABLED": "false"}, "offline"),
    ],
)
def test_the_mode(monkeypatch, environment, mode):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_wandb(Wandb()).mode == mode
    assert resolve_wandb(Wandb(mode="online")).mode == "online"


def test_project_and_entity(monkeypatch):
    assert resolve_wandb(Wandb()).project == "pndm"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    settings = compose_runs([])[0].wandb
    assert (settings.project, settings.entity) == ("mine", "us")
    assert resolve_wandb(Wandb(project="other")).project == "other"
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(ConfigError, match="WANDB_MODE=of does not exist"):
        resolve_wandb(Wandb())


@pytest.mark.parametrize("own", [{}, {"WANDB_NAME": "n", "WANDB_SILENT": "false"}])
def test_the_environment_is_left_as_it_was(monkeypatch, tmp_path, own):
    calls = []

    def init(**settings):
        os.environ["WANDB_SERVICE"] = "theirs"
        calls.append(settings)
        return SimpleNamespace(finish=lambda exit_code: None)

    wandb = SimpleNamespace(init=init, Settings=lambda **settings: settings)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with WandbLogger("offline", tmp_path, name="x", group="g"):
        assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb")
    assert dict(os.environ) == before
    (call,) = calls
    assert ("name" in call) == (not own) and call["group"] == "g"
    assert ("silent" in call["settings"]) == (not own) and call["dir"] == str(tmp_path)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    with WandbLogger("offline", tmp_path):
        pass
    assert calls[1]["dir"] == str(tmp_path / "elsewhere")
