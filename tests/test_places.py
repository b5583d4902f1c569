"""Where it is run: consoles of other encodings, users without a home, proxies."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT

from pndm import _files, models, train
from pndm._errors import FileError, InputError
from pndm.evaluation.reference import tee_to_npy
from pndm.evaluation.statistics import save_arrays
from pndm.models import checkpoints
from pndm.runs.processes import without_proxy


def without_home(monkeypatch):
    def unknown(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    monkeypatch.delenv("PNDM_HOME", raising=False)


def test_without_a_home_the_cache_is_temporary(monkeypatch, tmp_path):
    without_home(monkeypatch)
    monkeypatch.setattr(_files.tempfile, "gettempdir", lambda: str(tmp_path))
    assert _files.cache_dir().parent == tmp_path
    with pytest.raises(InputError, match="write the whole path"):
        _files.expand_user("~/x")


def test_a_folder_that_cannot_be_made_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PNDM_HOME", str(tmp_path / "file"))
    for path in (tmp_path / "file" / "locks", tmp_path / "file"):
        with pytest.raises(FileError, match="set PNDM_HOME to one that can be written to"):
            _files.make_folder(path)
    monkeypatch.setenv("PNDM_HOME", str(tmp_path / "other"))
    with pytest.raises(FileError, match="name one that can be written to"):
        _files.make_folder(tmp_path / "file" / "outputs")


def test_no_proxy_is_asked_for_this_machine(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert without_proxy()["no_proxy"].startswith("localhost,127.0.0.1")
    monkeypatch.setenv("no_proxy", "intern.example")
    assert without_proxy()["NO_PROXY"].startswith("intern.example,localhost")


WRITERS = {
    "checkpoint": lambda path: train.save_checkpoint(path, {"model": torch.zeros(1000)}),
    "weights": lambda path: checkpoints.save(models.load("digits_linear"), path),
    "features": lambda path: list(tee_to_npy([torch.zeros(1000, 2)], (1000, 2), path)),
    "arrays": lambda path: save_arrays(path, {"images": np.zeros(1000)}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_nothing(name, tmp_path, full_disk):
    with pytest.raises(FileError):
        WRITERS[name](tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


COMMANDS = {
    "run.py": [str(ROOT / "run.py"), "solver=größe"],
    "cost": ["-m", "pndm.cost", "solver=größe"],
    "train": ["-m", "pndm.train", "schedule=größe"],
    "evaluation": ["-m", "pndm.evaluation", "reference", "größe"],
    "models": ["-m", "pndm.models", "fetch", "größe"],
    "experiments": ["-m", "experiments.conventions", "solver=größe"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "encoding"), [*((name, "ascii") for name in COMMANDS), ("run.py", "cp1252")]
)
def test_consoles_of_other_encodings(name, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for words in (COMMANDS[name], [*COMMANDS[name][:-1], "--help"]):
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True
        )
        assert b"Traceback" not in done.stderr and b"UnicodeEncode" not in done.stderr
    assert done.returncode == 0
