"""Sampling by two methods from the same noise, and pictures of the results; plain Python."""

import inspect
import io
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

import pndm
from pndm import learned, models
from pndm._errors import InputError
from pndm.config.build import build_schedule
from pndm.data import images
from pndm.execute import execute
from pndm.fit.teacher import fine_plan
from pndm.models.unet import UNet
from pndm.noise import check_seed, initial_noise, step_noise
from pndm.plans import Plan
from pndm.schedules import Schedule
from pndm.solvers import SOLVERS, Solver

SHIPPED = ("fashion_linear", "fashion_cosine", "digits_linear", "digits_cosine")
"""The networks that ship with the package, by name."""

MAX_IMAGES = 16
"""Images in one comparison, at most."""

FRAMES = 11
"""Nodes that the animation and the strip show, both ends included."""

FINE_STEPS = 200
"""Steps of the fine solution by Heun: 2e-4 (digits) or 9e-4 (fashion) from all whole times."""

TILE = 96
"""Pixels to which small images are enlarged."""

THUMBNAIL = 64
"""Pixels of an image in the animation and the strip, at most."""

LEARNED = "learned"
"""The plans that ship with the package, as a method."""

METHODS = [
    *(
        name
        for name, make in SOLVERS.items()
        if make.__name__ == name and name not in ("pf", "multistep")
    ),
    LEARNED,
]
"""The methods by name, without aliases, `pf` (it has no plan) and `multistep` (`ipndm` is one)."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network, its name, and the name of the schedule it was trained on."""

    name: str
    network: UNet
    schedule: str

    def build_schedule(self, convention: str) -> Schedule:
        """The schedule in a convention; InputError where it has no such convention."""
        about = self.network.provenance
        timesteps = about.get("timesteps") or round(1000 / self.network.arch.time_scale)
        settings = {"name": self.schedule, "timesteps": timesteps}
        if about.get("schedule") == self.schedule:
            settings |= {key: about[key] for key in ("beta_start", "beta_end") if key in about}
        return build_schedule(settings, convention)

    def initial_noise(self, seeds: Sequence[int]) -> Tensor:
        """x_T [B, C, H, W] on the network's device."""
        weight = next(self.network.parameters())
        return initial_noise(seeds, self.network.arch.image).to(weight.device)


class Method(NamedTuple):
    """One side of the page; `order` counts only where the method has a choice of orders."""

    solver: str
    steps: Any
    order: int | None = None


DEFAULT_METHODS = (Method("ddim", 30), Method("plms", 21))
"""What the page shows first: 30 evaluations each."""


class Setting(NamedTuple):
    """What both sides share; `times`, unless empty, replace the grid and the steps."""

    network: str = SHIPPED[0]
    grid: str = "leading"
    seeds: str = "0-15"
    convention: str = "aligned"
    times: str = ""
    distance: bool = True


class Result(NamedTuple):
    """What one method made of the noise.

    `samples` shows all images, `animation` (an animated PNG) their path from the noise, `strip`
    the path of the first image: at each of `times` the state, and below it the image that the
    network predicts from there. `distance` is to the fine solution, as a root mean square over
    pixels in [−1, 1]; None where it is switched off or the method adds noise.
    """

    name: str
    samples: Image.Image
    animation: bytes
    strip: Image.Image
    times: list[float]
    nfe: int
    seconds: float
    distance: float | None


Progress = Callable[[str, int, int], object]
"""Called with what is being sampled, the evaluations done, and how many there are."""


def compare(
    networks: dict[str, Model],
    methods: Sequence[Method],
    setting: Setting,
    progress: Progress = lambda *_: None,
) -> list[Result]:
    """Sample by each method from the same noise.

    InputError, before anything is sampled, for a value that cannot be used.
    """
    model = networks[setting.network]
    schedule = model.build_schedule(setting.convention)
    seeds = read_seeds(setting.seeds)
    plans = [make_plan(method, schedule, setting, model) for method in methods]
    x_T = model.initial_noise(seeds)
    model.network(x_T, x_T.new_zeros(len(x_T)))  # warm-up: the first call costs more
    results = []
    for plan in plans:
        states, seconds = sample_trajectory(model, x_T, seeds, plan, progress)
        x_0 = states[plan.steps]
        distance = None
        if setting.distance and not plan.stochastic:
            progress("the fine solution", 0, 2 * FINE_STEPS)
            fine = fine_solution(model, schedule, seeds, plan.nodes[0].time, plan.nodes[-1].time)
            distance = (x_0 - fine).square().mean().sqrt().item()
        results.append(
            Result(
                name=title(plan),
                samples=tiles(x_0),
                animation=animate(list(states.values())),
                strip=draw_strip(model.network, states, plan),
                times=[plan.nodes[i].time for i in states],
                nfe=plan.nfe,
                seconds=seconds,
                distance=distance,
            )
        )
    return results


def read_seeds(text: str) -> tuple[int, ...]:
    """The seeds in a text such as "0-7, 42"; InputError for other text and too many seeds."""
    ranges = []
    for word in re.split(r"[,\s]+", re.sub(r"\s*-\s*", "-", text.strip(", \n"))):
        match = re.fullmatch(r"(\d{1,19})(?:-(\d{1,19}))?", word)
        if not match:
            raise InputError(f"seeds: {word!r} is no whole number, and no range such as 0-15")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"seeds: the range {word} ends before it begins")
        ranges.append((first, last + 1))
    count = sum(end - first for first, end in ranges)
    if count > MAX_IMAGES:
        raise InputError(f"seeds: these are {count} images, but at most {MAX_IMAGES} fit the page")
    return tuple(check_seed(seed) for ends in ranges for seed in range(*ends))


def read_times(text: str) -> list[float]:
    """The times in a text such as "999, 600, 0, -1"; InputError for what is no number."""
    times = []
    for word in re.split(r"[,\s]+", text.strip(", \n")):
        try:
            times.append(float(word))
        except ValueError:
            raise InputError(f"times: {word!r} is no number") from None
    return times


def has_orders(solver: str) -> bool:
    """Whether a method has a choice of orders."""
    return solver != LEARNED and "order" in inspect.signature(SOLVERS[solver]).parameters


def summary(solver: str) -> str:
    """The first line of a method's description."""
    if solver == LEARNED:
        return "Times and weights fitted to this network; the grid does not matter."
    return (inspect.getdoc(SOLVERS[solver]) or "").split("\n")[0]


def make_plan(method: Method, schedule: Schedule, setting: Setting, model: Model) -> Plan:
    """The plan of one side; InputError if there is none."""
    if method.solver == LEARNED:
        return learned_plan(method, schedule, setting, model)
    options = {"order": method.order} if has_orders(method.solver) else {}
    solver = SOLVERS[method.solver](**options)
    assert isinstance(solver, Solver)
    if setting.times.strip():
        return pndm.plan(solver, schedule, grid=read_times(setting.times))
    if method.steps is None:
        raise InputError(f"{method.solver}: how many steps?")
    return pndm.plan(solver, schedule, method.steps, setting.grid)


def learned_plan(method: Method, schedule: Schedule, setting: Setting, model: Model) -> Plan:
    """The shipped plan of a network with so many steps; InputError if there is none."""
    counts = [
        int(name.rpartition("-")[2])
        for name in learned.names()
        if name.rpartition("-")[0] == model.name
    ]
    if method.steps not in counts:
        known = ", ".join(map(str, sorted(counts))) or "none"
        raise InputError(
            f"learned: the plans of {model.name} have these numbers of steps: {known}"
        )
    if setting.times.strip():
        raise InputError("learned: a plan has its own times, leave yours out")
    plan = pndm.plans.load(f"{model.name}-{method.steps:g}")
    assert plan.learned is not None
    plan.learned.require_schedule(schedule, "noise")
    plan.learned.require_network(model.network.provenance.get("sha256"))
    return plan


def title(plan: Plan) -> str:
    """A method as the page calls it."""
    order = f", order {plan.solver.order}" if plan.solver.order else ""
    return f"{plan.solver.name}, {plan.steps} step{'s' * (plan.steps > 1)}{order}"


def sample_trajectory(
    model: Model, x_T: Tensor, seeds: Sequence[int], plan: Plan, progress: Progress
) -> tuple[dict[int, Tensor], float]:
    """The states at FRAMES evenly spread nodes, by index of the node, and the seconds it took."""
    shown = {round(plan.steps * i / (FRAMES - 1)) for i in range(FRAMES)}
    states = {0: x_T}

    def keep_state(row: int, x: Tensor) -> None:
        node = plan.rows[row].ends
        if node in shown:
            states[node] = x
            progress(title(plan), row + 1, plan.nfe)

    noise = step_noise(seeds, x_T.shape[1:]) if plan.stochastic else None
    start = time.perf_counter()
    execute(plan, model.network, x_T, noise, keep_state).cpu()
    return states, time.perf_counter() - start


@lru_cache(maxsize=32)
def fine_solution(
    model: Model, schedule: Schedule, seeds: tuple[int, ...], start: float, end: float
) -> Tensor:
    """The images to which the ODE itself leads from a time on, very nearly.

    Heun's method evaluates at nodes only, so the solution is equally fine in every convention.
    """
    plan = fine_plan(schedule, FINE_STEPS, start, end, "noise")
    return execute(plan, model.network, model.initial_noise(seeds))


def animate(states: Sequence[Tensor]) -> bytes:
    """All images from the noise to the end, in a loop, as an animated PNG."""
    first, *others = (tiles(thumbnail(x)) for x in states)
    file = io.BytesIO()
    duration = [*[200] * len(others), 1500]
    first.save(file, "PNG", save_all=True, append_images=others, duration=duration, loop=0)
    return file.getvalue()


def draw_strip(network: UNet, states: dict[int, Tensor], plan: Plan) -> Image.Image:
    """The first image at some nodes, below it the image predicted there, above it the times.

    What the network predicts is x_0 = (x − √(1−ᾱ)·e)/√ᾱ.
    """
    nodes = [plan.nodes[i] for i in states]
    x = torch.cat([state[:1] for state in states.values()])
    t = x.new_tensor([node.time for node in nodes[:-1]])
    alpha_bar = x.new_tensor([node.alpha_bar for node in nodes[:-1]]).view(-1, 1, 1, 1)
    e = network(x[:-1], t)
    x_0 = (x[:-1] - (1 - alpha_bar).sqrt() * e) / alpha_bar.sqrt()
    strip = tiles(thumbnail(torch.cat([x, x_0, x[-1:]])), columns=len(nodes))
    times = (node.time for node in nodes)
    labels = ["the image" if t == -1 else f"t = {round(t, 1):g}" for t in times]
    return label_columns(strip, labels)


def label_columns(picture: Image.Image, labels: Sequence[str]) -> Image.Image:
    """A picture under a transparent band with a label above each of its columns."""
    gray = (134, 148, 168)  # readable on white and on black
    width = picture.width / len(labels)
    band = round(width / 4)
    canvas = Image.new("RGBA", (picture.width, band + picture.height), (*gray, 0))
    canvas.paste(picture, (0, band))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(width / 6)
    for i, label in enumerate(labels):
        draw.text(((i + 0.5) * width, band / 2), label, gray, font, anchor="mm")
    return canvas


def tiles(x: Tensor, columns: int | None = None) -> Image.Image:
    """Images side by side, enlarged to about TILE pixels each where they are smaller."""
    columns = columns or isqrt(len(x) - 1) + 1
    return images.grid(images.to_uint8(x), columns, max(1, TILE // x.shape[-1]))


def thumbnail(x: Tensor) -> Tensor:
    """Images [B, C, H, H], reduced to THUMBNAIL pixels where they are larger."""
    return adaptive_avg_pool2d(x, min(x.shape[-1], THUMBNAIL))


def load_shipped() -> dict[str, Model]:
    """The networks that ship with the package, by name."""
    return {name: load_model(name) for name in SHIPPED}


def load_model(
    checkpoint: str, architecture: str | None = None, schedule: str | None = None
) -> Model:
    """One network as `pndm.models.load` takes it; without a schedule, its card's.

    InputError for a network whose card says that it predicts something else than noise.
    """
    network = models.load(checkpoint, architecture=architecture)
    if (prediction := network.provenance.get("prediction", "noise")) != "noise":
        raise InputError(f"{checkpoint} predicts {prediction}: this page samples predicted noise")
    if schedule is None:
        schedule = network.provenance.get("schedule", "linear")
    return Model(network.provenance["name"], network, schedule)
