"""The command line: typed configurations, composed by Hydra and checked before anything runs.

Nothing here imports torch, so that a typo is answered at once.
"""

import contextlib
import dataclasses
import difflib
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONF = Path(__file__).resolve().parent.parent / "conf"
"""The folder of the YAML files."""

VOLATILE = (
    "batch_size",
    "compile",
    "device",
    "outputs",
    "overwrite",
    "processes",
    "progress",
    "save_images",
    "wandb",
)
"""Keys that say how a run is made, not what comes out of it: they do not name its folder."""

WORDS = {bool: "true or false", int: "a whole number", float: "a number"}
"""What to give where a value of a type is expected."""

LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", None),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "sbatch"),
    "slurm_local": ("hydra_plugins.hydra_submitit_launcher", None),
}
"""The plugin and the program that each preset of conf/launcher needs."""

EXTRACTORS = ("digits", "inception")
"""The features that FID is computed from (`pndm.evaluation`)."""

MOST_SAMPLES = 2**32
"""Images of a seed set: image i of seed set s is drawn from the seed s·2³² + i."""

MOST_SEED = 2**63 // MOST_SAMPLES - 1
"""Seed sets whose images' seeds have 63 bits."""

SPELLINGS = {
    **dict.fromkeys(
        ("fid", "kid", "prc"), {"auto": "auto", "true": "auto", "off": "off", "false": "off"}
    ),
    "compile": {"auto": "auto", "max": "max", "off": "off", "false": "off"},
    "save_images": {"npz": "npz", "true": "npz", "png": "png", "false": "false", "off": "false"},
}
"""Settings that may be written as words or as booleans."""


class ConfigError(ValueError):
    """A command line that cannot be run; its message is one line and names the cure."""


EXPECTED = (ValueError, ArithmeticError, OSError, MemoryError)
"""Errors that have a cause outside the code, and are told in one line."""


@dataclass
class Dataset:
    """conf/dataset: what is sampled, how it is judged, and the weights for each schedule."""

    name: str = MISSING
    samples: int = MISSING
    batch_size: int = MISSING
    extractor: str = MISSING
    flip: bool = False
    root: str | None = None
    models: dict[str, str] = field(default_factory=dict)


@dataclass
class Model:
    """conf/model: weights by name, or a checkpoint of one's own with its architecture."""

    name: str = MISSING
    checkpoint: str | None = None
    architecture: str | None = None
    format: str = "auto"
    prediction: Any = "noise"


@dataclass
class Wandb:
    """The mirror on Weights & Biases."""

    mode: str = "offline"
    project: str = "pndm"
    entity: str | None = None


@dataclass
class Run:
    """conf/config.yaml: `python run.py`."""

    solver: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    dataset: Dataset = field(default_factory=Dataset)
    model: Model = field(default_factory=Model)
    steps: int = MISSING
    grid: Any = MISSING
    convention: str = MISSING
    samples: int = MISSING
    seed: int = MISSING
    batch_size: int = MISSING
    device: str = MISSING
    precision: str = MISSING
    compile: Any = "auto"
    processes: Any = MISSING
    fid: Any = MISSING
    kid: Any = MISSING
    prc: Any = MISSING
    save_images: Any = MISSING
    overwrite: bool = MISSING
    progress: bool = MISSING
    outputs: str = MISSING
    wandb: Wandb = field(default_factory=Wandb)

    def identity(self) -> dict[str, Any]:
        """What determines the images and their FID: everything but the volatile keys."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in VOLATILE}


@dataclass
class Recipe:
    """conf/recipe: how a network is trained."""

    iterations: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    warmup: int = MISSING
    decay: bool = MISSING
    ema: float = MISSING
    log_every: int = MISSING
    checkpoint_every: int = MISSING


@dataclass
class Train:
    """conf/train.yaml: `python -m pndm.train`."""

    dataset: Dataset = field(default_factory=Dataset)
    schedule: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    architecture: str = MISSING
    seed: int = MISSING
    holdout: bool = MISSING
    device: str = MISSING
    workers: int = MISSING
    output: str = MISSING


for _name, _node in (("run", Run), ("train", Train)):
    ConfigStore.instance().store(group="_schema", name=_name, node=_node, package="_global_")


def cells(arguments: list[str], multirun: bool = False) -> list[Run]:
    """The checked configurations that `python run.py` with these overrides would run.

    One, or with `multirun` (or an experiment that is a grid) one for each cell of the sweep.
    ConfigError for the first thing that is wrong with any of them.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError("run.py starts its own processes: python run.py processes=N …")
    with _conf():
        overrides = _parse(arguments)
        _check_groups(overrides)
        _check_hydra(arguments, overrides)
        grid, chosen = _experiment_grid(overrides)
        multirun = multirun or grid
        swept = [o.key_or_group for o in overrides if o.is_sweep_override()]
        if swept and not multirun:
            raise ConfigError(f"{swept[0]} has several values: a sweep needs -m (run.py -m …)")
        composed: dict[tuple[str, ...], DictConfig] = {}
        return [
            validate(_typed(_compose("config", cell, composed)))
            for cell in _sweep([*chosen, *overrides])
        ]


def compose_train(arguments: list[str]) -> Train:
    """The checked configuration of `python -m pndm.train` with these overrides."""
    from pndm.models.registry import ARCHITECTURES

    with _conf():
        overrides = _parse(arguments)
        _check_groups(overrides)
        for override in overrides:
            if override.is_sweep_override():
                raise ConfigError(f"{override.key_or_group} has several values: give one")
        cfg = _compose("train", overrides, {})
    train: Train = _typed(cfg)
    if train.architecture == "auto":
        name = train.schedule["name"]
        if name not in train.dataset.models:
            raise ConfigError(f"{_no_model(train.dataset, name)}, or give architecture=NAME")
        train = dataclasses.replace(train, architecture=train.dataset.models[name])
    train = dataclasses.replace(train, schedule=_timesteps(train.schedule))
    _one_of("architecture", train.architecture, tuple(ARCHITECTURES))
    if not train.output:
        raise ConfigError("output is empty: name where the weights go, or leave it out")
    if train.output == "auto":
        name = train.architecture + ("_holdout" if train.holdout else "")
        train = dataclasses.replace(train, output=f"outputs/train/{name}")
    for name in ("iterations", "batch_size", "log_every", "checkpoint_every"):
        _at_least(f"recipe.{name}", getattr(train.recipe, name), 1)
    _at_least("seed", train.seed, 0)
    check_device(train.device)
    return train


def validate(run: Run) -> Run:
    """A run with its choices made (weights, spellings); ConfigError if it cannot be made."""
    from pndm.grids import times
    from pndm.models.registry import ARCHITECTURES, WEIGHTS
    from pndm.solvers import require_order

    model = _model(run)
    settings = _timesteps(run.schedule, WEIGHTS.get(model.name))
    timesteps = settings["timesteps"]
    grid = list(run.grid) if isinstance(run.grid, (list, tuple)) else run.grid
    if isinstance(grid, list):
        if len(grid) < 2:
            raise ConfigError(f"grid={grid}: a list of times has two at least")
        run = dataclasses.replace(run, steps=len(grid) - 1)
    if not 1 <= run.steps <= timesteps:
        raise ConfigError(f"steps={run.steps}: give a whole number from 1 to {timesteps}")
    _at_least("samples", run.samples, 1)
    if run.samples > MOST_SAMPLES:
        raise ConfigError(f"samples={run.samples}: a seed set has {MOST_SAMPLES} images")
    _at_least("batch_size", run.batch_size, 1)
    _at_least("seed", run.seed, 0)
    if run.seed > MOST_SEED:
        raise ConfigError(f"seed={run.seed}: give a whole number of at most {MOST_SEED}")
    if not run.outputs:
        raise ConfigError("outputs is empty: name the folder of all runs")
    _one_of("dataset.extractor", run.dataset.extractor, EXTRACTORS)
    _one_of("convention", run.convention, ("aligned", "released", "diffusers"))
    _check_precision(run.precision, run.device)
    _one_of("model.prediction", model.prediction, ("noise", "data", "velocity"))
    _one_of("wandb.mode", run.wandb.mode, ("online", "offline", "disabled"))
    spelt = {key: _spelling(key, getattr(run, key)) for key in SPELLINGS}
    for key in ("kid", "prc"):
        if spelt[key] == "auto" and spelt["fid"] == "off":
            raise ConfigError(f"{key}=auto needs the features of fid=auto, which is off")
    if run.processes != "auto" and (type(run.processes) is not int or run.processes < 1):
        raise ConfigError(f"processes={run.processes}: give a whole number of at least 1, or auto")
    check_device(run.device)

    if spelt["fid"] == "auto" and run.dataset.extractor == "digits":
        known = model.architecture or WEIGHTS[model.name].architecture
        channels = ARCHITECTURES[known].in_channels
        if channels != 1:
            raise ConfigError(f"digits features take 1 channel, not {channels}: use fid=off")

    try:
        method = solver(run.solver)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"solver {run.solver['name']}: {error}") from None
    try:
        with warnings.catch_warnings(action="ignore"):  # told when it is run
            nodes = times(grid, run.steps, schedule(settings, run.convention))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"schedule={run.schedule['name']} grid={run.grid}: {error}") from None
    try:
        require_order(method, len(nodes) - 1)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    made: dict[str, Any] = {"schedule": settings, "model": model, "grid": grid, **spelt}
    return dataclasses.replace(run, **made)


def require_weights(runs: Iterable[Run]) -> None:
    """CheckpointError in one line if weights are missing, damaged or of another architecture."""
    from pndm.models.registry import find

    models = {(m.checkpoint, m.name, m.architecture, m.format) for m in (r.model for r in runs)}
    for name in {name for checkpoint, name, *_ in models if checkpoint is None}:
        find(name).require()
    from pndm.models import load

    for checkpoint, name, architecture, form in models:
        load(checkpoint or name, architecture=architecture, format=form)


def schedule(settings: dict[str, Any], convention: str = "aligned"):
    """The schedule that `conf/schedule` describes, in a convention."""
    from pndm.schedules import SCHEDULES

    settings = dict(settings)
    name = settings.pop("name")
    if name != "vp":
        settings["convention"] = convention
    elif convention != "aligned":
        raise ValueError(f"vp is continuous and has no table to shift: convention={convention}")
    return SCHEDULES[name](**settings)


def solver(settings: dict[str, Any]):
    """The solver that `conf/solver` describes."""
    from pndm.solvers import SOLVERS

    settings = dict(settings)
    return SOLVERS[settings.pop("name")](**settings)


def _timesteps(settings: dict[str, Any], weights: Any = None) -> dict[str, Any]:
    """Schedule settings with the T that the weights were trained with, 1000 where unknown."""
    known = weights.timesteps if weights else 1000
    given = settings.get("timesteps")
    if given is not None and (type(given) is not int or given < 1):
        raise ConfigError(f"schedule.timesteps={given}: give a whole number of at least 1")
    return {**settings, "timesteps": known if given is None else given}


def device(name: str) -> str:
    """`auto` means CUDA where there is one, and the CPU otherwise."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def as_yaml(run: Run) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))


def load(path: Path) -> Run:
    """The configuration that `as_yaml` wrote."""
    return _typed(OmegaConf.merge(OmegaConf.structured(Run), OmegaConf.load(path)))


def processes(run: Run) -> int:
    """The number of processes of a run; `auto` is one for each graphics card."""
    if run.processes != "auto":
        return int(run.processes)
    import torch

    return max(1, torch.cuda.device_count())


def deal(run: Run, number: int) -> Run:
    """A run of job `number` on this machine's graphics cards, dealt out in turn where they are."""
    if run.device != "auto" or device("auto") == "cpu":
        return run
    import torch

    return dataclasses.replace(run, device=f"cuda:{number % torch.cuda.device_count()}")


def from_hydra(cfg: DictConfig) -> Run:
    """The checked configuration of a job that Hydra composed."""
    return validate(_typed(cfg))


def one_line(error: BaseException) -> str:
    """An error as one line for people."""
    return " ".join(str(error).split())


@contextlib.contextmanager
def _conf() -> Iterator[None]:
    """Hydra at work in conf/; what it cannot compose is a ConfigError."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    except HydraException as error:
        raise ConfigError(one_line(error)) from None


def _groups() -> dict[str, list[str]]:
    """The options of each group: conf's own folders and files."""
    folders = (path for path in sorted(CONF.iterdir()) if path.is_dir())
    return {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in folders}


def _parse(arguments: list[str]) -> list[Override]:
    overrides = []
    for argument in arguments:
        try:
            (override,) = OverridesParser.create().parse_overrides([argument])
        except HydraException:
            raise ConfigError(f"{argument!r} is no setting: write key=value") from None
        if _of_hydra(argument):
            continue
        if isinstance(override.value(), Glob):
            raise ConfigError(f"{argument}: name what it stands for, as in solver=ddim,plms")
        if override.is_add() or override.is_force_add() or override.is_delete():
            bare = override.key_or_group
            raise ConfigError(
                f"{argument}: nothing can be added or removed{_closest(bare, _known_keys())}"
            )
        overrides.append(override)
    return overrides


def _of_hydra(argument: str) -> bool:
    """Whether it is a setting of Hydra's own: hydra.launcher.n_jobs=2, hydra/launcher=joblib."""
    return re.split("[./=]", argument.lstrip("+~"))[0] == "hydra"


def _check_hydra(arguments: list[str], overrides: list[Override]) -> None:
    """Have Hydra compose its own settings, if any are given, beside the launcher's."""
    own = [argument for argument in arguments if _of_hydra(argument)]
    if own:
        chosen = [o.input_line for o in overrides if o.key_or_group in ("launcher", "experiment")]
        compose("config", [*chosen, *own], return_hydra_config=True)


def _check_groups(overrides: list[Override]) -> None:
    groups = _groups()
    for override in overrides:
        options = groups.get(override.key_or_group)
        if options is None:
            continue
        for value in _values(override):
            if value not in options:
                raise ConfigError(
                    f"{override.key_or_group}={value} does not exist"
                    f"{_closest(str(value), options)}; there are {', '.join(options)}"
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
    """Whether an experiment is a grid, and the overrides of that grid not given on the line."""
    chosen = [o for o in overrides if o.key_or_group == "experiment" and o.value()]
    if not chosen:
        return False, []
    if len(chosen) > 1 or chosen[0].is_sweep_override():
        raise ConfigError("experiment: one at a time, as it may be a sweep of its own")
    cfg = compose("config", [chosen[0].input_line], return_hydra_config=True)
    params = OmegaConf.to_container(cfg.hydra.sweeper.params or OmegaConf.create({}))
    given = {o.key_or_group for o in overrides}
    lines = [f"{k}={v}" for k, v in params.items() if k not in given]
    return str(cfg.hydra.mode).endswith("MULTIRUN"), OverridesParser.create().parse_overrides(
        lines
    )


def _sweep(overrides: list[Override]) -> Iterator[list[Override]]:
    """Each cell's overrides: the product of what has several values."""
    (batch,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    parser = OverridesParser.create()
    return (parser.parse_overrides(cell) for cell in batch)


def _compose(
    name: str, overrides: list[Override], composed: dict[tuple[str, ...], DictConfig]
) -> DictConfig:
    """A configuration with these overrides; `composed` keeps it by its choices from groups."""
    groups = _groups()
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
        raise ConfigError(f"{override.input_line}: there is no {key}{_closest(key, known)}")
    old, new = OmegaConf.select(cfg, key), override.value()
    if key.endswith(".name"):
        raise ConfigError(f"{override.input_line}: choose it by {key.removesuffix('.name')}=NAME")
    if (
        isinstance(old, (bool, int, float))
        and key not in (*SPELLINGS, "processes")
        and not _like(new, old)
    ):
        raise ConfigError(f"{override.input_line}: give {WORDS[type(old)]}")
    try:
        OmegaConf.update(cfg, key, new)
    except OmegaConfBaseException:
        parts = f", write {key}.{next(iter(old))}=…" if isinstance(old, DictConfig) else ""
        raise ConfigError(f"{override.input_line}: this is no value for {key}{parts}") from None


def _like(new: Any, old: bool | int | float) -> bool:
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


def _closest(word: str, known: list[str]) -> str:
    """ ", did you mean …?" where something known is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def _typed(cfg: DictConfig) -> Any:
    try:
        return OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from None


def _model(run: Run) -> Model:
    """A checkpoint of one's own, weights by name, or those that (dataset, schedule) means."""
    from pndm.models.registry import ARCHITECTURES, FORMATS, HUB, WEIGHTS

    model, name = run.model, run.schedule["name"]
    _one_of("model.format", model.format, ("auto", *FORMATS))
    known = [name for name in run.dataset.models.values() if name in WEIGHTS]
    if model.checkpoint is not None:
        if not model.checkpoint:
            raise ConfigError("model.checkpoint is empty: name a file")
        if model.architecture is None:
            raise ConfigError(
                f"model.checkpoint={model.checkpoint} needs model.architecture=NAME, "
                f"one of {', '.join(ARCHITECTURES)}"
            )
        _one_of("model.architecture", model.architecture, tuple(ARCHITECTURES))
        sizes = [ARCHITECTURES[WEIGHTS[name].architecture].image for name in known]
        size = ARCHITECTURES[model.architecture].image
        if sizes and size not in sizes:
            raise ConfigError(
                f"model.architecture={model.architecture} makes images of {_size(size)}, "
                f"those of dataset={run.dataset.name} are {_size(sizes[0])}"
            )
        if not model.checkpoint.startswith(HUB) and not Path(model.checkpoint).exists():
            raise ConfigError(f"model.checkpoint={model.checkpoint}: there is no such file")
        return dataclasses.replace(model, name=Path(model.checkpoint).stem)
    for key in ("architecture", "format"):
        if getattr(model, key) != getattr(Model, key):
            raise ConfigError(f"model.{key} is for a model.checkpoint=FILE of your own")
    if model.prediction != "noise":
        raise ConfigError(
            f"model.prediction={model.prediction} is for a model.checkpoint of your own: "
            "the weights with a name predict noise"
        )
    if model.name == "auto":
        if name not in run.dataset.models:
            raise ConfigError(
                f"{_no_model(run.dataset, name)}: use one of these, "
                "or model.checkpoint=FILE model.architecture=NAME"
            )
        chosen = run.dataset.models[name]
        _one_of(f"dataset.models.{name}", chosen, tuple(WEIGHTS))
        if run.convention == "released" and f"{chosen}_released" in WEIGHTS:
            chosen = f"{chosen}_released"
        return dataclasses.replace(model, name=chosen)
    weights = WEIGHTS[model.name]
    if weights.dataset != run.dataset.name and run.dataset.name != "folder":
        raise ConfigError(
            f"model={model.name} makes images of {weights.dataset}, not of {run.dataset.name}"
        )
    if weights.schedule != name:
        raise ConfigError(
            f"model={model.name} was trained on schedule={weights.schedule}, not on {name}"
        )
    return model


def _size(image: tuple[int, ...]) -> str:
    return "×".join(map(str, image))


def _no_model(dataset: Dataset, schedule: str) -> str:
    """No weights for this pair: which there are."""
    known = ", ".join(f"{name} ({weights})" for name, weights in dataset.models.items())
    return f"dataset={dataset.name} has weights for schedule={known or 'none'}, not for {schedule}"


def check_device(name: str) -> None:
    """ConfigError where there is no such device here."""
    if name in ("auto", "cpu"):
        return
    if name.split(":")[0] != "cuda":
        raise ConfigError(f"device={name}: use auto, cpu, cuda or cuda:N")
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(f"device={name}: this machine has no CUDA, use device=cpu or auto")


def _check_precision(precision: str, where: str) -> None:
    _one_of("precision", precision, ("fp32", "tf32", "bf16", "fp16", "fp64"))
    if precision in ("tf32", "fp16") and device(where) == "cpu":
        raise ConfigError(
            f"precision={precision} needs a graphics card: a CPU has fp32, bf16 and fp64"
        )


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key}={value}: give a whole number of at least {least}")


def _one_of(key: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        hint = _closest(str(value), list(options))
        raise ConfigError(f"{key}={value} does not exist{hint}; there are {', '.join(options)}")


def _spelling(key: str, value: Any) -> str:
    """The one spelling of a setting that may be written as a word or as a boolean."""
    word = str(value).lower()
    _one_of(key, word, tuple(SPELLINGS[key]))
    return SPELLINGS[key][word]
