"""Every method of this package as a scheduler of diffusers, and a pipeline around it.

    from pndm.integrations.diffusers import PlanScheduler
    pipe.scheduler = PlanScheduler.from_config(pipe.scheduler.config, solver="plms")

One call of `step` is one row of the plan, whose arithmetic is that of `pndm.sample`. Rows are
counted, so a time may be met twice; every number of steps works, no evaluation is wasted, and
what a network predicts is made noise before anything is combined.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers import ConfigMixin, DiffusionPipeline, ImagePipelineOutput, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pndm import grids, schedules
from pndm._errors import InputError
from pndm.execute import advance
from pndm.plans import Plan, plan
from pndm.prediction import Prediction
from pndm.schedules import MIN_ALPHA_BAR, Convention, Schedule
from pndm.solvers import SOLVERS, Solver

PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "noise",
    "sample": "data",
    "v_prediction": "velocity",
}
"""diffusers' names of what a network predicts."""

VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"}
"""diffusers' names of DDPM's variances."""

OTHER_PROCESSES = ("shift", "sigma_data", "snr", "s_churn", "snr_shift_scale", "use_flow_sigmas")
"""Settings that only schedulers of other processes have: flows, exploding variances, shifts."""

DEFAULTS = "_use_default_values"
"""Entry of a config that names settings which diffusers replaces by defaults of the new class."""

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


class PlanScheduler(SchedulerMixin, ConfigMixin):
    """A solver by name (with `solver_options`) on a grid, in the place of any other scheduler.

    All settings but the last four are those of diffusers' schedulers and mean what they mean
    there: `set_alpha_to_one` ends at ᾱ = 1 (our `aligned` convention) instead of ᾱ[0]
    (`diffusers`), `steps_offset` shifts the leading grid as far as it goes, and `clip_sample` and
    `variance_type`, if given, are `ddpm`'s. `grid` is the grid's name where it is not given by
    `timestep_spacing`. Where a plan ends at ᾱ = 1, its ᾱ is floored at `min_alpha_bar` (see
    `pndm.schedules`), which diffusers does not do: 0 switches it off. InputError for what does
    not exist.
    """

    _compatibles = [kind.name for kind in KarrasDiffusionSchedulers] + ["DDPMScheduler"]
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
        clip_sample: bool | None = None,
        variance_type: str | None = None,
        thresholding: bool = False,
        solver: str = "plms",
        solver_options: dict[str, Any] | None = None,
        grid: str | None = None,
        min_alpha_bar: float = MIN_ALPHA_BAR,
    ) -> None:
        if prediction_type not in PREDICTIONS:
            raise InputError(
                f"prediction_type={prediction_type} does not exist: use {', '.join(PREDICTIONS)}"
            )
        fixed = [name for name in SOLVERS if name != "pf"]
        if solver not in fixed:
            raise InputError(f"solver={solver} does not exist: use {', '.join(fixed)}")
        if thresholding:
            raise InputError("thresholding by quantiles is not here: pass thresholding=False")
        grids.named(grid or timestep_spacing)
        if not grids.is_whole(steps_offset) or steps_offset < 0:
            raise InputError(f"steps_offset is {steps_offset}, but must be a whole number from 0")
        options = dict(solver_options or {})
        if solver == "ddpm":
            options = {**ancestral(clip_sample, variance_type), **options}
        self.solver = named_solver(solver, options)
        convention: Convention = "aligned" if set_alpha_to_one else "diffusers"
        if trained_betas is not None:
            trained_betas = [float(beta) for beta in trained_betas]
            self.register_to_config(trained_betas=trained_betas)  # as JSON can hold them
        self.schedule = trained_schedule(
            num_train_timesteps,
            beta_start,
            beta_end,
            beta_schedule,
            trained_betas,
            {"convention": convention, "min_alpha_bar": min_alpha_bar},
        )
        if rescale_betas_zero_snr:
            self.schedule = rescale_zero_terminal_snr(self.schedule)
        alphas = [self.schedule.alpha_bar(t) for t in range(num_train_timesteps)]
        self.alphas_cumprod = torch.tensor(alphas)
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self.num_inference_steps: int | None = None
        self.plan: Plan | None = None
        self._begin: int | None = None
        self._row = -1  # not begun
        self._base = torch.empty(0)
        self._kept: dict[int, Tensor] = {}

    @classmethod
    def from_config(cls, config: Any = None, *arguments: Any, **settings: Any) -> Any:
        """Another scheduler's settings, with `settings` in the place of its own or ours.

        InputError where it is of a process that is not the variance-preserving one of a ᾱ table.
        """
        if not isinstance(config, Mapping):
            return super().from_config(config, *arguments, **settings)
        found = {**config, **settings}
        other = [name for name in OTHER_PROCESSES if found.get(name) not in (None, False)]
        whole = not found.keys().isdisjoint(("_class_name", DEFAULTS))
        if whole and not any(found.get(name) for name in BETAS):
            other.append(f"neither {' nor '.join(BETAS)}")
        if other:
            raise InputError(
                f"a scheduler with {', '.join(other)} is of another process than x = √ᾱ·x_0 + "
                "√(1−ᾱ)·e with a table of ᾱ: it cannot be taken over"
            )
        if found.get("use_beta_sigmas"):
            raise InputError("use_beta_sigmas is a grid that is not here: pass grid= and False")
        clips = found.get("solver") == "ddpm" and found.get("clip_sample") is not False
        if clips and found.get("clip_sample_range") not in (None, 1.0):
            raise InputError("ddpm clips at ±1: pass clip_sample_range=1 or clip_sample=False")
        for name, grid in CLOCKS.items():
            if found.get(name):
                settings = {"grid": grid, **settings}
        config = {name: value for name, value in config.items() if name != DEFAULTS}
        return super().from_config(config, *arguments, **settings)

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Plan so many steps, or those that begin at the descending `timesteps`.

        `self.timesteps` then holds the time of every evaluation, fractional ones too.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise InputError("give either num_inference_steps or timesteps")
        if timesteps is None:
            nodes = self._nodes(num_inference_steps)
        else:
            nodes = (*map(float, timesteps), -1.0)
        self.plan = self._compile(nodes)
        self.num_inference_steps = self.plan.steps
        times = torch.tensor(self.plan.times, dtype=torch.float32)
        whole = bool((times == times.round()).all())
        self.timesteps = (times.long() if whole else times).to(device)
        self._begin, self._row = None, -1

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin at a later evaluation, as image-to-image pipelines do; ValueError below 0."""
        if not grids.is_whole(begin_index) or begin_index < 0:
            raise InputError(f"begin_index is {begin_index}, but must be a whole number from 0")
        self._begin = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """One row of the plan: from an evaluation at `sample` to the point of the next one.

        InputError for an output of another shape, before `set_timesteps`, and after the last row.
        """
        if self.plan is None:
            raise InputError("call set_timesteps before step")
        if model_output.shape != sample.shape:
            raise InputError(
                f"the model_output is of shape {tuple(model_output.shape)} for a sample of "
                f"{tuple(sample.shape)}: a learned variance must be cut off"
            )
        if self._row < 0:
            self._start(float(timestep))
        if self._row == self.plan.nfe:
            raise InputError(f"all {self.plan.nfe} evaluations are made: call set_timesteps again")
        i, row = self._row, self.plan.rows[self._row]
        before = self.plan.rows[i - 1]
        base = sample if i == 0 or before.point == before.base else self._base
        z = None
        if row.noise:
            z = randn_tensor(sample.shape, generator, sample.device, sample.dtype)
        e = model_output.to(sample.dtype)
        self._base, point = advance(i, row, e, base, sample, self._kept, z)
        self._row = i + 1
        return SchedulerOutput(prev_sample=point) if return_dict else (point,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·x_0 + √(1−ᾱ)·e at the time of each image."""
        signal, rest = self._mix(original_samples, timesteps)
        return signal * original_samples + rest * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·e − √(1−ᾱ)·x_0, what networks of v_prediction are trained on."""
        signal, rest = self._mix(sample, timesteps)
        return signal * noise - rest * sample

    def _mix(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alphas = [self.schedule.alpha_bar(float(t)) for t in timesteps.flatten()]
        a = torch.tensor(alphas, dtype=torch.float64).view(-1, *[1] * (like.ndim - 1))
        return a.sqrt().to(like), (1 - a).sqrt().to(like)

    def _nodes(self, steps: int | None) -> tuple[float, ...]:
        grid = self.config.grid or self.config.timestep_spacing
        nodes = grids.times(grid, steps, self.schedule)
        if grid != "leading" or not self.config.steps_offset:
            return nodes
        room = self.config.num_train_timesteps - 1 - nodes[0]
        offset = min(float(self.config.steps_offset), room)
        return (*(t + offset for t in nodes[:-1]), -1.0)

    def _compile(self, nodes: Sequence[float]) -> Plan:
        prediction = PREDICTIONS[self.config.prediction_type]
        return plan(self.solver, self.schedule, grid=nodes, prediction=prediction)

    def _start(self, time: float) -> None:
        """Stand at the first evaluation, or at the later one that a pipeline begins with."""
        assert self.plan is not None
        self._row, self._kept = 0, {}
        times = self.plan.times
        begin = self._begin if self._begin is not None else _first(times, time)
        if begin == 0:
            return
        if begin >= len(times):
            raise InputError(f"begin_index is {begin}, but there are {len(times)} evaluations")
        node = self.plan.rows[begin - 1].ends
        if node is not None:
            rest = self._compile([stand.time for stand in self.plan.nodes[node:]])
            if rest.times == times[begin:]:
                self.plan = rest
                return
        raise InputError(
            f"{self.solver.name} cannot begin at evaluation {begin}, where a step is under way or "
            "its starters are over: use a solver of one evaluation a step, as ipndm or deis"
        )


def named_solver(name: str, options: dict[str, Any]) -> Solver:
    """A fixed-step solver; InputError where it does not take these options."""
    try:
        made = SOLVERS[name](**options)
    except TypeError as error:
        raise InputError(f"solver={name} solver_options={options}: {error}") from None
    assert isinstance(made, Solver)
    return made


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


def _first(times: Sequence[float], time: float) -> int:
    """The position of a time; the first where it is met twice, 0 where it is not there."""
    return next((i for i, t in enumerate(times) if abs(t - time) < 1e-3), 0)


def trained_schedule(
    timesteps: int,
    beta_start: float,
    beta_end: float,
    beta_schedule: str,
    trained_betas: Sequence[float] | None,
    how: dict[str, Any],
) -> Schedule:
    """The schedule that diffusers' settings describe; InputError for one that we have not.

    `how` has its convention and its floor of ᾱ.
    """
    if trained_betas is not None:
        if len(trained_betas) != timesteps:
            raise InputError(
                f"num_train_timesteps={timesteps}, but trained_betas are {len(trained_betas)}"
            )
        return schedules.from_betas("trained", trained_betas, **how)
    ends: dict[str, Any] = {"beta_start": beta_start, "beta_end": beta_end}
    match beta_schedule:
        case "linear":
            return schedules.linear(timesteps, **ends, **how)
        case "scaled_linear":
            return schedules.scaled_linear(timesteps, **ends, **how)
        case "squaredcos_cap_v2":
            return schedules.cosine(timesteps, **how)
    raise InputError(
        f"beta_schedule={beta_schedule} does not exist: use linear, scaled_linear, "
        "squaredcos_cap_v2, or give trained_betas"
    )


class PNDMPipeline(DiffusionPipeline):
    """Unconditional images from a UNet of diffusers; another scheduler is taken over."""

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: torch.nn.Module, scheduler: Any) -> None:
        super().__init__()
        if unet is None:
            raise InputError("PNDMPipeline needs a unet: pass unet=UNet2DModel(...)")
        if not isinstance(scheduler, PlanScheduler):
            scheduler = PlanScheduler.from_config(scheduler.config)
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Images as "pil" (the default), "np" [B, H, W, C] in [0, 1] or "pt" [B, C, H, W]."""
        if output_type not in ("pil", "np", "pt"):
            raise InputError(f"output_type={output_type} does not exist: use pil, np or pt")
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (batch_size, self.unet.config.in_channels, height, width)
        x = randn_tensor(shape, generator, self._execution_device, self.unet.dtype)
        self.scheduler.set_timesteps(num_inference_steps, device=x.device)
        for t in self.progress_bar(self.scheduler.timesteps):
            e = self.unet(x, t).sample
            x = self.scheduler.step(e, t, x, generator=generator).prev_sample
        images: Any = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
