"""The settings of diffusers' schedulers: what they mean here, and what of them is not here.

Settings of the process, the network and the grid mean what they mean there. Which method samples
is chosen by `solver`, so of the settings of other methods only those are read that the chosen one
has too; where an ignored one would change the images, a warning says so.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import diffusers

from pndm import grids, schedules
from pndm._errors import InputError
from pndm.prediction import Prediction
from pndm.schedules import Convention, Schedule
from pndm.solvers import SOLVERS, Solver
from pndm.solvers.gradient import AB2, AB3, IMPROVED_EULER

PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "noise",
    "sample": "data",
    "v_prediction": "velocity",
}
"""diffusers' names of what a network predicts."""

VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"}
"""diffusers' names of DDPM's variances."""

CLIPPING = ("ddpm", "ddim")
"""Solvers that bound the predicted image where `clip_sample` says so."""

LEARNED_VARIANCES = ("learned", "learned_range")
"""Variances that a network predicts in a second half of its channels."""

OTHER_PROCESSES = ("shift", "sigma_data", "snr", "s_churn", "snr_shift_scale", "use_flow_sigmas")
"""Settings that only schedulers of other processes have: flows, exploding variances, shifts."""

DEFAULTS = "_use_default_values"
"""Entry of a config that names the settings which nobody chose: another class has its own."""

BETAS = ("beta_schedule", "trained_betas")
"""Settings of which one must be given by schedulers of this process."""

CLOCKS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "uniform_lambda",
    "use_lu_lambdas": "uniform_lambda",
}
"""diffusers' switches that mean a grid."""

ZERO_SNR_ALPHA_BAR = 2.0**-24
"""ᾱ of the last time where no signal is to be left: above 0 in half precision, too."""

STARTERS_WITHOUT_RK = (IMPROVED_EULER, AB2, AB3)
"""How PLMS starts with `skip_prk_steps`, as latent-diffusion's does."""

METHOD_OPTIONS: dict[str, dict[str, Callable[[Any], dict[str, Any]]]] = {
    "unipc": {
        "solver_order": lambda order: {"order": order},
        "solver_type": lambda kind: {"variant": kind} if kind in ("bh1", "bh2") else {},
        "predict_x0": lambda data: {"predict": "data" if data else "noise"},
        "lower_order_final": lambda lower: {"lower_order_final": lower},
    },
    "deis": {"solver_order": lambda order: {"order": order}},
}
"""Settings of a method there that the solver of the same name has as options."""


class Ignored(NamedTuple):
    """A setting that changes images there and has no counterpart here."""

    name: str
    matters: Callable[[Any], bool]
    consequence: str


IGNORED = (
    Ignored(
        "algorithm_type",
        lambda value: str(value).startswith("sde"),
        "no noise is added: solver=ddpm, or ddim with eta, would",
    ),
    Ignored("disable_corrector", bool, "unipc corrects in every step"),
    Ignored(
        "lambda_min_clipped",
        lambda value: value is not None and math.isfinite(value),
        "the grid begins where it would without it: grid and set_timesteps(timesteps=...) choose",
    ),
    Ignored("sigma_min", lambda value: value is not None, "grids end at ᾱ[0]"),
    Ignored("sigma_max", lambda value: value is not None, "grids begin at ᾱ[T−1]"),
)
"""What `take_over` warns of; clip_sample is warned of where a scheduler is made."""


class Settings(NamedTuple):
    """Settings of a scheduler, and the names of those that nobody chose."""

    values: dict[str, Any]
    defaults: frozenset[str]


OF_METHOD = {"solver", "solver_options", "grid"}
"""The settings whose place a learned plan takes."""


def take_over(config: Mapping[str, Any], chosen: Mapping[str, Any]) -> Settings:
    """The settings of another scheduler with `chosen` ones in their place.

    A config read from a file may lack settings that came later: the class it names has them as
    defaults. InputError where it is of a process that is not the variance-preserving one of a ᾱ
    table, or asks for a grid or clipping that is not here; a warning names what is ignored.
    """
    theirs = class_defaults(config.get("_class_name"))
    values = {**theirs, **config, **chosen}
    values.pop(DEFAULTS, None)
    defaults = {*config.get(DEFAULTS, ()), *(theirs.keys() - config.keys())} - chosen.keys()
    if "grid" in defaults:
        del values["grid"]  # it followed from a switch that may have been changed
    derived = next((grid for name, grid in CLOCKS.items() if values.get(name)), None)
    if derived is not None and values.get("grid") in (None, derived):
        values["grid"] = derived
        defaults.add("grid")
    ends_early = values.get("final_sigmas_type") == "sigma_min"
    if ends_early and ("set_alpha_to_one" not in values or "set_alpha_to_one" in defaults):
        values["set_alpha_to_one"] = False
        defaults.add("set_alpha_to_one")
    refuse_other_processes(values, whole="_class_name" in config or DEFAULTS in config)
    if values.get("use_beta_sigmas"):
        raise InputError("use_beta_sigmas is a grid that is not here: pass grid= and False")
    clips = values.get("solver") == "ddpm" and values.get("clip_sample") is not False
    if clips and values.get("clip_sample_range") not in (None, 1.0):
        raise InputError("ddpm clips at ±1: pass clip_sample_range=1 or clip_sample=False")
    for name, matters, consequence in IGNORED:
        if matters(values.get(name)):
            warnings.warn(f"{name}={values[name]} is ignored: {consequence}", stacklevel=4)
    if chosen.get("plan") is not None:
        values = {k: v for k, v in values.items() if k not in OF_METHOD or k in chosen}
    elif OF_METHOD & chosen.keys():
        values.pop("plan", None)
    return Settings(values, frozenset(defaults & values.keys()))


def class_defaults(name: object) -> dict[str, Any]:
    """The default settings of a scheduler of diffusers by its name; none for another class."""
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (inspect.isclass(kind) and issubclass(kind, diffusers.SchedulerMixin)):
        return {}
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def refuse_other_processes(values: Mapping[str, Any], whole: bool) -> None:
    """InputError for a process other than x = √ᾱ·x_0 + √(1−ᾱ)·e with a table of ᾱ.

    A `whole` config is one of a scheduler, not a few settings: it must have a table.
    """
    other = [name for name in OTHER_PROCESSES if values.get(name) not in (None, False)]
    if values.get("timestep_type") == "continuous":
        other.append("timestep_type=continuous")
    if whole and not any(values.get(name) for name in BETAS):
        other.append(f"neither {' nor '.join(BETAS)}")
    if other:
        raise InputError(
            f"a scheduler with {', '.join(other)} is of another process than x = √ᾱ·x_0 + "
            "√(1−ᾱ)·e with a table of ᾱ: it cannot be taken over"
        )


def leading(steps: int, timesteps: int, offset: int) -> list[int]:
    """i·⌊T/N⌋ + offset; where that leaves the schedule (N = T), as far as it goes."""
    stride = timesteps // steps
    offset = min(offset, timesteps - 1 - (steps - 1) * stride)
    return [i * stride + offset for i in range(steps)]


def linspace(steps: int, timesteps: int, offset: int) -> list[int]:
    """round(i·(T−1)/(N−1)), from the first time to the last."""
    stride = (timesteps - 1) / (steps - 1)
    return [*(round(i * stride) for i in range(steps - 1)), timesteps - 1]


def trailing(steps: int, timesteps: int, offset: int) -> list[int]:
    """round(T − i·T/N) − 1, counted from the last time downwards."""
    stride = timesteps - (timesteps - timesteps / steps)  # rounds as numpy's arange does
    return [round(timesteps - i * stride) - 1 for i in reversed(range(steps))]


SPACINGS: dict[str, Callable[[int, int, int], list[int]]] = {
    "leading": leading,
    "linspace": linspace,
    "trailing": trailing,
}
"""What `timestep_spacing` means in DDIM, PNDM and DDPM there.

From (N, T, steps_offset), N > 1, to N ascending times.
"""


def named_solver(name: str, options: Mapping[str, Any]) -> Solver:
    """A fixed-step solver; InputError where it does not exist or does not take these options."""
    fixed = [known for known in SOLVERS if known != "pf"]
    if name not in fixed:
        raise InputError(f"solver={name} does not exist: use {', '.join(fixed)}")
    try:
        solver = SOLVERS[name](**options)
    except TypeError as error:
        raise InputError(f"solver={name} solver_options={options}: {error}") from None
    assert isinstance(solver, Solver)
    return solver


def configured_solver(config: Mapping[str, Any], eta: float = 0.0) -> Solver:
    """The solver that a config names, with what its other settings mean for it.

    `solver_options` come first. An `eta` above 0 goes to solvers that have one.
    """
    name, options = config["solver"], dict(config["solver_options"] or {})
    settings = METHOD_OPTIONS.get(name, {})
    shared: dict[str, Any] = {}
    for setting in settings.keys() & config.keys():
        shared |= settings[setting](config[setting])
    if name == "ddpm":
        shared |= ancestral(config["clip_sample"], config["variance_type"])
    given = {"eta": eta} if eta and takes_eta(name) else {}
    solver = named_solver(name, {**shared, **options, **given})
    if shared.get("order") and "order" not in options:
        solver = replace(solver, order=None)  # there, an order gives way to few steps
    if config["skip_prk_steps"] and name in ("plms", "f_pndm"):
        solver = replace(solver, starters=STARTERS_WITHOUT_RK)
    return solver


def takes_eta(name: str) -> bool:
    """Whether a solver has DDIM's η."""
    return "eta" in inspect.signature(SOLVERS[name]).parameters


def ancestral(clip_sample: bool | None, variance_type: str | None) -> dict[str, Any]:
    """The options of `ddpm` that diffusers' settings mean, where they are given."""
    options: dict[str, Any] = {} if clip_sample is None else {"clip": clip_sample}
    if variance_type is None:
        return options
    if variance_type not in VARIANCES:
        raise InputError(
            f"variance_type={variance_type} is not here: use {', '.join(VARIANCES)} "
            "(a learned variance is not used)"
        )
    return options | {"variance": VARIANCES[variance_type]}


def rescale_zero_terminal_snr(schedule: Schedule) -> Schedule:
    """√ᾱ shifted and scaled so that nothing is left of the signal at the last time.

    There ᾱ is 2⁻²⁴, or half of the ᾱ before it where that is less. Source: Lin et al. 2024,
    algorithm 1; no floor of ᾱ, as networks so trained predict a velocity.
    """
    if schedule.timesteps < 2:
        raise InputError("rescale_betas_zero_snr needs num_train_timesteps of 2 at least")
    signal = [math.sqrt(schedule.alpha_bar(t)) for t in range(schedule.timesteps)]
    scale = signal[0] / (signal[0] - signal[-1])
    alphas = [((root - signal[-1]) * scale) ** 2 for root in signal[:-1]]
    alphas.append(min(ZERO_SNR_ALPHA_BAR, alphas[-1] / 2))
    betas = (1 - now / before for before, now in pairwise([1.0, *alphas]))
    return schedules.from_betas(f"{schedule.name}_zero_snr", betas, schedule.convention, 0.0)


def configured_schedule(config: Mapping[str, Any]) -> Schedule:
    """The schedule that a config describes; InputError for one that does not exist here."""
    timesteps, betas = config["num_train_timesteps"], config["trained_betas"]
    convention: Convention = "aligned" if config["set_alpha_to_one"] else "diffusers"
    how: dict[str, Any] = {"convention": convention, "min_alpha_bar": config["min_alpha_bar"]}
    ends: dict[str, Any] = {"beta_start": config["beta_start"], "beta_end": config["beta_end"]}
    if betas is not None and len(betas) != timesteps:
        raise InputError(f"num_train_timesteps={timesteps}, but trained_betas are {len(betas)}")
    match "trained" if betas is not None else config["beta_schedule"]:
        case "trained":
            schedule: Schedule = schedules.from_betas("trained", betas, **how)
        case "linear":
            schedule = schedules.linear(timesteps, **ends, **how)
        case "scaled_linear":
            schedule = schedules.scaled_linear(timesteps, **ends, **how)
        case "squaredcos_cap_v2":
            schedule = schedules.cosine(timesteps, **how)
        case other:
            raise InputError(
                f"beta_schedule={other} does not exist: use linear, scaled_linear, "
                "squaredcos_cap_v2, or give trained_betas"
            )
    return rescale_zero_terminal_snr(schedule) if config["rescale_betas_zero_snr"] else schedule


def configured_nodes(
    config: Mapping[str, Any], steps: int | None, schedule: Schedule
) -> tuple[float, ...]:
    """The N+1 descending times of a config's grid: `grid`, or else `timestep_spacing`.

    Without either it is this package's `leading`, ⌊i·T/N⌋, moved by `steps_offset` as far as that
    goes. One step begins at the last time, where diffusers would begin at the image. InputError
    as for `pndm.grids.times`.
    """
    spacing, offset = config["timestep_spacing"], int(config["steps_offset"])
    grid = config["grid"] or spacing or "leading"
    nodes = grids.times(grid, steps, schedule)
    if config["grid"] is None and spacing in SPACINGS and len(nodes) > 2:
        times = SPACINGS[spacing](len(nodes) - 1, schedule.timesteps, offset)
        return (*(float(t) for t in reversed(times)), -1.0)
    room = schedule.timesteps - 1 - nodes[0]
    shift = min(float(offset), room) if grid == "leading" else 0.0
    return (*(t + shift for t in nodes[:-1]), -1.0)
