"""The command line: what composes, and what is refused before anything is written."""

import shutil
import subprocess
import sys

import pytest

from pndm.config.build import build_schedule, build_solver
from pndm.config.compose import CONF, compose_runs, compose_train
from pndm.config.schema import ConfigError
from pndm.grids import GRIDS
from pndm.learned import SHIPPED
from pndm.models.registry import WEIGHTS, CheckpointError
from pndm.runs import command, interrupts
from pndm.runs.identity import image_key
from pndm.runs.job import Job
from pndm.schedules import SCHEDULES
from pndm.solvers import SOLVERS

ROOT = CONF.parent
LONG = "x" * 300
"""A name longer than any file's."""


def load(arguments):
    (run,) = compose_runs(arguments)
    Job(run).load_weights()


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_the_default_is_the_embedded_one():
    (run,) = compose_runs([])
    assert (run.dataset.name, run.solver["name"], run.steps) == ("digits", "plms", 50)
    assert (run.model.name, run.samples, run.wandb.mode) == ("digits_linear", 1000, "offline")


@pytest.mark.parametrize("name", options("solver"))
def test_every_solver_file_makes_its_solver(name):
    (run,) = compose_runs([f"solver={name}"])
    made = build_solver(run.solver)
    assert made == SOLVERS[name]()


def test_every_solver_and_schedule_has_its_file():
    assert set(options("solver")) == set(SOLVERS)
    assert set(options("schedule")) == set(SCHEDULES)


@pytest.mark.parametrize("name", options("schedule"))
def test_every_schedule_file_makes_its_schedule(name):
    train = compose_train([f"schedule={name}", "architecture=digits_linear"])
    assert build_schedule(train.schedule) == SCHEDULES[name]()


@pytest.mark.parametrize("name", options("dataset"))
def test_every_dataset_file_composes(name):
    own = ["model.checkpoint=run.py", "model.architecture=ddpm_cifar10", "dataset.root=."]
    (run,) = compose_runs([f"dataset={name}", *(own if name == "folder" else [])])
    assert run.samples == run.dataset.samples
    assert run.batch_size == run.dataset.batch_size


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_file_composes(name):
    assert compose_runs([f"experiment={name}"])


def test_an_experiments_settings_replace_the_defaults_and_the_command_line_replaces_them():
    runs = compose_runs(["experiment=abstract"])
    assert len(runs) == 24 and {run.samples for run in runs} == {1797}
    runs = compose_runs(["experiment=abstract", "solver=ddim,plms", "samples=10", "steps=2"])
    cells = [(run.solver["name"], run.schedule["name"]) for run in runs]
    assert cells == [(s, n) for s in ("ddim", "plms") for n in ("linear", "cosine")]  # as Hydra's
    assert {(run.samples, run.steps) for run in runs} == {(10, 2)}


def test_files_of_ones_own_that_are_none_are_refused(tmp_path):
    for group, content, said in (
        ("solver", "order: 2", "solver.name=None does not exist: give _target_"),
        ("solver", "name: mine", "solver.name=mine does not exist: give _target_"),
        ("solver", "name: [", "mine"),
        ("schedule", "beta_start: 0.1", "schedule.name=None does not exist: there are linear"),
        ("schedule", "name: mine", "schedule.name=mine does not exist: there are linear"),
    ):
        (tmp_path / group).mkdir(exist_ok=True)
        path = tmp_path / group / "mine.yaml"
        path.write_text(content)
        with pytest.raises(ConfigError, match=said) as refused:
            compose_runs([f"{group}=mine"], folder=str(tmp_path))
        assert "\n" not in str(refused.value)
        path.unlink()


def test_home_folders_of_several_plans(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        shutil.copy(SHIPPED / "digits_linear-5.json", tmp_path / f"{name}.json")
    runs = compose_runs(["plan='~/a.json','~/b.json'"], multirun=True)
    assert [run.plan for run in runs] == [str(tmp_path / f"{name}.json") for name in "ab"]


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_is_a_value(name):
    (run,) = compose_runs([f"grid={name}"])
    assert run.grid == name


def test_a_list_of_times_implies_the_steps():
    (run,) = compose_runs(["grid=[990,500,10.5,-1]"])
    assert (run.grid, run.steps) == ([990, 500, 10.5, -1], 3)


def test_the_model_follows_dataset_and_schedule():
    runs = compose_runs(["schedule=linear,cosine"], multirun=True)
    assert [run.model.name for run in runs] == ["digits_linear", "digits_cosine"]
    (run,) = compose_runs(["dataset=cifar10", "schedule=cosine"])
    assert (run.model.name, run.schedule["timesteps"]) == ("iddpm_cifar10", 4000)
    (run,) = compose_runs(["dataset=cifar10", "schedule=cosine", "convention=released"])
    assert (run.model.name, run.schedule["timesteps"]) == ("iddpm_cifar10_released", 1000)


def test_every_known_file_of_weights_is_a_model():
    with pytest.raises(ConfigError, match="there are") as error:
        compose_runs(["model=nope"])
    listed = str(error.value).partition("there are ")[2].split(", ")
    assert set(listed) == {"auto", *WEIGHTS}
    for weights in WEIGHTS.values():
        line = [f"model={weights.name}", f"dataset={weights.dataset}"]
        (run,) = compose_runs([*line, f"schedule={weights.schedule}"])
        assert (run.model.name, run.schedule["timesteps"]) == (weights.name, weights.timesteps)


def test_missing_weights_are_told_before_anything_is_written():
    runs = compose_runs(["dataset=digits,celeba"], multirun=True)
    with pytest.raises(CheckpointError, match="fetch ddim_celeba.* put it at"):
        [Job(run).load_weights() for run in runs]


def test_a_sweep_is_the_product_of_its_values():
    line = ["solver=ddim,plms", "schedule=linear,cosine", "steps=10,20,50"]
    runs = compose_runs(line, multirun=True)
    assert len({(r.solver["name"], r.schedule["name"], r.steps) for r in runs}) == 12


def test_volatile_keys_do_not_name_a_run():
    (plain,) = compose_runs([])
    changed = ["batch_size=7", "device=cpu", "wandb.mode=disabled", "save_images=png"]
    (same,) = compose_runs([*changed, "overwrite=true", "progress=false", "outputs=elsewhere"])
    (other,) = compose_runs(["steps=51"])
    assert image_key(plain, "") == image_key(same, "") != image_key(other, "")


def test_spellings_of_switches():
    assert compose_runs(["save_images=true"])[0].save_images == "npz"
    assert compose_runs(["save_images=false"])[0].save_images == "false"
    assert compose_runs(["fid=off"])[0].fid == compose_runs(["fid=false"])[0].fid == "off"


WRONG = {
    "step=50": "did you mean steps?",
    "+step=50": "did you mean steps?",
    "++steps=50": "did you mean steps?",
    "~steps": "did you mean steps?",
    "+solver.foo=1": "nothing can be added",
    "solver.foo=1": "there is no solver.foo",
    "solver.name=ddim": "solver=NAME",
    "solver=plsm": "did you mean plms?",
    "solver=null": "there are",
    "dataset=digit": "did you mean digits?",
    "model=foo": "there are auto",
    "model=digits_cosine": "trained on schedule=cosine",
    "experiment=foo": "does not exist",
    "experiment=null": "does not exist",
    "experiment=abstract,schedules": "one at a time",
    "solver=glob(dd*)": "name what it stands for",
    "steps=glob(*)": "name what it stands for",
    "samples=4294967297": "has 4294967296 images",
    "samples=99999999999999999999999": "has 4294967296 images",
    "grid=[]": "two at least",
    "grid=[5]": "two at least",
    "outputs=": "outputs is empty",
    "model.checkpoint=": "model.checkpoint is empty",
    "dataset.models.linear=nope": "dataset.models.linear=nope does not exist",
    "dataset.models.linear=digits_cosine": "trained on schedule=cosine, not on linear",
    "dataset.models.linear=fashion_linear": "makes images of fashion_mnist, not of digits",
    f"plan={LONG}": "File name too long",
    "wandb=disabled": "write wandb.mode=",
    "steps=0": "from 1 to 1000",
    "steps=1001": "from 1 to 1000",
    "steps=fifty": "a whole number",
    "steps=1.5": "a whole number",
    "steps=true": "a whole number",
    "steps=": "a whole number",
    "steps=null": "a whole number",
    "samples=0": "at least 1",
    "batch_size=-1": "at least 1",
    "seed=-1": "at least 0",
    "grid=foo": "leading, linspace",
    "grid=[10,20,-1]": "strictly descending",
    "grid=[10,-0.5,-1]": "below 0",
    "grid=[1000,-1]": "[-1, 999]",
    "grid=[true,false]": "a name or a list of times",
    "device=cuda:99": "CUDA",
    "device=gpu": "use auto, cpu, cuda",
    "precision=fp33": "fp32",
    "convention=align": "did you mean aligned?",
    "fid=yes": "auto",
    "save_images=jpg": "npz",
    "overwrite=yes": "true or false",
    "wandb=offline": "wandb",
    "wandb.mode=of": "offline",
    "schedule=quad": "linear (digits_linear), cosine (digits_cosine)",
    "dataset=folder": "model.checkpoint=FILE",
    "model.checkpoint=nowhere.pt": "model.architecture=NAME",
    "solver=ddim,plms": "-m",
    "foo": "key=value",
    "schedule.beta_start=0": "between 0 and 1",
    "schedule.timesteps=fifty": "a whole number of at least 1",
    "schedule.timesteps=[1]": "a whole number of at least 1",
    "schedule.timesteps=0": "a whole number of at least 1",
    "seed=2147483648": "at most 2147483647",
    "dataset.extractor=digit": "did you mean digits?",
    "model.architecture=ddpm_cifar10": "model.checkpoint=FILE",
    "model.format=foo": "there are auto, ddpm",
    "model=ddpm_cifar10": "makes images of cifar10, not of digits",
    "hydra.foo=1": "foo",
    "hydra/launcher=nope": "nope",
}


@pytest.mark.parametrize("argument", WRONG)
def test_wrong_arguments_are_refused_in_one_line_that_names_the_cure(argument):
    with pytest.raises(ConfigError) as error:
        compose_runs([argument])
    assert WRONG[argument] in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


@pytest.mark.parametrize(
    "arguments, cure",
    [
        (["solver=ddim", "solver.eta=2"], "between 0"),
        (["solver=ddim", "solver.eta=much"], "a number"),
        (["solver=ddpm", "solver.variance=medium"], "small or large"),
        (["solver=ddpm", "solver.clip=1"], "true or false"),
        (["solver=pf", "solver.rtol=-1"], "positive"),
        (["grid=karras", "convention=released"], "convention=aligned"),
        (["solver=multistep", "solver.transfer=[a]"], "must be pseudo"),
        (["solver=multistep", "solver.starter=[a]"], "must be pseudo"),
        (["solver=deis", "solver.order=4", "steps=2"], "deis of order 4 needs as many steps"),
        (["launcher=joblib", "hydra.launcher.n_job=2"], "n_job"),
        (["model.checkpoint=run.py", "model.architecture=ddpm_cifar10"], "digits are 1×8×8"),
        (
            [
                *("dataset=folder", "dataset.root=.", "dataset.extractor=digits"),
                *("model.checkpoint=run.py", "model.architecture=ddpm_cifar10"),
            ],
            "digits features are of images of 1×8×8, not of 3×32×32",
        ),
        (
            [
                *("dataset=celeba", "model.checkpoint=run.py"),
                "model.architecture=ddpm_cifar10",
            ],
            "makes images of 3×32×32, those of dataset=celeba are 3×64×64",
        ),
        (["model.checkpoint=nowhere.pt", "model.architecture=digits_linear"], "no such file"),
        ([f"model.checkpoint={LONG}", "model.architecture=digits_linear"], "File name too long"),
        (
            [
                *("model.checkpoint=run.py", "model.architecture=digits_linear"),
                *("schedule.beta_start=0.5", "schedule.beta_end=0.9", "convention=diffusers"),
            ],
            "at time 980, too little to sample from",
        ),
    ],
)
def test_wrong_combinations(arguments, cure):
    with pytest.raises(ConfigError, match=cure):
        compose_runs(arguments)


def test_one_wrong_cell_refuses_the_whole_sweep():
    with pytest.raises(ConfigError, match="not for quad"):
        compose_runs(["schedule=linear,quad", "solver=ddim,plms"], multirun=True)
    with pytest.raises(ConfigError, match="from 1 to 1000"):
        compose_runs(["steps=10,2000"], multirun=True)


@pytest.fixture
def end(monkeypatch, tmp_path):
    """With what the command exits in an empty folder."""

    def run(arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        monkeypatch.setattr(interrupts, "listen", lambda: None)  # to the signals of the tests
        with pytest.raises(SystemExit) as ended:
            command.main()
        return ended.value.code

    return run


@pytest.fixture
def refusal(end, capsys):
    """The line with which the command is refused, having printed nothing else."""

    def run(arguments):
        line = end(arguments)
        assert capsys.readouterr() == ("", "")
        assert isinstance(line, str) and "\n" not in line
        return line

    return run


@pytest.mark.parametrize("argument", ["step=50", "+step=50", "solver=plsm", "steps=0", "seed=-1"])
def test_a_refused_command_line_writes_nothing(argument, refusal, tmp_path):
    assert refusal([argument]).startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["--steps=5"], "settings are key=value"),
        (["--run", "steps=5"], "settings are key=value"),
        (["--help", "solver=plsm"], "did you mean plms?"),
        (["-c", "job", "steps=0"], "from 1 to 1000"),
        (["--resolve"], "--resolve goes with --cfg job"),
        (["--config-dir"], "--config-dir: name a folder"),
        (["--config-dir="], "--config-dir: name a folder"),
        ([f"--config-dir={LONG}"], "File name too long"),
        (["-m", "steps=2,3", "outputs=file"], "file"),
        (["steps=2", "outputs=file"], "file"),
    ],
)
def test_flags_and_outputs_are_checked_too(arguments, cure, refusal, tmp_path):
    (tmp_path / "file").touch()
    assert cure in refusal(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("arguments", [["--help"], ["-c", "job"], ["step=5"], ["solver=plsm"]])
def test_help_and_a_typo_need_no_torch(arguments, tmp_path):
    command = [sys.executable, "-X", "importtime", ROOT / "run.py", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    imported = {line.split("|")[-1].strip() for line in lines if "|" in line}
    assert "hydra" in imported and "torch" not in imported
    if arguments[0].startswith("-"):
        assert done.returncode == 0 and "steps: 50" in done.stdout
    else:
        (error,) = (line for line in lines if not line.startswith("import time:"))
        assert done.returncode == 1 and "did you mean" in error and not done.stdout
    assert not list(tmp_path.iterdir())


def test_help_of_a_method(end, capsys):
    assert end(["--help", "solver=ddim"]) == 0
    assert "steps: 50" in capsys.readouterr().out


def test_weights_of_ones_own_are_read_before_anything_is_written(tmp_path):
    """Truncated, or of another architecture."""
    path = tmp_path / "own.safetensors"
    whole = WEIGHTS["digits_linear"].path.read_bytes()
    own = [f"model.checkpoint={path}", "model.architecture=digits_linear"]
    path.write_bytes(whole)
    load(own)
    with pytest.raises(CheckpointError, match="does not fit"):
        other = ["model.architecture=ddpm_cifar10", "dataset=cifar10"]
        load([*own, *other])
    path.write_bytes(whole[:1000])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load(own)


@pytest.mark.parametrize(
    "arguments", [["recipe.lr=x"], ["schedule=quad"], ["holdouts=true"], ["output="]]
)
def test_training_refuses_what_it_cannot_do(arguments):
    with pytest.raises(ConfigError):
        compose_train(arguments)
