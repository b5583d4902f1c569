"""The registry: every entry is complete, and reading it costs nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pndm._files import cache_dir
from pndm.models import __main__ as cli
from pndm.models.registry import ARCHITECTURES, WEIGHTS, CheckpointError, Weights, find

PAPER = (
    "ddpm_cifar10",
    "ddim_celeba",
    "ddpm_lsun_bedroom",
    "ddpm_lsun_church",
    "iddpm_cifar10",
    "pf_cifar10",
    "pf_deep_cifar10",
)


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_an_entry_is_complete(weights):
    assert weights.architecture in ARCHITECTURES
    assert weights.timesteps in (1000, 4000)
    if weights.url:
        assert weights.url.startswith("https://") and weights.file
        assert weights.path.is_relative_to(cache_dir())
    else:
        assert weights.format == "pndm" and weights.path.suffix == ".safetensors"
    assert weights.md5 is None or re.fullmatch("[0-9a-f]{32}", weights.md5)
    assert (weights.ema is False) == ("nonema" in weights.name)


def test_the_paper_s_families_are_there_under_the_names_of_their_architectures():
    for name in PAPER:
        assert find(name).architecture == name
        assert find(name).ema is not False


def test_files_do_not_collide():
    """One path is one address; iDDPM's file serves two entries."""
    addresses = {}
    for weights in WEIGHTS.values():
        page = (weights.url, weights.file)
        assert addresses.setdefault(weights.path, page) == page
    assert find("iddpm_cifar10").path == find("iddpm_cifar10_released").path


def test_iddpm_knows_both_conventions():
    """A schedule of 4000 times embedded as quarters, or one of 1000 embedded unscaled."""
    for name, timesteps in (("iddpm_cifar10", 4000), ("iddpm_cifar10_released", 1000)):
        weights = find(name)
        assert weights.timesteps == timesteps and weights.schedule == "cosine"
        scale = ARCHITECTURES[weights.architecture].time_scale
        assert scale * timesteps == 1000


def test_an_unknown_name():
    with pytest.raises(CheckpointError, match="ddpm_cifar100, did you mean ddpm_cifar10"):
        find("ddpm_cifar100")


@pytest.mark.parametrize("weights", [w for w in WEIGHTS.values() if w.url], ids=lambda w: w.name)
def test_missing_weights_say_where_from_and_where_to(weights, monkeypatch, tmp_path):
    monkeypatch.setenv("PNDM_HOME", str(tmp_path))
    assert not weights.present
    with pytest.raises(CheckpointError) as caught:
        weights.require()
    message = str(caught.value)
    assert f"python -m pndm.models fetch {weights.name}" in message
    assert weights.url in message and str(tmp_path) in message and "\n" not in message


def test_weights_that_a_person_trains_say_how():
    weights = Weights("absent", "fashion_linear", "fashion_mnist", "pndm")
    assert not weights.present
    with pytest.raises(CheckpointError) as caught:
        weights.require()
    message = str(caught.value)
    assert "train it with python -m pndm.train dataset=fashion_mnist schedule=linear" in message
    assert str(weights.path) in message and "\n" not in message


def test_the_cache_folder(monkeypatch):
    monkeypatch.delenv("PNDM_HOME")
    assert find("ddpm_cifar10").path.is_relative_to(Path("~/.cache/pndm").expanduser())


def test_shipped_weights_are_there():
    for name in ("digits_linear", "digits_cosine"):
        assert find(name).require().with_suffix(".json").is_file()


def test_reading_it_imports_no_torch():
    code = "import sys, pndm.models.registry, pndm.models.__main__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_list(capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in WEIGHTS) and str(cache_dir()) in out
