"""A wheel works from any folder: its configuration, its weights and its commands are inside."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from commands import ROOT

SOURCES = ("pndm", "conf", "pyproject.toml", "README.md", "LICENSE")
OPTIONS = ["steps=2", "samples=8", "fid=off", "wandb.mode=disabled", "progress=false"]


def run(*command, **how):
    done = subprocess.run(command, capture_output=True, text=True, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment that finds a wheel's content before this clone."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder / "dist", folder]
    run(*pip, *build)
    (wheel,) = (folder / "dist").glob("*.whl")
    run(*pip, "install", "-q", "--no-deps", "--target", folder / "site", wheel)
    return folder / "site", {**os.environ, "PYTHONPATH": str(folder / "site")}


@pytest.mark.slow
def test_the_command_leaves_a_record_in_an_empty_folder(installed, tmp_path):
    site, environment = installed
    where = run(
        sys.executable, "-c", "import pndm; print(pndm.__file__)", cwd=tmp_path, env=environment
    )
    assert where.strip() == str(site / "pndm" / "__init__.py")
    out = run(sys.executable, site / "bin" / "pndm", *OPTIONS, cwd=tmp_path, env=environment)
    record = tmp_path / out.splitlines()[-1].removeprefix("record: ")
    assert json.loads(record.read_text())["status"] == "complete"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["train", "cost", "evaluation", "models", "demo"])
def test_the_other_commands_run_anywhere(installed, tmp_path, module):
    _, environment = installed
    out = run(sys.executable, "-m", f"pndm.{module}", "--help", cwd=tmp_path, env=environment)
    assert f"python -m pndm.{module}" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["models/weights", "evaluation/references"])
def test_weights_and_references_are_inside(installed, folder):
    site, _ = installed
    here, there = (top / "pndm" / folder for top in (ROOT, site))
    names = sorted(path.name for path in here.iterdir())
    assert names and names == sorted(path.name for path in there.iterdir())
