"""Composing and launching: the only user of Hydra.

Nothing here imports torch, so that a typo is answered at once.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pndm._errors import did_you_mean, file_errors, one_line
from pndm.config import words
from pndm.config.schema import SWITCH_VALUES, ConfigError, Fit, Run, Train, typed
from pndm.config.validate import (
    config_errors,
    require_machine,
    validate,
    validate_fit,
    validate_train,
)
from pndm.models.registry import WEIGHTS

_PACKAGE = Path(__file__).resolve().parents[1]

CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())
"""The folder of the YAML files: in an installed package, or next to it in a clone."""

TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number"}
"""What to give where a value of a type is expected."""

LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", None),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "sbatch"),
    "slurm_local": ("hydra_plugins.hydra_submitit_launcher", None),
}
"""The plugin and the program that each preset of conf/launcher needs."""

REMOTE = {"launcher=slurm", "hydra/launcher=submitit_slurm"}
"""Settings with which another machine does the runs, and checks what GPUs it has."""

for _name, _node in (("run", Run), ("train", Train), ("fit", Fit)):
    ConfigStore.instance().store(group="_schema", name=_name, node=_node, package="_global_")
for _name in WEIGHTS:
    ConfigStore.instance().store(group="model", name=_name, node={"name": _name})


def compose_runs(
    arguments: Sequence[str], multirun: bool = False, folder: str | None = None
) -> list[Run]:
    """The valid configurations that `python run.py` with these overrides would run.

    One, or with `multirun` (or an experiment that is a grid) one for each cell of the sweep.
    `folder` holds further options, as `solver/mine.yaml` (Hydra's --config-dir). ConfigError for
    the first thing that is wrong with any of them.
    """
    _require_own_processes("run.py", "python run.py")
    arguments = readable_words(arguments)
    with _conf(folder) as groups:
        overrides = _parse(arguments)
        _check_groups(overrides, groups)
        _check_hydra(arguments, overrides)
        is_grid, added = _experiment_grid(overrides)
        swept = [o.key_or_group for o in overrides if o.is_sweep_override()]
        if swept and not (multirun or is_grid):
            quotes = f", and one value with a comma quotes: \"{swept[0]}='a,b'\""
            raise ConfigError(
                f"{swept[0]} has several values: a sweep needs -m (run.py -m …)"
                f"{quotes if swept[0] in words.TEXTS else ''}"
            )
        composed: dict[tuple[str, ...], DictConfig] = {}
        runs = []
        for cell in _sweep([*added, *overrides]):
            run = typed(_compose("config", cell, groups, composed))
            keys = [o.key_or_group for o in cell]
            words.require_steps_of_grid(keys, run.grid, run.steps)
            words.require_no_method(keys, run.plan)
            runs.append(validate(run))
        if not runs_elsewhere(arguments):
            for run in runs:
                require_machine(run)
        return runs


def runs_elsewhere(arguments: Sequence[str]) -> bool:
    """Whether another machine than this one does the runs of a command."""
    return bool(REMOTE & {word.replace("+", "") for word in arguments})


def compose_train(arguments: Sequence[str]) -> Train:
    """The valid configuration of `python -m pndm.train` with these overrides."""
    _require_own_processes("pndm.train", "python -m pndm.train")
    return validate_train(_compose_one("train", arguments))


def compose_fit(arguments: Sequence[str]) -> Fit:
    """The valid configuration of `python -m pndm.fit` with these overrides."""
    arguments = [words.as_list("learn", word) for word in arguments]
    fit = _compose_one("fit", arguments)
    words.require_steps_of_grid(
        [word.partition("=")[0] for word in arguments], fit.grid, fit.steps
    )
    return validate_fit(fit)


def _require_own_processes(name: str, command: str) -> None:
    """ConfigError where torch's launcher started a command that starts processes itself."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError(f"{name} starts its own processes: {command} processes=N …")


def _compose_one(name: str, arguments: Sequence[str]) -> Any:
    """The configuration of a command that takes one value for each setting."""
    with _conf() as groups:
        overrides = _parse(readable_words(arguments))
        _check_groups(overrides, groups)
        for override in overrides:
            if override.is_sweep_override():
                raise ConfigError(f"{override.key_or_group} has several values: give one")
        return typed(_compose(name, overrides, groups, {}))


def readable_words(arguments: Sequence[str]) -> list[str]:
    """The same settings as Hydra reads them, each key once."""
    return [words.readable(word, _needs_quotes) for word in words.last_of_each(arguments)]


def _needs_quotes(word: str, text: bool) -> bool:
    """Whether Hydra cannot read a word, or takes a text for something else."""
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except HydraException:
        return True
    if override.is_sweep_override() or not text:
        return False
    return isinstance(override.value(), bool | int | float | list | dict)


class Cell(NamedTuple):
    """A job of Hydra's: its number in the sweep, what was launched it with, and its overrides."""

    number: int
    launcher: str
    overrides: list[str]


def launch(task: Callable[[DictConfig], None]) -> None:
    """Let Hydra run `task` as sys.argv says: once, or for each cell of a sweep, by a launcher."""
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()


def current_cell() -> Cell:
    """Which cell a task that `launch` runs is."""
    cfg = HydraConfig.get()
    number = cfg.job.get("num", 0)  # which there is in a sweep only
    return Cell(number, cfg.runtime.choices.launcher, list(cfg.overrides.task))


def from_hydra(cfg: DictConfig) -> Run:
    """The valid configuration of a job that Hydra composed."""
    return validate(typed(cfg))


@contextlib.contextmanager
def _conf(folder: str | None = None) -> Iterator[dict[str, list[str]]]:
    """Hydra at work in conf/ and `folder`: the options of each group.

    What it cannot compose is a ConfigError.
    """
    with config_errors("--config-dir: "), file_errors():
        is_there = folder is None or Path(folder).is_dir()
    if not is_there:
        raise ConfigError(f"--config-dir {folder}: there is no such folder")
    try:
        with _outer_hydra(), initialize_config_dir(str(CONF), version_base="1.3"):
            if folder is not None:
                path = create_config_search_path(str(CONF))
                path.prepend("command-line", f"file://{Path(folder).resolve()}", anchor="schema")
                GlobalHydra.instance().clear()
                Hydra.create_main_hydra2("pndm", path)
            # the loader itself would copy all of its repository for every question
            repository = GlobalHydra.instance().config_loader().repository
            names = set(repository.get_group_options("", ObjectType.GROUP)) - {"hydra", "_schema"}
            yield {name: repository.get_group_options(name) for name in sorted(names)}
    except (HydraException, yaml.YAMLError) as error:
        raise ConfigError(one_line(error)) from None


@contextlib.contextmanager
def _outer_hydra() -> Iterator[None]:
    """Set another application's Hydra aside, inside which this is called, and put it back."""
    instances = Singleton._instances
    kinds = (GlobalHydra, JobRuntime, VersionBase) if GlobalHydra().is_initialized() else ()
    outer = {kind: instances.pop(kind) for kind in kinds if kind in instances}
    try:
        yield
    finally:
        instances.update(outer)


def _parse(arguments: Sequence[str]) -> list[Override]:
    overrides = []
    for argument in arguments:
        try:
            (override,) = OverridesParser.create().parse_overrides([argument])
        except HydraException:
            raise _unreadable(argument) from None
        if is_hydra_override(argument):
            continue
        if isinstance(override.value(), Glob):
            raise ConfigError(f"{argument}: name what it stands for, as in solver=ddim,plms")
        if override.is_add() or override.is_force_add() or override.is_delete():
            bare = override.key_or_group
            raise ConfigError(
                f"{argument}: nothing can be added or removed{did_you_mean(bare, _known_keys())}"
            )
        overrides.append(override)
    return overrides


def _unreadable(argument: str) -> ConfigError:
    """What is wrong with a word that is no setting for Hydra, quoted or not."""
    key, equals, _ = argument.partition("=")
    if not equals:
        return ConfigError(f"{argument!r} is no setting: write key=value")
    hint = did_you_mean(key.strip(" -+~"), _known_keys()) or ", key=value without blanks"
    return ConfigError(f"{argument}: {key!r} is no name of a setting{hint}")


def is_hydra_override(argument: str) -> bool:
    """Whether it is a setting of Hydra's own: hydra.launcher.n_jobs=2, hydra/launcher=joblib."""
    return re.split("[./=]", argument.lstrip("+~"))[0] == "hydra"


def _check_hydra(arguments: Sequence[str], overrides: list[Override]) -> None:
    """Have Hydra compose its own settings, if any are given, with the launcher's."""
    own = [argument for argument in arguments if is_hydra_override(argument)]
    if own:
        chosen = [o.input_line for o in overrides if o.key_or_group in ("launcher", "experiment")]
        cfg = compose("config", [*chosen, *own], return_hydra_config=True)
        if cfg.hydra.job.chdir:
            raise ConfigError(
                "hydra.job.chdir=true would hide the records of a run from the next command: "
                "leave it out, outputs=FOLDER says where they go"
            )


def _check_groups(overrides: list[Override], groups: dict[str, list[str]]) -> None:
    for override in overrides:
        options = groups.get(override.key_or_group)
        if options is None:
            continue
        for value in _values(override):
            if value not in options:
                raise ConfigError(
                    f"{override.key_or_group}={value} does not exist"
                    f"{did_you_mean(str(value), options)}; there are {', '.join(options)}"
                )
            if override.key_or_group == "launcher":
                _check_launcher(value)


def _check_launcher(name: str) -> None:
    plugin, program = LAUNCHERS.get(name, (None, None))
    if plugin is not None:
        try:
            import_module(plugin)
        except ImportError:
            raise ConfigError(
                f"launcher={name} needs a plugin: pip install 'pndm[cluster]'"
            ) from None
    if program is not None and shutil.which(program) is None:
        raise ConfigError(
            f"launcher={name}: there is no {program} here, run this where Slurm is, "
            "or use launcher=joblib or slurm_local"
        )


def _values(override: Override) -> list[Any]:
    if override.is_sweep_override():
        return [value.strip("'\"") for value in override.sweep_string_iterator()]
    return [override.value()]


def _experiment_grid(overrides: list[Override]) -> tuple[bool, list[Override]]:
    """Whether an experiment is a grid, and the overrides of that grid.

    Later words of the command line replace them in their places, as in Hydra.
    """
    chosen = [o for o in overrides if o.key_or_group == "experiment" and o.value()]
    if not chosen:
        return False, []
    if len(chosen) > 1 or chosen[0].is_sweep_override():
        raise ConfigError("experiment: one at a time, as it may be a sweep of its own")
    cfg = compose("config", [chosen[0].input_line], return_hydra_config=True)
    params = OmegaConf.to_container(cfg.hydra.sweeper.params or OmegaConf.create({}))
    lines = [f"{k}={v}" for k, v in params.items()]
    return str(cfg.hydra.mode).endswith("MULTIRUN"), OverridesParser.create().parse_overrides(
        lines
    )


def _sweep(overrides: list[Override]) -> Iterator[list[Override]]:
    """Each cell's overrides: the product of what has several values."""
    (batch,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    parser = OverridesParser.create()
    return (parser.parse_overrides(cell) for cell in batch)


def _compose(
    name: str,
    overrides: list[Override],
    groups: dict[str, list[str]],
    composed: dict[tuple[str, ...], DictConfig],
) -> DictConfig:
    """A configuration with these overrides; `composed` keeps it by its choices from groups."""
    chosen = tuple(o.input_line for o in overrides if o.key_or_group in groups)
    if chosen not in composed:
        composed[chosen] = compose(name, list(chosen))
    cfg = composed[chosen].copy()
    for override in overrides:
        if override.key_or_group not in groups:
            _set(cfg, override)
    return cfg


def _set(cfg: DictConfig, override: Override) -> None:
    key, known = override.key_or_group, list(_flat(cfg))
    if key not in known:
        raise ConfigError(f"{override.input_line}: there is no {key}{did_you_mean(key, known)}")
    old, new = OmegaConf.select(cfg, key), override.value()
    if key.endswith(".name"):
        raise ConfigError(f"{override.input_line}: choose it by {key.removesuffix('.name')}=NAME")
    if (
        isinstance(old, (bool, int, float))
        and key not in (*SWITCH_VALUES, "processes")
        and not is_compatible(new, old)
    ):
        raise ConfigError(f"{override.input_line}: give {TYPE_WORDS[type(old)]}")
    try:
        OmegaConf.update(cfg, key, new)
    except OmegaConfBaseException:
        parts = f", write {key}.{next(iter(old))}=…" if isinstance(old, DictConfig) else ""
        raise ConfigError(f"{override.input_line}: this is no value for {key}{parts}") from None


def is_compatible(new: Any, old: bool | int | float) -> bool:
    """Whether a value can replace another: whole numbers are numbers, booleans are not."""
    if isinstance(new, bool) or isinstance(old, bool):
        return isinstance(new, bool) and isinstance(old, bool)
    return isinstance(new, int) or isinstance(new, float) and isinstance(old, float)


def _flat(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in cfg:
        name = f"{prefix}{key}"
        yield name
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _flat(node, f"{name}.")


def _known_keys() -> list[str]:
    return [*_flat(compose("config"))]
