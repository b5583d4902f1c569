"""Which runs can be made: every setting checked, every choice resolved, before anything runs."""

import contextlib
import dataclasses
import inspect
import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pndm._devices import check_device, gpu_count, resolve_device
from pndm._errors import FileError, InputError, did_you_mean, file_errors
from pndm._files import expand_user
from pndm.config.build import build_schedule, build_solver
from pndm.config.schema import (
    CLASSIFIER_IMAGES,
    EXTRACTORS,
    IMAGES_PER_SEED,
    MAX_SEED,
    SWITCH_VALUES,
    ConfigError,
    Dataset,
    Fit,
    Model,
    Run,
    Train,
    Wandb,
)

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16", "fp64")
WANDB_MODES = ("online", "offline", "disabled")
MIN_HUBER = 1e-6
"""The square of a smaller one is lost beside that of a distance."""


def validate(run: Run) -> Run:
    """A run with its choices made (weights, spellings); ConfigError if it cannot be made."""
    from pndm.grids import times
    from pndm.models.registry import ARCHITECTURES, WEIGHTS
    from pndm.solvers import require_order

    require_name(run.schedule)
    run = with_homes(run)
    run = dataclasses.replace(run, wandb=resolve_wandb(run.wandb))
    run, table = with_plan(run)
    model, settings = resolve_network(run)
    timesteps = settings["timesteps"]
    grid, steps = resolve_grid(run)
    if steps < 1 and isinstance(grid, list):
        raise ConfigError(f"grid={grid}: a list of times has two at least")
    run = dataclasses.replace(run, steps=steps)
    if not 1 <= run.steps <= timesteps:
        raise ConfigError(f"steps={run.steps}: give a whole number from 1 to {timesteps}")
    require_at_least("samples", run.samples, 1)
    if run.samples > IMAGES_PER_SEED:
        raise ConfigError(f"samples={run.samples}: a seed set has {IMAGES_PER_SEED} images")
    require_at_least("batch_size", run.batch_size, 1)
    require_at_least("seed", run.seed, 0)
    if run.seed > MAX_SEED:
        raise ConfigError(f"seed={run.seed}: give a whole number of at most {MAX_SEED}")
    if not run.outputs:
        raise ConfigError("outputs is empty: name the folder of all runs")
    require_one_of("dataset.extractor", run.dataset.extractor, EXTRACTORS)
    require_one_of("precision", run.precision, PRECISIONS)
    switches = {key: _switch(key, getattr(run, key)) for key in SWITCH_VALUES}
    for key in ("kid", "prc"):
        if switches[key] == "auto" and switches["fid"] == "off":
            raise ConfigError(f"{key}=auto needs the features of fid=auto, which is off")
    require_processes(run.processes)

    if switches["fid"] == "auto" and run.dataset.extractor in CLASSIFIER_IMAGES:
        known = model.architecture or WEIGHTS[model.name].architecture
        image, wanted = ARCHITECTURES[known].image, CLASSIFIER_IMAGES[run.dataset.extractor]
        if image != wanted:
            raise ConfigError(
                f"{run.dataset.extractor} features are of images of {_size(wanted)}, "
                f"not of {_size(image)}: use fid=off"
            )

    with config_errors(f"solver {run.solver.get('name')}: "):
        method = build_solver(run.solver)
    with (
        config_errors(f"schedule={run.schedule['name']} grid={run.grid}: "),
        warnings.catch_warnings(action="ignore"),  # shown when it is run
    ):
        schedule = build_schedule(settings, run.convention)
        nodes = times(grid, run.steps, schedule) if table is None else ()
    with config_errors():
        if table is None:
            require_order(method, len(nodes) - 1)
        else:
            table.require_schedule(schedule, model.prediction)
    _require_own_noise(model, settings)
    choices: dict[str, Any] = {"schedule": settings, "model": model, "grid": grid, **switches}
    choices["solver"] = {**run.solver, "name": _name(run.solver, method.name)}
    return dataclasses.replace(run, **choices)


def require_name(schedule: dict[str, Any]) -> None:
    """ConfigError where the YAML file of a schedule does not say which it is."""
    from pndm.schedules import SCHEDULES

    if schedule.get("name") not in SCHEDULES:
        raise ConfigError(
            f"schedule.name={schedule.get('name')} does not exist: there are "
            f"{', '.join(SCHEDULES)}"
        )


def require_machine(run: Run | Train) -> None:
    """ConfigError if this machine cannot do the run: its GPUs are where it runs, not submits."""
    with config_errors():
        check_device(run.device)
    if run.precision in ("tf32", "fp16") and resolve_device(run.device) == "cpu":
        raise ConfigError(f"precision={run.precision} needs a GPU: a CPU has fp32, bf16 and fp64")


def with_plan(run: Run) -> tuple[Run, Any]:
    """A run with the solver and the times of its learned plan, and that plan, if it has one."""
    from pndm.learned import FIRST_SEED_SET, read

    if run.plan is None:
        if run.override:
            raise ConfigError("override=true is for a plan=FILE, and there is none")
        return run, None
    with config_errors():
        table = read(run.plan, run.override)
    if run.seed >= FIRST_SEED_SET:
        raise ConfigError(f"seed={run.seed}: from {FIRST_SEED_SET} on seeds are for fitting plans")
    grid = [node.time for node in table.nodes]
    solver = {"name": "learned", "plan": run.plan, "digest": table.digest}
    return dataclasses.replace(run, solver=solver, grid=grid, steps=len(grid) - 1), table


def with_homes(run: Run) -> Run:
    """The same run with ~ replaced by the user's home in its paths."""
    model, data = run.model, run.dataset
    with config_errors():
        if model.checkpoint and model.checkpoint.startswith("~"):
            model = dataclasses.replace(model, checkpoint=str(expand_user(model.checkpoint)))
        if data.root and data.root.startswith("~"):
            data = dataclasses.replace(data, root=str(expand_user(data.root)))
        outputs = str(expand_user(run.outputs)) if run.outputs[:1] == "~" else run.outputs
        plan = str(expand_user(run.plan)) if run.plan and run.plan[0] == "~" else run.plan
    return dataclasses.replace(run, model=model, dataset=data, outputs=outputs, plan=plan)


def resolve_wandb(settings: Wandb) -> Wandb:
    """Settings of W&B: those that were given, else its own environment's, else the defaults."""
    mode = settings.mode
    if mode is None:
        off = os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on")
        mode = "disabled" if off else os.environ.get("WANDB_MODE", "").lower() or "offline"
        mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)
        require_one_of("WANDB_MODE", mode, WANDB_MODES)
    require_one_of("wandb.mode", mode, WANDB_MODES)
    project = settings.project or os.environ.get("WANDB_PROJECT") or "pndm"
    return Wandb(mode, project, settings.entity or os.environ.get("WANDB_ENTITY") or None)


@contextlib.contextmanager
def config_errors(setting: str = "") -> Iterator[None]:
    """Raise an input or file error of the block as ConfigError, behind the setting of it."""
    try:
        yield
    except ConfigError:
        raise
    except (InputError, FileError) as error:
        raise ConfigError(f"{setting}{error}") from None


def _name(settings: dict[str, Any], name: str) -> str:
    """What a solver is called in a record: as in `conf/solver`, or as its own factory says."""
    name = settings.get("name", name)
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ConfigError(f"solver {name!r}: a name has letters, digits and _ . + - only")
    return name


def validate_train(train: Train) -> Train:
    """A training with its choices made; ConfigError if it cannot be done."""
    from pndm.models.registry import ARCHITECTURES

    require_name(train.schedule)
    if train.architecture == "auto":
        name = train.schedule["name"]
        if name not in train.dataset.models:
            raise ConfigError(f"{no_weights_for(train.dataset, name)}, or give architecture=NAME")
        train = dataclasses.replace(train, architecture=train.dataset.models[name])
    train = dataclasses.replace(train, schedule=with_timesteps(train.schedule))
    require_one_of("architecture", train.architecture, tuple(ARCHITECTURES))
    if not train.output:
        raise ConfigError("output is empty: name where the weights go, or leave it out")
    if train.output == "auto":
        name = train.architecture + ("_holdout" if train.holdout else "")
        train = dataclasses.replace(train, output=f"outputs/train/{name}")
    with config_errors():
        train = dataclasses.replace(train, output=str(expand_user(train.output)))
    for name in ("iterations", "batch_size", "log_every", "checkpoint_every"):
        require_at_least(f"recipe.{name}", getattr(train.recipe, name), 1)
    require_at_least("recipe.warmup", train.recipe.warmup, 0)
    if not 0 < train.recipe.lr < math.inf:
        raise ConfigError(f"recipe.lr={train.recipe.lr}: give a positive number")
    if not 0 <= train.recipe.ema < 1:
        raise ConfigError(
            f"recipe.ema={train.recipe.ema}: give a number from 0 (no average) to below 1"
        )
    require_one_of("precision", train.precision, ("fp32", "tf32", "bf16"))
    train = dataclasses.replace(train, compile=_switch("compile", train.compile))
    require_one_of("compile", train.compile, ("off", "auto"))
    require_at_least("workers", train.workers, 0)
    require_at_least("seed", train.seed, 0)
    require_processes(train.processes)
    require_machine(train)
    return dataclasses.replace(train, processes=training_processes(train))


def training_processes(train: Train) -> int:
    """How many processes share a batch; ConfigError where they find no GPU or no image each."""
    if train.processes == 1:
        return 1
    on_gpus = resolve_device(train.device) == "cuda"
    if train.processes == "auto":
        return max(1, min(gpu_count(), train.recipe.batch_size)) if on_gpus else 1
    if train.device.startswith("cuda:"):
        raise ConfigError(f"device={train.device} is one GPU: processes=N needs device=cuda")
    if on_gpus and train.processes > gpu_count():
        raise ConfigError(
            f"processes={train.processes}: this machine has {gpu_count()} GPUs, give at most one "
            "process for each"
        )
    if train.processes > train.recipe.batch_size:
        raise ConfigError(
            f"processes={train.processes}: recipe.batch_size={train.recipe.batch_size} has not "
            "an image for each, give fewer processes"
        )
    return int(train.processes)


def validate_fit(fit: Fit) -> Fit:
    """A fit with its choices made; ConfigError if it cannot be done."""
    from pndm.grids import times
    from pndm.learned import FIRST_SEED_SET, PARTS
    from pndm.plans import require_multistep
    from pndm.solvers import require_order

    require_name(fit.schedule)
    model, settings = resolve_network(fit)
    grid, steps = resolve_grid(fit)
    if steps < 2:
        raise ConfigError(
            f"steps={steps}: give a whole number of at least 2, with one step there is no history"
        )
    learn = fit.learn.split(",") if isinstance(fit.learn, str) else list(fit.learn)
    learn = sorted({str(part).strip() for part in learn})
    for part in learn:
        require_one_of("learn", part, (*PARTS, "nothing"))
    if not learn or "nothing" in learn[:-1]:
        raise ConfigError(f"learn={','.join(learn)}: give some of {', '.join(PARTS)}, or nothing")
    learn = [part for part in learn if part != "nothing"]
    if fit.convention == "released" and "times" in learn:
        raise ConfigError("convention=released truncates times: use learn=weights,clock")
    with config_errors(f"solver {fit.solver.get('name')}: "):
        solver = build_solver(fit.solver)
    with config_errors():
        require_multistep(solver)
        check_device(fit.device)
    with config_errors(f"schedule={fit.schedule['name']} grid={fit.grid}: "):
        nodes = times(grid, steps, build_schedule(settings, fit.convention))
    with config_errors():
        require_order(solver, len(nodes) - 1)
    _require_own_noise(model, settings)
    for name in ("batch_size", "images", "validation", "teacher", "validate_every"):
        require_at_least(name, getattr(fit, name), 1 if name == "validate_every" else 2)
    require_at_least("iterations", fit.iterations, 0)
    require_at_least("seed", fit.seed, 0)
    most = (MAX_SEED - FIRST_SEED_SET - 1) // 2
    if fit.seed > most:
        raise ConfigError(f"seed={fit.seed}: give a whole number of at most {most}")
    positive = {f"lr.{key}": value for key, value in dataclasses.asdict(fit.lr).items()}
    for name, value in {**positive, "moments": fit.moments, "radius": fit.radius}.items():
        if not 0 <= value < math.inf or (name in positive and not value):
            raise ConfigError(f"{name}={value}: give a {'positive ' * (name in positive)}number")
    if fit.huber and not MIN_HUBER <= fit.huber < math.inf:
        raise ConfigError(f"huber={fit.huber}: give 0, or a number of at least {MIN_HUBER:g}")
    if fit.batch_size > fit.images:
        raise ConfigError(f"batch_size={fit.batch_size}: there are only images={fit.images}")
    output = fit.output
    if output == "auto":
        output = f"outputs/fit/{model.name}-{fit.solver['name']}-{steps}"
    if not output:
        raise ConfigError("output is empty: name where the plan goes, or leave it out")
    with config_errors():
        output = str(expand_user(output))
    return dataclasses.replace(
        fit, schedule=settings, model=model, grid=grid, steps=steps, learn=learn, output=output
    )


def resolve_network(cfg: Run | Fit) -> tuple[Model, dict[str, Any]]:
    """The model and the schedule that it was trained with; ConfigError if they do not fit."""
    from pndm.models.registry import WEIGHTS

    model = _model(cfg)
    settings = with_timesteps(cfg.schedule, WEIGHTS.get(model.name))
    require_as_trained(model, settings)
    require_one_of("convention", cfg.convention, ("aligned", "released", "diffusers"))
    require_one_of("model.prediction", model.prediction, ("noise", "data", "velocity"))
    return model, settings


def resolve_grid(cfg: Run | Fit) -> tuple[Any, int]:
    """The grid, a list of times as such, and the number of its steps."""
    grid = list(cfg.grid) if isinstance(cfg.grid, (list, tuple)) else cfg.grid
    return grid, len(grid) - 1 if isinstance(grid, list) else cfg.steps


def with_timesteps(settings: dict[str, Any], weights: Any = None) -> dict[str, Any]:
    """Schedule settings with the T that the weights were trained with, 1000 where unknown."""
    known = weights.timesteps if weights else 1000
    given = settings.get("timesteps")
    if given is not None and (type(given) is not int or given < 1):
        raise ConfigError(f"schedule.timesteps={given}: give a whole number of at least 1")
    return {**settings, "timesteps": known if given is None else given}


def _model(run: Run | Fit) -> Model:
    """A checkpoint of one's own, weights by name, or those that (dataset, schedule) means."""
    from pndm.models.registry import ARCHITECTURES, FORMATS, HUB, WEIGHTS

    model, name = run.model, run.schedule["name"]
    require_one_of("model.format", model.format, ("auto", *FORMATS))
    known = [name for name in run.dataset.models.values() if name in WEIGHTS]
    if model.checkpoint is not None:
        if not model.checkpoint:
            raise ConfigError("model.checkpoint is empty: name a file")
        if model.architecture is None:
            raise ConfigError(
                f"model.checkpoint={model.checkpoint} needs model.architecture=NAME, "
                f"one of {', '.join(ARCHITECTURES)}"
            )
        require_one_of("model.architecture", model.architecture, tuple(ARCHITECTURES))
        sizes = [ARCHITECTURES[WEIGHTS[name].architecture].image for name in known]
        size = ARCHITECTURES[model.architecture].image
        if sizes and size not in sizes:
            raise ConfigError(
                f"model.architecture={model.architecture} makes images of {_size(size)}, "
                f"those of dataset={run.dataset.name} are {_size(sizes[0])}"
            )
        with config_errors("model.checkpoint: "), file_errors():
            is_there = model.checkpoint.startswith(HUB) or Path(model.checkpoint).exists()
        if not is_there:
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
    setting = "model"
    if model.name == "auto":
        if name not in run.dataset.models:
            raise ConfigError(
                f"{no_weights_for(run.dataset, name)}: use one of these, "
                "or model.checkpoint=FILE model.architecture=NAME"
            )
        chosen = run.dataset.models[name]
        require_one_of(f"dataset.models.{name}", chosen, tuple(WEIGHTS))
        if run.convention == "released" and f"{chosen}_released" in WEIGHTS:
            chosen = f"{chosen}_released"
        model = dataclasses.replace(model, name=chosen)
        setting = f"dataset.models.{name}"
    weights = WEIGHTS[model.name]
    if weights.dataset != run.dataset.name and run.dataset.name != "folder":
        raise ConfigError(
            f"{setting}={model.name} makes images of {weights.dataset}, not of {run.dataset.name}"
        )
    if weights.schedule != name:
        raise ConfigError(
            f"{setting}={model.name} was trained on schedule={weights.schedule}, not on {name}"
        )
    return model


def require_as_trained(model: Model, settings: dict[str, Any]) -> None:
    """ConfigError where the card of a checkpoint says other noise, or another prediction."""
    from pndm.models import cards, locations
    from pndm.models.registry import HUB

    if model.checkpoint is None or model.checkpoint.startswith(HUB):
        return
    chosen = {"schedule": settings["name"], "model.prediction": model.prediction}
    chosen |= {f"schedule.{key}": value for key, value in settings.items() if key != "name"}
    with config_errors("model.checkpoint: "):
        said = cards.trained_on(locations.locate(model.checkpoint))
    for key in cards.TRAINED_ON:
        name = {"schedule": key, "prediction": f"model.{key}"}.get(key, f"schedule.{key}")
        if key in said and name in chosen and said[key] != chosen[name]:
            raise ConfigError(
                f"model.checkpoint={model.checkpoint} was trained with {name}={said[key]}, as "
                f"its card says, not {chosen[name]}: add {name}={said[key]}"
            )


def _require_own_noise(model: Model, settings: dict[str, Any]) -> None:
    """ConfigError where weights with a name would be told another noise than they know."""
    from pndm.models.registry import WEIGHTS
    from pndm.schedules import SCHEDULES

    if model.checkpoint is not None:
        return
    weights = WEIGHTS[model.name]
    known = inspect.signature(SCHEDULES[weights.schedule]).parameters
    own = {key: known[key].default for key in ("beta_start", "beta_end") if key in known}
    own["timesteps"] = weights.timesteps
    for key, value in own.items():
        if settings.get(key, value) != value:
            raise ConfigError(
                f"schedule.{key}={settings[key]}: {weights.name} was trained with "
                f"schedule.{key}={value}, leave it out (or give your own model.checkpoint=FILE)"
            )


def _size(image: tuple[int, ...]) -> str:
    return "×".join(map(str, image))


def no_weights_for(dataset: Dataset, schedule: str) -> str:
    """No weights for this pair: which there are."""
    known = ", ".join(f"{name} ({weights})" for name, weights in dataset.models.items())
    return f"dataset={dataset.name} has weights for schedule={known or 'none'}, not for {schedule}"


def require_at_least(key: str, value: int, least: int) -> None:
    """ConfigError for a number that is too small."""
    if value < least:
        raise ConfigError(f"{key}={value}: give a whole number of at least {least}")


def require_processes(count: Any) -> None:
    """ConfigError for a number of processes that is none."""
    if count != "auto" and (type(count) is not int or count < 1):
        raise ConfigError(f"processes={count}: give a whole number of at least 1, or auto")


def require_one_of(key: str, value: str, options: tuple[str, ...]) -> None:
    """ConfigError for a value that is not one of the options."""
    if value not in options:
        hint = did_you_mean(str(value), list(options))
        raise ConfigError(f"{key}={value} does not exist{hint}; there are {', '.join(options)}")


def _switch(key: str, value: Any) -> str:
    """The one spelling of a setting that may be written as a word or as a boolean."""
    word = str(value).lower()
    require_one_of(key, word, tuple(SWITCH_VALUES[key]))
    return SWITCH_VALUES[key][word]
