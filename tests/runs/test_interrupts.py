"""Signals whose exception is lost or replaced."""

import json
import signal
import sys

import pytest

from pndm.config.compose import compose_runs
from pndm.runs import interrupts, worker
from pndm.runs.run import run_experiment


class Finalized:
    """A signal arrives during finalization, where Python drops every exception."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def status(tmp_path, monkeypatch):
    """Execute a run of three shards with an event in its first features; return its status."""

    def go(happens):
        monkeypatch.setattr("pndm.runs.shards.SHARD", 8)
        monkeypatch.setattr(worker, "extract_features", lambda *_: happens())
        small = ["samples=20", "steps=3", "wandb.mode=disabled", "progress=false", "device=cpu"]
        (cfg,) = compose_runs([*small, f"outputs={tmp_path}"])
        with pytest.raises(KeyboardInterrupt):
            run_experiment(cfg)
        assert len(list(tmp_path.rglob("images/*.npz"))) == 1
        (path,) = tmp_path.rglob("status.json")
        return json.loads(path.read_text())["status"]

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(interrupts, "received", [])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    interrupts.listen()
    yield go
    for number, handler in before.items():
        signal.signal(number, handler)


def test_one_lost_in_a_finalizer_ends_the_run_at_its_next_step(status, capfd):
    assert status(Finalized) == "interrupted"
    assert "Exception ignored" not in capfd.readouterr().err


def test_one_that_became_another_error_is_an_interruption(status):
    def clean_up():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise ValueError("Can't close the ZIP file while there is an open handle on it.")

    assert status(clean_up) == "interrupted"


def test_other_lost_errors_are_told(status, capfd):
    class Broken:
        def __del__(self):
            raise ValueError("told")

    Broken()
    assert "ValueError: told" in capfd.readouterr().err
    assert not interrupts.received
    interrupts.check()
