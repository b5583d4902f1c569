"""User errors are one line; a bug keeps its traceback, wherever it is shown."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from commands import ROOT

from pndm import cost
from pndm._errors import FileError, InputError, did_you_mean, file_errors, lookup
from pndm.config import compose
from pndm.runs import command, interrupts
from pndm.solvers.transfer import Pseudo

SMALL = ["samples=8", "steps=2", "fid=off", "wandb.mode=disabled", "progress=false", "device=cpu"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command in this process; its exit status, and what it printed on stderr."""
    monkeypatch.setattr(interrupts, "listen", lambda: None)
    monkeypatch.delenv(command.SWEEP, raising=False)

    def go(*arguments):
        monkeypatch.setattr(sys, "argv", ["run.py", *SMALL, f"outputs={tmp_path}", *arguments])
        with pytest.raises(SystemExit) as stopped:
            command.main()
        monkeypatch.delenv(command.SWEEP, raising=False)
        return stopped.value.code, capsys.readouterr().err

    yield go
    command.cells.clear()


def planted(*arguments):
    raise ValueError("a planted bug")


def test_a_bug_shows_its_traceback(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Pseudo, "move", planted)
    status, err = run("solver=ddim", "seed=3")
    assert status == 1
    assert "Traceback" in err and "in planted" in err and "ValueError: a planted bug" in err
    (record,) = (json.loads(path.read_text()) for path in tmp_path.rglob("status.json"))
    assert record["status"] == "failed" and record["error"] == "ValueError: a planted bug"
    assert "in planted" in record["traceback"]


def test_a_bug_in_a_cell_shows_its_traceback_and_stops_no_other(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Pseudo, "move", planted)
    status, err = run("-m", "solver=ddim,fon", "seed=4")
    assert status == 1 and err.count("ValueError: a planted bug") == 1
    states = [json.loads(path.read_text())["status"] for path in tmp_path.rglob("status.json")]
    assert sorted(states) == ["complete", "failed"]


def test_what_a_person_can_mend_is_one_line(run, tmp_path):
    for arguments, message in {
        ("solver=plsm",): "did you mean plms?",
        ("steps=0",): "give a whole number from 1 to 1000",
        ("dataset=celeba",): "fetch ddim_celeba",
        ("--config-dir", "nowhere"): "there is no such folder",
        ("--frobnicate",): "settings are key=value",
    }.items():
        status, _ = run(*arguments)
        assert isinstance(status, str) and message in status and "\n" not in status
    assert not list(tmp_path.iterdir())


def test_a_default_run_validates_once_and_opens_its_weights_once(run, monkeypatch):
    calls, opened = Counter(), Counter()
    validate = compose.validate

    def counted(cfg):
        calls["validate"] += 1
        return validate(cfg)

    def audit(event, arguments):
        if event == "open" and str(arguments[0]).endswith("digits_linear.safetensors"):
            opened[str(arguments[0])] += 1

    monkeypatch.setattr(compose, "validate", counted)
    from pndm.runs.network import cached_runner, load_network

    cached_runner.cache_clear()
    load_network.cache_clear()
    sys.addaudithook(audit)
    status, err = run("seed=5")
    assert status == 0, err
    assert calls == {"validate": 1}
    assert list(opened.values()) == [1]


def test_commands_keep_the_traceback_of_a_bug(monkeypatch):
    monkeypatch.setattr(cost, "predict", planted)
    with pytest.raises(ValueError, match="planted"):
        cost.main([])


def test_files_that_cannot_be_written_are_one_line(tmp_path):
    with pytest.raises(FileError, match="Is a directory"), file_errors():
        tmp_path.write_text("")
    with pytest.raises(FileNotFoundError) as error, file_errors():
        (tmp_path / "a" / "b").write_text("")
    assert not isinstance(error.value, FileError)  # nobody asked for it: a bug


def test_one_lookup_of_names():
    assert lookup({"a": 1}, "a", "letter") == 1
    with pytest.raises(InputError, match=r"no letter 'bets', did you mean beta\?; there are "):
        lookup({"beta": 1, "alpha": 2}, "bets", "letter")
    assert did_you_mean("xyz", ["alpha"]) == ""


@pytest.mark.slow
def test_a_clone_next_to_the_current_folder_is_not_the_package(tmp_path):
    """A folder called pndm, as a clone's is, does not hide the installed package."""
    (tmp_path / "pndm").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = "import pndm; print(pndm.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(ROOT / "pndm" / "__init__.py")
