"""A plan as a scheduler of diffusers: one call of `step` is one row.

Rows are counted, so a time may be met twice; every number of steps works, no evaluation is
wasted, and what a network predicts is made noise before anything is combined. The arithmetic is
that of `pndm.sample`, in float64 where the device has it.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pndm import grids, plans
from pndm._errors import InputError
from pndm.execute import advance
from pndm.integrations.diffusers.config import (
    CLIPPING,
    DEFAULTS,
    LEARNED_VARIANCES,
    PREDICTIONS,
    configured_nodes,
    configured_schedule,
    configured_solver,
    take_over,
    takes_eta,
)
from pndm.learned import Learned
from pndm.plans import Plan, Row, bound_images, remainder
from pndm.prediction import Prediction
from pndm.schedules import MIN_ALPHA_BAR
from pndm.solvers import Solver

HAVE_FLOAT64 = ("cpu", "cuda")
"""Kinds of devices on which float64 always works."""


class EvaluationsPerStep(int):
    """What pipelines multiply a number of steps by, to find where the next one begins.

    `k * order` is the number of evaluations in the first k steps, where the starters take others
    than the `stages` of the steps behind them.
    """

    starters: tuple[int, ...]

    def __new__(cls, solver: Solver) -> "EvaluationsPerStep":
        order = super().__new__(cls, solver.gradient.stages)
        order.starters = tuple(starter.stages for starter in solver.starters)
        return order

    def __mul__(self, steps: int) -> int:
        return int(self) * steps + sum(stages - self for stages in self.starters[:steps])

    __rmul__ = __mul__


class PlanScheduler(SchedulerMixin, ConfigMixin):
    """A solver by name (with `solver_options`) on a grid, in the place of any other scheduler.

    All settings but the last four are those of diffusers' schedulers and mean what they mean
    there: `set_alpha_to_one` ends at ᾱ = 1 (our `aligned` convention) instead of ᾱ[0]
    (`diffusers`), `timestep_spacing` and `steps_offset` are DDIM's and PNDM's, `skip_prk_steps`
    is `plms`'s, `clip_sample` `ddpm`'s and `ddim`'s, and `variance_type` `ddpm`'s. `grid` is the
    name of a grid of this package, in the place of `timestep_spacing`; `leading` without both.
    Where a plan ends at ᾱ = 1, its ᾱ is floored at `min_alpha_bar` (see `pndm.schedules`), which
    diffusers does not do: 0 switches it off. A learned `plan` (or its file, its name, or the
    content of its file, as which it is saved) takes the place of solver and grid. InputError for
    what does not exist, a warning for what is ignored.
    """

    __module__ = "pndm.integrations.diffusers"  # the path that saved pipelines name

    _compatibles = [kind.name for kind in KarrasDiffusionSchedulers] + ["DDPMScheduler"]
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
        timestep_spacing: str | None = None,
        rescale_betas_zero_snr: bool = False,
        clip_sample: bool | None = None,
        variance_type: str | None = None,
        thresholding: bool = False,
        skip_prk_steps: bool | None = None,
        solver: str = "plms",
        solver_options: dict[str, Any] | None = None,
        grid: str | None = None,
        min_alpha_bar: float = MIN_ALPHA_BAR,
        plan: Plan | str | Path | dict[str, Any] | None = None,
    ) -> None:
        if prediction_type not in PREDICTIONS:
            raise InputError(
                f"prediction_type={prediction_type} does not exist: use {', '.join(PREDICTIONS)}"
            )
        if thresholding:
            raise InputError("thresholding by quantiles is not here: pass thresholding=False")
        grids.named(grid or timestep_spacing or "leading")
        if not grids.is_whole(steps_offset) or steps_offset < 0:
            raise InputError(f"steps_offset is {steps_offset}, but must be a whole number from 0")
        if trained_betas is not None:
            trained_betas = [float(beta) for beta in trained_betas]
            self.register_to_config(trained_betas=trained_betas)  # as JSON can hold them
        configured_solver(self.config)  # refuses what does not exist
        if plan is not None and (solver != "plms" or solver_options or grid):
            raise InputError("plan takes the place of solver, solver_options and grid: give one")
        if clip_sample and (plan is not None or solver not in CLIPPING):
            warnings.warn(
                f"clip_sample=True is ignored: {self._method} does not bound x_0, as "
                f"{' and '.join(CLIPPING)} do; pass clip_sample=False",
                stacklevel=3,
            )
        self.schedule = configured_schedule(self.config)
        self.learned = None if plan is None else self._take(plan)
        alphas = [self.schedule.alpha_bar(t) for t in range(num_train_timesteps)]
        self.alphas_cumprod = torch.tensor(alphas)
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self.num_inference_steps: int | None = None
        self.plan: Plan | None = None
        self._listed = False  # whether the nodes were given as a list of times
        self._begin: int | None = None
        self._eta = 0.0
        self._row = -1  # not begun
        self._base = self._point = torch.empty(0)
        self._kept: dict[int, Tensor] = {}

    @classmethod
    def from_config(cls, config: Any = None, *arguments: Any, **settings: Any) -> Any:
        """Another scheduler's settings, with `settings` in the place of its own or ours.

        What nobody chose there is used here too, and left open again for the next class.
        InputError where it is of a process that is not the variance-preserving one of a ᾱ table.
        """
        if not isinstance(config, Mapping):
            return super().from_config(config, *arguments, **settings)
        values, defaults = take_over(config, settings)
        result = super().from_config(values, *arguments)
        scheduler = result[0] if isinstance(result, tuple) else result
        left_open = {*defaults, *scheduler.config.get(DEFAULTS, ())} - settings.keys()
        scheduler.register_to_config(**{DEFAULTS: sorted(left_open)})
        return result

    def to_json_string(self) -> str:
        """The settings as JSON, without those that are None: other classes have their own."""
        settings = json.loads(super().to_json_string())
        given = {name: value for name, value in settings.items() if value is not None}
        return json.dumps(given, indent=2, sort_keys=True) + "\n"

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    @property
    def solver(self) -> Solver:
        """The method; pipelines change settings after a scheduler is made."""
        if self.learned is not None:
            return self.learned.solver
        return configured_solver(self.config, self._eta)

    @property
    def order(self) -> int:
        """What a number of steps is multiplied by to count evaluations.

        1 where `set_timesteps` was given times: pipelines then count evaluations as they are.
        """
        return 1 if self._listed else EvaluationsPerStep(self.solver)

    @property
    def begin_index(self) -> int | None:
        """The evaluation that `set_begin_index` chose."""
        return self._begin

    @property
    def step_index(self) -> int | None:
        """The number of calls of `step` since the beginning; None before the first."""
        return self._row if self._row >= 0 else None

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
        self._require_learned(num_inference_steps)
        self._listed = timesteps is not None
        if self.learned is not None:
            nodes = tuple(node.time for node in self.learned.nodes)
        elif timesteps is None:
            nodes = configured_nodes(self.config, num_inference_steps, self.schedule)
        else:
            nodes = (*map(float, timesteps), -1.0)
        self._begin, self._row, self._eta = None, -1, 0.0
        self.plan = self._compile(nodes)
        self.num_inference_steps = self.plan.steps
        times = torch.tensor(self.plan.times, dtype=torch.float32)
        whole = bool((times == times.round()).all())
        self.timesteps = (times.long() if whole else times).to(device)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin at a later evaluation, as image-to-image pipelines do; InputError below 0."""
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
        eta: float = 0.0,
    ) -> SchedulerOutput | tuple[Tensor]:
        """One row of the plan: from an evaluation at `sample` to the point of the next one.

        The state is kept in float64 (see `state_dtype`), apart from the caller's tensors; where
        the sample was changed since it was returned, the change is taken over. An `eta` above 0
        is `ddim`'s. Returns the sample's dtype. InputError for an output of another shape, before
        `set_timesteps`, and after the last row.
        """
        if self.plan is None:
            raise InputError("call set_timesteps before step")
        e = self._without_variance(model_output, sample)
        if e.shape != sample.shape:
            raise InputError(
                f"the model_output is of shape {tuple(e.shape)} for a sample of "
                f"{tuple(sample.shape)}: a learned variance must be cut off"
            )
        if eta != self._eta:
            self._set_eta(eta)
        if self._row < 0:
            self._start(float(timestep))
        if self._row == self.plan.nfe:
            raise InputError(f"all {self.plan.nfe} evaluations are made: call set_timesteps again")
        i, row = self._row, self.plan.rows[self._row]
        base, point = self._state(i, sample)
        z = None
        if row.noise:
            z = randn_tensor(sample.shape, generator, sample.device, sample.dtype)
        e = e.to(point.dtype, copy=True)  # networks may return a buffer that they use again
        self._base, self._point = advance(i, row, e, base, point, self._kept, z)
        self._row = i + 1
        following = self._point.to(sample.dtype, copy=True)
        return SchedulerOutput(prev_sample=following) if return_dict else (following,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·x_0 + √(1−ᾱ)·e at the time of each image; InputError where no time is left."""
        return self._mix(timesteps, original_samples, noise)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·e − √(1−ᾱ)·x_0, what networks of v_prediction are trained on."""
        return self._mix(timesteps, noise, -sample)

    def _mix(self, timesteps: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """√ᾱ·first + √(1−ᾱ)·second, summed as a state is, in the dtype of `first`."""
        times = [self._time_of_noise(t) for t in timesteps.flatten().tolist()]
        if not times:
            raise InputError(
                "no step is left to take: strength times num_inference_steps must be 1 at least"
            )
        alphas = [self.schedule.alpha_bar(t) for t in times]
        a = torch.tensor(alphas, dtype=torch.float64).view(-1, *[1] * (first.ndim - 1))
        dtype = state_dtype(first)
        signal, rest = (part.to(first.device, dtype) for part in (a.sqrt(), (1 - a).sqrt()))
        return (signal * first + rest * second).to(first.dtype)

    def _time_of_noise(self, time: float) -> float:
        """The time of the noise in x where the network is given `time`.

        A learned plan gives its network other times than those of its nodes.
        """
        if self.learned is None:
            return time
        # the last node has no row; two rows may have one time, of which the begun one is meant
        pairs = list(zip(self.learned.rows, self.learned.nodes, strict=False))
        begin = self._begin or 0
        ordered = [*pairs[begin:], *pairs[:begin]]
        return next((node.time for row, node in ordered if abs(row.time - time) < 1e-3), time)

    def _without_variance(self, output: Tensor, sample: Tensor) -> Tensor:
        """The output without the variance that the config says the network learned."""
        learned = self.config.variance_type in LEARNED_VARIANCES
        if learned and output.ndim > 1 and output.shape[1] == 2 * sample.shape[1]:
            return output[:, : sample.shape[1]]
        return output

    def _take(self, given: Plan | str | Path | dict[str, Any]) -> Plan:
        """A learned plan, which becomes a setting; InputError for one of another process."""
        if isinstance(given, str | Path):
            given = plans.load(given)
        table = given.learned if isinstance(given, Plan) else Learned.from_json(given)
        if table is None:
            raise InputError(f"{given!r} was not learned: pass solver= and grid= instead")
        table.require_schedule(self.schedule, self._prediction)
        self.register_to_config(plan=table.to_json())
        return plans.of_learned(table)

    def _require_learned(self, steps: int | None) -> None:
        """Raise InputError unless so many steps are those of the learned plan, if there is one."""
        if self.learned is not None and steps != self.learned.steps:
            raise InputError(
                "a learned plan has its own times and number of steps: pass "
                f"num_inference_steps={self.learned.steps}"
            )

    def _compile(self, nodes: Sequence[float]) -> Plan:
        if self.learned is not None:
            return self.learned
        return self._clip(plans.plan(self.solver, self.schedule, None, nodes, self._prediction))

    @property
    def _prediction(self) -> Prediction:
        return PREDICTIONS[self.config.prediction_type]

    def _clip(self, rows: Plan) -> Plan:
        """A plan with DDIM's predicted images bounded, where the config says so."""
        if not self.config.clip_sample or self.config.solver != "ddim":
            return rows
        return bound_images(rows, self.config.get("clip_sample_range", 1.0), self._prediction)

    @property
    def _method(self) -> str:
        """What warnings call the method."""
        is_learned = self.config.plan is not None
        return "a learned plan" if is_learned else f"solver={self.config.solver}"

    def _set_eta(self, eta: float) -> None:
        """Plan the same times again with another η."""
        assert self.plan is not None
        if self.learned is not None or not takes_eta(self.config.solver):
            warnings.warn(
                f"eta={eta} is ignored: {self._method} adds no noise, solver=ddim does",
                stacklevel=3,
            )
            self._eta = eta
            return
        self._eta = eta
        self.plan = self._compile([node.time for node in self.plan.nodes])

    def _start(self, time: float) -> None:
        """Stand at the first evaluation, or at the later one that a pipeline begins with."""
        assert self.plan is not None
        self._row, self._kept = 0, {}
        begin = self._begin if self._begin is not None else first_row(self.plan.rows, time)
        if begin >= self.plan.nfe:
            raise InputError(f"begin_index is {begin}, but there are {self.plan.nfe} evaluations")
        if begin:
            rest = remainder(self.plan, begin, self.schedule, self._prediction)
            self.plan = self._clip(rest)

    def _state(self, i: int, sample: Tensor) -> tuple[Tensor, Tensor]:
        """The base and the point of row i, given the sample that stands for the point.

        What the caller left as it was returned has all its digits here. Where a corrector keeps
        a base behind a finished step, a changed point moves that base as if it led there.
        """
        assert self.plan is not None
        dtype = state_dtype(sample)
        if i == 0:
            point = sample.to(dtype, copy=True)
            return point, point
        if sample.shape != self._point.shape:
            raise InputError(
                f"the sample is of shape {tuple(sample.shape)}, but one of shape "
                f"{tuple(self._point.shape)} is under way: call set_timesteps before another batch"
            )
        before = self.plan.rows[i - 1]
        point = torch.where(sample == self._point.to(sample.dtype), self._point, sample)
        if before.point == before.base:
            return point, point
        if before.ends is None:
            return self._base, point
        nodes = self.plan.nodes
        move = self.plan.solver.transfer.move(nodes[before.ends - 1], nodes[before.ends])
        return self._base + (point - self._point) / move.scale, point


def state_dtype(sample: Tensor) -> torch.dtype:
    """The dtype in which a sample is combined: float64 where its device has it, else float32.

    Without signal at the first time a Runge-Kutta step magnifies rounding by 1/ᾱ = 2²⁴.
    """
    return torch.float64 if sample.device.type in HAVE_FLOAT64 else torch.float32


def first_row(rows: Sequence[Row], time: float) -> int:
    """The row of a time; that which begins a step where it is met twice.

    InputError where no row is of that time.
    """
    here = [i for i, row in enumerate(rows) if abs(row.time - time) < 1e-3]
    if not here:
        raise InputError(
            f"no evaluation is at time {time:g}: take the times of scheduler.timesteps"
        )
    return next((i for i in here if i == 0 or rows[i - 1].ends is not None), here[0])
