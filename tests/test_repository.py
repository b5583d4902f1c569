"""The repository itself: one set of versions, the import walls, docstrings, nothing local."""

import ast
import graphlib
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import pndm

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [f"3.{minor}" for minor in range(30) if f"3.{minor}" in SpecifierSet(">=3.11,<3.14")]
SYSTEMS = {
    "linux": {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"},
    "mac": {"sys_platform": "darwin", "platform_machine": "arm64", "platform_system": "Darwin"},
}

OWNERS = {
    "hydra": {"pndm/config/compose.py"},
    "hydra_plugins": {"pndm/config/compose.py"},
    "omegaconf": {"pndm/config/compose.py", "pndm/config/schema.py", "pndm/runs/command.py"},
    "wandb": {"pndm/runs/tracking.py"},
    "torch_fidelity": {"pndm/evaluation/features.py", "pndm/evaluation/metrics.py"},
    "torchode": {"pndm/probability_flow.py"},
    "diffusers": {
        f"pndm/integrations/diffusers/{name}.py"
        for name in ("__init__", "config", "pipeline", "scheduler")
    },
    "gradio": {"pndm/demo/page.py"},
}
"""Packages that only these files import."""

SUPPORT = ("_devices", "_distributed", "_download", "_errors", "_files", "_memory")
SUPPORT += ("_provenance", "_tf32")
"""Private support, which imports nothing of the package but itself."""

BELOW = {
    "data": (),
    "models": ("data", "sampling"),
    "evaluation": ("data", "models"),
    "config": ("models",),
    "runs": ("data", "models", "evaluation", "config"),
    "integrations": (),
}
"""What each folder may import, besides the method, the support and itself."""


def asked(extra):
    """What pyproject asks for with an extra, and with the extras that it names in turn."""
    texts = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    for requirement in map(Requirement, texts):
        if requirement.name == PROJECT["name"]:
            for other in requirement.extras:
                yield from asked(other)
        else:
            yield requirement


def relative(paths):
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def tracked():
    """The files under version control; none outside a clone."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


PACKAGE = relative((ROOT / "pndm").rglob("*.py"))
CODE = [*PACKAGE, "run.py", *relative((ROOT / "experiments").rglob("*.py"))]


# One set of versions


def test_pythons():
    """pyproject, the Makefile, environment.yml and ruff agree on the Pythons."""
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    makefile = (ROOT / "Makefile").read_text()
    named = re.search(r"^PYTHON = python3 (.*)$", makefile, re.MULTILINE)[1].split()
    assert sorted(named) == [f"python{version}" for version in PYTHONS]
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in makefile


def test_versions():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert pndm.__version__ == PROJECT["version"] == citation["version"]


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_pins_what_pyproject_asks_for(python, system):
    """Every requirement has one version there, which satisfies it."""
    machine = SYSTEMS[system] | {"python_version": python, "python_full_version": f"{python}.5"}
    pins = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        pin = Requirement(line)
        (exact,) = pin.specifier
        assert exact.operator == "==", line
        if pin.marker is None or pin.marker.evaluate(machine):
            assert canonicalize_name(pin.name) not in pins, line
            pins[canonicalize_name(pin.name)] = exact.version
    for requirement in [*asked(None), *asked("test")]:
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin and requirement.specifier.contains(pin, prereleases=True), requirement


def test_environment_yml_installs_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, installs = environment["dependencies"]
    assert (python.removeprefix("python=") in PYTHONS, pip) == (True, "pip")
    assert installs == {"pip": ["--constraint requirements.lock", "--editable .[test]"]}
    assert "--constraint requirements.lock --editable '.[test]'" in (ROOT / "Makefile").read_text()


def test_the_readme_names_what_the_makefile_has():
    readme, makefile = ((ROOT / name).read_text() for name in ("README.md", "Makefile"))
    for target, variable in re.findall(
        r"^    make ([\w-]+)(?: ([A-Z_]+)=)?", readme, re.MULTILINE
    ):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        assert not variable or re.search(rf"^{variable} =", makefile, re.MULTILINE), variable


# The import walls


def imports(name):
    """The dotted names that a file imports, in functions too; of `from a import b`, a.b."""
    package = name.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def module_of(name):
    """pndm/runs/job.py as pndm.runs.job; a package by its own name."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(name): name for name in PACKAGE}


def imported_modules(name, of=MODULES):
    """The modules of the package that a file imports; of `from a import b` a.b where it is one."""
    for target in imports(name):
        while target not in of and "." in target:
            target = target.rpartition(".")[0]
        if target in of and target != module_of(name):
            yield target


def room(module):
    """The part of the package that a module belongs to: pndm.runs.job is of `runs`."""
    return module.split(".")[1] if "." in module else "pndm"


METHOD_FILES = [name for name in PACKAGE if room(module_of(name)) in pndm.METHOD]


def test_the_method_needs_torch_alone():
    """And torchode in the adaptive method; nothing of what stands around it."""
    for name, target in ((file, target) for file in METHOD_FILES for target in imports(file)):
        outside = {"torch", "torchode"} if name == "pndm/probability_flow.py" else {"torch"}
        top, *rest = target.split(".")
        if top == "pndm":
            assert rest and rest[0] in (*pndm.METHOD, "_errors"), f"{name} imports {target}"
        else:
            assert top in outside | sys.stdlib_module_names, f"{name} imports {target}"


def test_the_method_is_what_mypy_is_strict_with():
    overrides = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    (strict,) = (entry["module"] for entry in overrides if "disallow_untyped_defs" in entry)
    files = {module for module in map(module_of, METHOD_FILES)}
    assert {module.removesuffix(".*") for module in strict} == {
        module for module in files if module.count(".") == 1
    }


def test_the_import_graph_has_no_circle():
    """Neither between files nor between the folders of the package, in functions too."""
    graphs = [{module: set(imported_modules(name)) for module, name in MODULES.items()}]
    rooms = {}
    for module, targets in graphs[0].items():
        # a package's own `__init__` may offer what its files define
        inside = {target for target in targets if room(target) != room(module)}
        rooms.setdefault(room(module), set()).update(map(room, inside))
    rooms.pop("pndm")  # it offers everything, lazily
    graphs.append({name: targets - {"pndm"} for name, targets in rooms.items()})
    for graph in graphs:
        graph.pop("pndm", None)
        sorted_ = graphlib.TopologicalSorter({k: v - {"pndm"} for k, v in graph.items()})
        sorted_.prepare()


def test_each_wall_has_its_doors():
    for name, imported in ((file, target) for file in CODE for target in imports(file)):
        top = imported.split(".")[0]
        assert name in OWNERS.get(top, {name}), f"{name} imports {imported}"
        if name.startswith("pndm/"):
            assert top not in ("experiments", "conf", "run", "tests"), f"{name} imports {imported}"


def test_nothing_imports_upwards():
    for name in PACKAGE:
        here = room(module_of(name))
        for target in imported_modules(name):
            there = room(target)
            if here in SUPPORT:
                assert there in ("pndm", *SUPPORT), f"{name} imports {target}"
            elif here in BELOW and there not in ("pndm", here, *SUPPORT, *pndm.METHOD):
                assert there in BELOW[here], f"{name} imports {target}"


@pytest.mark.parametrize("module", ["pndm", "pndm.config"])
def test_imports_without_torch(module):
    """So that a typo is reported at once."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_module_for_leftovers():
    assert not [name for name in tracked() if Path(name).name == "utils.py"]


def test_the_wheel_holds_every_package_and_the_configuration():
    folders = {Path(name).parent for name in PACKAGE if name.endswith("__init__.py")}
    conf = ROOT / "conf"
    groups = {conf, *(path for path in conf.iterdir() if path.is_dir())}
    expected = {folder.as_posix().replace("/", ".") for folder in folders}
    expected |= {"pndm." + ".".join(path.relative_to(ROOT).parts) for path in groups}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert set(tools["setuptools"]["packages"]) == expected
    assert tools["setuptools"]["package-dir"] == {"pndm.conf": "conf"}
    assert (ROOT / "pndm" / "py.typed").is_file()


# Docstrings, and nothing local


def test_what_is_public_is_described():
    for name in PACKAGE:
        tree = ast.parse((ROOT / name).read_text())
        public = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        ]
        silent = [node.name for node in public if not ast.get_docstring(node)]
        assert not silent, name
        assert ast.get_docstring(tree) or not tree.body, f"{name} has no docstring"


LOCAL = re.compile(r"(?<![\w.\-])/(?:work|opt|root)/")
REGISTRY = re.compile(r"pypi[.]org|pythonhosted[.]org|npmjs[.](?:org|com)|deb[.]debian[.]org")


def test_nothing_names_a_machine():
    """No path of the machine it was written on, and no package registry."""
    for name in tracked():
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:  # not text
            continue
        for pattern in (LOCAL, REGISTRY):
            assert not pattern.search(text), f"{name}: {pattern.search(text)}"


# The tests' own walls


def test_tests_are_unplugged():
    with pytest.raises(OSError, match="do not use the network"):
        socket.create_connection(("example.org", 80), timeout=1)
    with pytest.raises(OSError, match="do not use the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
