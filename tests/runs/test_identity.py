"""The identity of a run: settings, weights and code; not comments, docstrings or layout."""

import ast
import shutil
import sys
from pathlib import Path

import pytest

import pndm
from pndm.config.compose import compose_runs
from pndm.runs import identity

SOURCE = '''"""A module."""

FACTOR = 2
"""A constant."""


def double(x: int) -> int:
    """Twice a number."""
    return FACTOR * x
'''


def documented(source):
    """The same code with a comment in every line and another docstring in every place."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            text = ast.Expr(ast.Constant("Other words."))
            has_docstring = ast.get_docstring(node) is not None
            node.body[: int(has_docstring)] = [text]
    lines = ast.unparse(ast.fix_missing_locations(tree)).splitlines()
    return "\n".join(f"{line}\n{' ' * 7}# a comment\n" for line in lines)


def test_comments_docstrings_and_layout_are_not_code():
    assert identity.syntax(documented(SOURCE)) == identity.syntax(SOURCE)
    assert identity.syntax(SOURCE.replace("FACTOR = 2", "FACTOR = 3")) != identity.syntax(SOURCE)
    assert identity.syntax(SOURCE.replace("* x", "+ x")) != identity.syntax(SOURCE)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the package, whose code is hashed instead."""
    folder = Path(pndm.__file__).parent
    shutil.copytree(folder, tmp_path / "pndm", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(identity, "__file__", str(tmp_path / "pndm" / "runs" / "identity.py"))
    identity.code_hash.cache_clear()
    yield tmp_path / "pndm"
    identity.code_hash.cache_clear()


def name():
    identity.code_hash.cache_clear()
    (cfg,) = compose_runs([])
    return identity.run_name(cfg, "weights", ["extractor", "reference"])


def test_a_comment_and_a_docstring_in_every_module_change_nothing(copy):
    before = name()
    for path in copy.rglob("*.py"):
        path.write_text(documented(path.read_text()))
    assert name() == before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("solvers/gradient.py", "b=(3 / 2,), past=(-1 / 2,)", "b=(2.0,), past=(-1.0,)"),
        ("schedules.py", "4e-5", "5e-5"),
        ("config/build.py", 'name != "vp"', 'name == "vp"'),
        ("probability_flow.py", "10_000", "20_000"),
        ("runs/batches.py", "done += len(batch)", "done += 1"),
        ("data/images.py", "127.5", "127.0"),
        ("models/unet.py", "10000", "10001"),
        ("evaluation/statistics.py", "BLOCKS = 20", "BLOCKS = 21"),
        ("runs/measure.py", '"fid": 2', '"fid": 3'),
    ],
)
def test_changed_code_makes_another_run(copy, module, old, new):
    before = name()
    path = copy / module
    source = path.read_text()
    assert old in source
    path.write_text(source.replace(old, new))
    assert name() != before


def test_what_only_shows_or_distributes_a_run_does_not_name_it(copy):
    before = name()
    for module in ("runs/record.py", "runs/processes.py", "cost.py", "demo/page.py"):
        path = copy / module
        path.write_text(path.read_text() + "\nADDED = 1\n")
    assert name() == before


def test_settings_name_a_run_and_how_it_is_made_does_not():
    def keys(*arguments):
        (cfg,) = compose_runs(list(arguments))
        return identity.image_key(cfg, "w"), identity.run_name(cfg, "w", None)

    image, record = keys()
    assert keys("batch_size=3", "processes=2", "save_images=png") == (image, record)
    more_images, more = keys("samples=2000")
    assert more_images == image and more != record
    other, _ = keys("solver=ddim")
    assert other != image
    (cfg,) = compose_runs([])
    assert identity.image_key(cfg, "other weights") != image
    assert identity.run_name(cfg, "w", ["e", "r"]) != record


MINE = """
from pndm.solvers import Solver
from pndm.solvers.gradient import AB3, RK4
from pndm.solvers.transfer import Pseudo


def mine(starters=3):
    return Solver("mine", Pseudo(), AB3, (RK4,) * starters)


def broken():
    raise KeyError("oops")


def number():
    return 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a module of solvers and options for them; compose a run with these."""
    module = f"solvers_of_{tmp_path.name}"
    (tmp_path / "solver").mkdir()
    (tmp_path / f"{module}.py").write_text(MINE)
    for target in ("mine", "broken", "number", "nothing"):
        (tmp_path / "solver" / f"{target}.yaml").write_text(f"_target_: {module}.{target}\n")
    (tmp_path / "solver" / "two.yaml").write_text(f"_target_: {module}.mine\nstarters: 2\n")
    (tmp_path / "solver" / "lost.yaml").write_text("_target_: nowhere_at_all.mine\n")
    (tmp_path / "solver" / "more.yaml").write_text(f"_target_: {module}.mine\nfoo: 2\n")
    monkeypatch.syspath_prepend(tmp_path)

    def compose(name, *arguments):
        (cfg,) = compose_runs([f"solver={name}", "steps=6", *arguments], folder=str(tmp_path))
        return cfg

    yield compose
    sys.modules.pop(module, None)


def test_a_solver_of_ones_own_is_part_of_what_names_a_run(own, tmp_path):
    cfg = own("mine")
    assert cfg.solver["name"] == "mine"
    (path,) = tmp_path.glob("solvers_of_*.py")
    key = identity.image_key(cfg, "w")
    assert identity.image_key(own("two"), "w") != key
    path.write_text(MINE.replace("AB3,", "AB3, ") + "# a comment\n")
    assert identity.image_key(cfg, "w") == key
    path.write_text(MINE.replace('"mine", Pseudo()', '"mine", Pseudo(0.1)'))
    assert identity.image_key(cfg, "w") != key


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "broken: KeyError: 'oops'"),
        ("number", "number returned a int, but must return"),
        ("nothing", "has no function nothing"),
        ("lost", "No module named 'nowhere_at_all'"),
        ("more", "unexpected keyword argument 'foo'"),
    ],
)
def test_a_solver_that_cannot_be_made_is_one_line(own, capsys, name, said):
    with pytest.raises(pndm.config.schema.ConfigError) as error:
        own(name)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert ("Traceback" in capsys.readouterr().err) == (name == "broken")
