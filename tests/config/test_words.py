"""Command lines as people type them: the right value, or one line that says what to write."""

import dataclasses
import math
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from commands import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from pndm.config.compose import CONF, compose_runs, compose_train, readable_words
from pndm.config.schema import ConfigError
from pndm.config.validate import validate_train
from pndm.config.words import quoted
from pndm.runs import interrupts

TYPED = (
    *("runs/lr=0.1", "a b", "runs (new)", "run#2", "結果", "größe", "it's", 'say "x"', "a&b;c!"),
    *("a$b", "C:\\new", "ends\\", "x\\'y", "123", "1e3", "true", "007", "[a]", "{a}", "a@b%c:d"),
    *("2026-01-01", "a*b", "#", "'a", "it's\\"),
)


@pytest.mark.parametrize("value", TYPED)
def test_text_is_what_was_typed(value):
    words = readable_words([f"outputs={value}", f"wandb.project={value}"])
    assert readable_words(words) == words
    overrides = OverridesParser.create().parse_overrides(words)
    assert [override.value() for override in overrides] == [value, value]


def test_typed_text_reaches_the_run():
    (run,) = compose_runs(["outputs=lr=1 (größe)", "wandb.project=1e3", "dataset.root=a$b\\c"])
    assert (run.outputs, run.wandb.project) == ("lr=1 (größe)", "1e3")
    assert run.dataset.root == "a$b\\c"


@pytest.mark.parametrize("value", ["'a, b'", '"a=b"', "null", "a,b", "range(1,3)"])
def test_what_hydra_can_read_stays(value):
    assert readable_words([f"dataset.root={value}"]) == [f"dataset.root={value}"]


@pytest.mark.parametrize("text", ["'", "\\", "\\'", "a\\\\'b", "\\\\"])
def test_quoted_text_is_read_back(text):
    (override,) = OverridesParser.create().parse_overrides([f"outputs={quoted(text)}"])
    assert override.value() == text


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["outputs=a,b"], "quotes: \"outputs='a,b'\""),
        (["outputs=a=1,b"], "outputs='a=1, b'"),
        (["steps=10,20,"], "put each in quotes"),
        (["steps =50"], "did you mean steps?"),
        (["stäps=50"], "did you mean steps?"),
        (["--steps=50"], "did you mean steps?"),
        (["solver=größe"], "does not exist"),
        (["solver=(plms"], "does not exist"),
        (["hydra.job.chdir=true"], "outputs=FOLDER"),
        (["grid=[900,500,-1]", "steps=7"], "leave steps out"),
        (["schedule.beta_end=0.01"], "trained with schedule.beta_end=0.02"),
        (["schedule.timesteps=500"], "trained with schedule.timesteps=1000"),
        (["outputs=~nobody_of_this_name/x"], "write the whole path"),
    ],
)
def test_what_cannot_be_meant_is_one_line(words, cure):
    with pytest.raises(ConfigError) as error:
        compose_runs(words)
    assert cure in str(error.value) and "\n" not in str(error.value)
    assert "is no setting" not in str(error.value)


def test_a_sweep_takes_quoted_values():
    runs = compose_runs(["outputs='lr=1','lr=2, b'"], multirun=True)
    assert [run.outputs for run in runs] == ["lr=1", "lr=2, b"]


def test_home_in_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w=1.pt").touch()
    own = ["model.checkpoint=~/w=1.pt", "model.architecture=digits_linear"]
    (run,) = compose_runs([*own, "outputs='~/a b'", "dataset.root=~", "wandb.project=~x"])
    assert run.model.checkpoint == str(tmp_path / "w=1.pt")
    assert (run.outputs, run.dataset.root) == (str(tmp_path / "a b"), str(tmp_path))
    assert run.wandb.project == "~x"
    assert compose_train(["output=~/t"]).output == str(tmp_path / "t")


def test_a_key_given_twice_is_one_line_and_the_last_counts():
    with pytest.warns(UserWarning, match="steps is given twice.*steps=20, not steps=50") as found:
        (run,) = compose_runs(["steps=50", "seed=1", "steps=20"])
    assert run.steps == 20 and len(found) == 1
    with warnings.catch_warnings(action="error"):
        assert compose_runs(["steps=20", "steps=20", "grid=leading"])[0].steps == 20
        assert compose_runs(["grid=[900,500,-1]", "steps=2"])[0].steps == 2


def test_impossible_recipes():
    with pytest.raises(ConfigError, match=r"recipe.ema=1.5: give a number from 0"):
        compose_train(["recipe.ema=1.5"])
    train = compose_train([])
    wrong = {"ema": (1.0, -0.1, math.nan), "lr": (0.0, math.nan, math.inf, -1.0), "warmup": (-1,)}
    for name, values in wrong.items():
        for value in values:
            recipe = dataclasses.replace(train.recipe, **{name: value})
            with pytest.raises(ConfigError, match=f"recipe.{name}="):
                validate_train(dataclasses.replace(train, recipe=recipe))


def test_inside_another_application_of_hydra(tmp_path):
    (tmp_path / "theirs.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), job_name="theirs", version_base="1.3"):
        outer = GlobalHydra.instance()
        assert compose_runs(["steps=7"])[0].steps == 7
        with pytest.raises(ConfigError):
            compose_runs(["steps=0"])
        assert GlobalHydra.instance() is outer and compose("theirs").a == 1
        (tmp_path / "solver").mkdir()
        assert compose_runs(["steps=7"], folder=str(CONF))[0].steps == 7
        assert compose("theirs").a == 1


def test_in_a_thread_no_signal_is_touched():
    errors = []

    def listen():
        try:
            interrupts.listen()
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert not errors


@pytest.mark.slow
def test_a_link_to_the_command_with_flags_at_the_end(tmp_path):
    (tmp_path / "link.py").symlink_to(ROOT / "run.py")
    small = ["steps=2", "samples=8", "fid=off", "progress=false", "wandb.mode=disabled"]
    words = [*small, "seed=0", "seed=1,2", "outputs=lr=0.1 (größe)", "-m"]
    done = subprocess.run(
        [sys.executable, "link.py", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: seed is given twice") == 1
    found = {path.relative_to(tmp_path).parts[0] for path in Path(tmp_path).rglob("metrics.json")}
    assert found == {"lr=0.1 (größe)"}
