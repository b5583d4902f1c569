"""Runs that are killed, shared among processes, started twice, and sent elsewhere."""

import json
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from commands import Fork, assert_same, finish, result, times, wait_for

from pndm._files import file_lock, write_atomic, write_json
from pndm.config.compose import LAUNCHERS, compose_runs
from pndm.config.schema import ConfigError
from pndm.runs import command
from pndm.runs.run import run_experiment
from pndm.runs.shards import Store

RUN = ["wandb.mode=disabled", "save_images=npz"]
DDIM = [*RUN, "solver=ddim", "steps=4", "samples=2000"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(Fork(DDIM, folder))
    return result(folder)


@pytest.mark.slow
def test_twenty_kills_leave_the_result_as_it_would_have_been(undisturbed, tmp_path):
    chance, seen = random.Random(0), {}
    for _ in range(20):
        before = times(tmp_path, "status.json")
        process = Fork(DDIM, tmp_path)
        while process.poll() is None and times(tmp_path, "status.json") == before:
            time.sleep(0.02)
        process.wait(chance.uniform(0, 1.5))
        process.kill()
        process.communicate()
        shards = times(tmp_path, "images/*.npz")
        assert seen.items() <= shards.items()  # none was lost or made again
        seen = shards
    finish(Fork(DDIM, tmp_path))
    assert seen.items() <= times(tmp_path, "images/*.npz").items()
    assert_same(result(tmp_path), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_the_number_of_processes_does_not_show(undisturbed, tmp_path, processes):
    out = finish(Fork([*DDIM, f"processes={processes}"], tmp_path))
    assert "a worker failed" not in out
    assert_same(result(tmp_path), undisturbed)


@pytest.mark.slow
def test_the_shards_of_a_killed_worker_are_made_by_others(undisturbed, tmp_path):
    process = Fork([*DDIM, "processes=2"], tmp_path)
    victim = None
    while victim is None:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
        if list(tmp_path.rglob("images/*.npz")):
            children = psutil.Process(process.pid).children(recursive=True)
            workers = [c for c in children if "pndm.runs.worker" in c.cmdline() and is_worker(c)]
            victim = workers[0] if workers else None
    victim.send_signal(signal.SIGKILL)
    finish(process)
    assert_same(result(tmp_path), undisturbed)


def is_worker(process):
    return "torch.distributed.run" not in process.cmdline()


@pytest.mark.slow
def test_of_two_at_once_one_works_and_the_other_reports(tmp_path):
    first = Fork(DDIM, tmp_path)
    wait_for(lambda: list(tmp_path.rglob("status.json")), first)
    second = Fork(DDIM, tmp_path)
    _, err = second.communicate()
    assert second.returncode == 1 and "another process" in err and "Traceback" not in err
    finish(first)


STEP = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "1"}
"""Slurm's environment variables for both tasks of a step."""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_tasks_of_a_slurm_step_share_the_work(undisturbed, tmp_path, processes):
    arguments = [*DDIM, f"processes={processes}"]
    tasks = [Fork(arguments, tmp_path, SLURM_PROCID=task, **STEP) for task in "01"]
    instance = {}
    while any(task.poll() is None for task in tasks):
        shards = times(tmp_path, "shards/*/*/*.npz")
        assert instance.items() <= shards.items()  # none was made twice
        instance = shards
        time.sleep(0.02)
    for task in tasks:
        assert "record: " in finish(task).splitlines()[-1]
    assert_same(result(tmp_path), undisturbed)


@pytest.mark.slow
def test_a_task_takes_over_what_another_one_began(undisturbed, tmp_path):
    first = Fork(DDIM, tmp_path, SLURM_PROCID="0", **STEP)
    wait_for(lambda: list(tmp_path.rglob("status.json")), first)
    second = Fork(DDIM, tmp_path, SLURM_PROCID="1", **STEP)
    wait_for(lambda: list(tmp_path.rglob("images/*.npz")), first)
    first.kill()
    first.communicate()
    finish(second)
    assert_same(result(tmp_path), undisturbed)


def test_tasks_that_would_overwrite_one_another_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    (cfg,) = compose_runs(["overwrite=true", f"outputs={tmp_path}"])
    with pytest.raises(ValueError, match="use a single task"):
        run_experiment(cfg)
    assert not list(tmp_path.iterdir())


def test_a_refusal_is_a_failure_though_an_older_record_is_there(monkeypatch, tmp_path, capsys):
    words = ["solver=ddim", "steps=2", "samples=4", "fid=off", "device=cpu", "progress=false"]
    words += ["wandb.mode=disabled", f"outputs={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    assert command.run_command(words) == 0
    (lock,) = tmp_path.rglob("run.lock")
    monkeypatch.setattr(sys, "argv", ["run.py", *words, "overwrite=true"])
    with file_lock(lock.with_suffix("")):
        assert command.run_command([*words, "overwrite=true"]) == 1
    assert "is locked by another process: wait for it" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    script = (
        "import resource, sys; from pndm.config.compose import compose_runs\n"
        "from pndm.models.unet import UNet; from pndm.runs.run import run_experiment\n"
        "UNet.forward = lambda self, x, t: x\n"
        "(cfg,) = compose_runs(sys.argv[1:]); run_experiment(cfg)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    common = ["solver=ddim", "steps=2", "wandb.mode=disabled", "progress=false", "device=cpu"]
    peaks = []
    for samples in (1000, 100_000):
        arguments = [*common, f"samples={samples}", f"outputs={tmp_path}/{samples}"]
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout.split()[-1]))
    assert abs(peaks[1] - peaks[0]) < 100, peaks


def test_torchrun_by_hand_is_told_the_right_command(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ConfigError, match="processes=N"):
        compose_runs([])


@pytest.mark.parametrize("launcher", ["joblib", "slurm_local"])
def test_a_missing_plugin_is_named(monkeypatch, launcher):
    monkeypatch.setitem(LAUNCHERS, launcher, ("hydra_plugins.not_there", None))
    with pytest.raises(ConfigError, match=r"pndm\[cluster\]"):
        compose_runs([f"launcher={launcher}"])


def test_slurm_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="there is no sbatch"):
        compose_runs(["launcher=slurm"])


@pytest.mark.parametrize("processes", ["0", "-1", "two", "1.5", "true"])
def test_a_wrong_number_of_processes_is_refused(processes):
    with pytest.raises(ConfigError, match="processes="):
        compose_runs([f"processes={processes}"])


def test_a_lock_is_held_by_one_and_freed_with_its_process(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from pndm._files import file_lock\n"
        "with file_lock(Path(sys.argv[1])) as mine: print(mine, flush=True); time.sleep(60)"
    )
    path = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline().strip() == "True"
    with file_lock(path) as own:
        assert not own
    holder.kill()
    holder.wait()
    with file_lock(path) as own:
        assert own


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})

    def break_off(partial):
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomic(path, break_off)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="NaN|nan|Out of range"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_later(tmp_path, monkeypatch):
    small = ["samples=20", "steps=2", "progress=false", f"outputs={tmp_path}"]
    (cfg,) = compose_runs([*RUN, "device=cpu", *small])
    save = Store.save

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "save", full)
    with pytest.raises(OSError, match="No space"):
        run_experiment(cfg)
    (status,) = tmp_path.rglob("status.json")
    assert json.loads(status.read_text())["status"] == "failed"
    monkeypatch.setattr(Store, "save", save)
    assert json.loads(run_experiment(cfg).read_text())["status"] == "complete"
