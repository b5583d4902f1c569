"""The README and the other pages: their Python examples run, their commands and links exist."""

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pndm import learned
from pndm.config.build import build_solver
from pndm.config.compose import compose_fit, compose_runs, compose_train
from pndm.demo import __main__ as demo
from pndm.evaluation import __main__ as evaluation
from pndm.models import registry
from pndm.runs.command import SWEEPS, split

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/running.md")
README = (ROOT / "README.md").read_text()


def blocks(language):
    """The blocks of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def first_words(code):
    """What a block is called in the list of tests."""
    return next(line for line in code.splitlines() if "import" not in line and line).split()[-1]


def commands(page):
    """The words of every `python …` in a line or a code span of a page, without its comment."""
    text = (ROOT / page).read_text()
    spans = re.findall(r"`((?:\.venv/bin/)?python [^`]*)`", text)
    lines = re.findall(r"^ {4,}((?:\.venv/bin/)?python .*)$", text, re.MULTILINE)
    for part in sorted({part for line in [*spans, *lines] for part in line.split("&&")}):
        python, *words = shlex.split(part, comments=True)
        if python.endswith("python") and not {"…", "venv"} & set(words):
            yield words


def small_pipeline():
    """A pipeline of diffusers with random weights."""
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("code", blocks("python"), ids=first_words)
def test_python_examples_run(code, monkeypatch, tmp_path, capsys):
    if "from_pretrained" in code:
        pipeline = small_pipeline()
        monkeypatch.setattr(type(pipeline), "from_pretrained", lambda name: pipeline)
    served = []
    monkeypatch.setattr(demo, "main", served.append)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(compile(code, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    if "samples.png" in code:
        assert (tmp_path / "samples.png").exists()
        assert f"```\n{printed}```" in README, f"the printed plan is:\n{printed}"
    if "images = pipe" in code:
        assert len(namespace["images"]) == 4
    assert served == ([["--host", "0.0.0.0"]] if "app.py" in code else [])


@pytest.fixture
def folder_of_examples(monkeypatch, tmp_path):
    """A folder with the files that the examples name, as the current one."""
    (code,) = (code for code in blocks("python") if code.startswith("# my_module.py"))
    (settings,) = blocks("yaml")
    (tmp_path / "my_module.py").write_text(code)
    (tmp_path / "my_configs" / "solver").mkdir(parents=True)
    (tmp_path / "my_configs" / "solver" / "mine.yaml").write_text(settings)
    (tmp_path / "my.safetensors").touch()
    fitted = tmp_path / "outputs" / "fit" / "digits_linear-ipndm-5"
    fitted.mkdir(parents=True)
    shutil.copy(learned.SHIPPED / "digits_linear-5.json", fitted / "plan.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_module", None)


def test_a_solver_is_what_its_yaml_names(folder_of_examples):
    settings = yaml.safe_load(Path("my_configs/solver/mine.yaml").read_text())
    assert build_solver(settings).nfe(20) == 26
    assert build_solver({**settings, "starters": 3}).nfe(20) == 29


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_right(page, folder_of_examples, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: program)  # Slurm is not here
    wrong = {}
    for words in commands(page):
        if "--config-dir" in words:
            continue  # the next test
        try:
            check(*words)
        except (Exception, SystemExit) as error:
            wrong[" ".join(words)] = error
    assert not wrong


def test_run_py_takes_a_solver_from_a_folder(folder_of_examples):
    (words,) = (words for words in commands("README.md") if "--config-dir" in words)
    check(*words)


def check(script, *words):
    """Settings compose, options parse, modules exist; nothing is run."""
    if script == "run.py":
        flags, folder, overrides = split(words)
        if "--help" not in flags:
            compose_runs(overrides, any(flag in SWEEPS for flag in flags), folder)
        return
    module, *options = words
    assert importlib.util.find_spec(module), module
    options = [word for word in options if not word.startswith("seconds=")]
    if module == "pndm.cost":
        compose_runs(options)
    elif module == "pndm.train":
        compose_train(options)
    elif module == "pndm.fit":
        compose_fit(options)
    elif module == "pndm.evaluation":
        evaluation.parser().parse_args(options)
    elif module == "pndm.models" and options[0] == "fetch":
        assert all(registry.find(name) for name in options[1:] if name != "NAME")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        name, _, anchor = target.partition("#")
        if name.startswith("https://"):
            continue
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {title.lower().replace(",", "").replace(" ", "-") for title in titles}
