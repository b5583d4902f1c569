"""From settings to values: the schedule and the solver that a configuration describes."""

import inspect
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pndm._errors import PndmError, one_line
from pndm.config.schema import ConfigError, Run

TARGET = "_target_"
"""The key of a solver's own factory: `_target_: my_module.my_solver`."""


def build_schedule(settings: dict[str, Any], convention: str = "aligned"):
    """The schedule that `conf/schedule` describes, in a convention."""
    from pndm.schedules import SCHEDULES

    settings = dict(settings)
    name = settings.pop("name")
    if name != "vp":
        settings["convention"] = convention
    elif convention != "aligned":
        raise ConfigError(f"vp is continuous and has no table to shift: convention={convention}")
    return SCHEDULES[name](**settings)


def build_solver(settings: dict[str, Any]):
    """The solver that `conf/solver` describes: by name, by a `_target_`, or that of a `plan`.

    ConfigError for options that it does not take, and for a target that does not exist, raises
    (its traceback is printed) or returns something else than a solver.
    """
    from pndm.plans import load
    from pndm.solvers import SOLVERS, ProbabilityFlow, Solver

    if settings.get("plan"):
        return load(settings["plan"]).solver
    options = {key: value for key, value in settings.items() if key not in ("name", TARGET)}
    target = settings.get(TARGET)
    if target is None and settings.get("name") not in SOLVERS:
        raise ConfigError(
            f"solver.name={settings.get('name')} does not exist: give _target_: "
            f"my_module.my_solver, or a name of {', '.join(SOLVERS)}"
        )
    name = f"_target_={target}" if target else f"solver {settings['name']}"
    factory = _target(target) if target else SOLVERS[settings["name"]]
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ConfigError(f"{name}: {error}") from None
    if target is None:
        return factory(**options)
    solver = _theirs(name, lambda: factory(**options))
    if not isinstance(solver, Solver | ProbabilityFlow):
        raise ConfigError(
            f"{name} returned a {type(solver).__name__}, but must return a pndm.solvers.Solver"
        )
    return solver


def build_method(run: Run) -> dict[str, Any]:
    """How a run samples, as arguments of `pndm.sample`: a learned plan, or solver and grid.

    ConfigError where the file of a plan has changed since the run began.
    """
    from pndm.plans import load

    if run.plan is not None:
        plan = load(run.plan, run.override)
        if plan.learned is None or plan.learned.digest != run.solver.get("digest"):
            raise ConfigError(f"plan={run.plan} has changed since the run began: begin it again")
        return {"plan": plan}
    return {"solver": build_solver(run.solver), "steps": run.steps, "grid": run.grid}


def solver_code(settings: dict[str, Any]) -> str | None:
    """The source of the module of a solver's `_target_`; None where it has none."""
    target = settings.get(TARGET)
    if target is None:
        return None
    file = inspect.getsourcefile(sys.modules[_target(target).__module__])
    return Path(file).read_text(encoding="utf-8") if file else None


def _target(path: Any) -> Callable[..., Any]:
    """The function at my_module.my_solver; modules in the current folder are found."""
    name, _, function = str(path).rpartition(".")
    if not name:
        raise ConfigError(f"_target_={path}: name a function as my_module.my_solver")
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))
    module = _theirs(f"_target_={path}", lambda: import_module(name))
    if not callable(getattr(module, function, None)):
        raise ConfigError(f"_target_={path}: {name} has no function {function}")
    return getattr(module, function)


def _theirs(name: str, call: Callable[[], Any]) -> Any:
    """What a user's own code returns; what it raises is shown whole, and is one line to us."""
    try:
        return call()
    except PndmError as error:
        raise ConfigError(f"{name}: {error}") from None
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{error.name}" in name
        if not missing:
            traceback.print_exc()
        raise ConfigError(f"{name}: {type(error).__name__}: {one_line(error)}") from None
