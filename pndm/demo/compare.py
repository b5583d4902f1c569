"""Sampling by two methods from the same noise, and what the page shows of it; plain Python."""

import inspect
import io
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

import pndm
from pndm import models, noise
from pndm._errors import InputError
from pndm.config.build import build_schedule
from pndm.data import images
from pndm.models.unet import UNet
from pndm.plans import Plan
from pndm.schedules import Node, Schedule
from pndm.solvers import SOLVERS, Solver

DIGITS = {"linear": "digits_linear", "cosine": "digits_cosine"}
"""The networks that need no file, by their schedules."""

IMAGES = 16
"""Images at once."""

FRAMES = 11
"""Nodes of a path that are shown, the first and the last among them."""

FINE = 200
"""Steps of the fine solution: Heun's, 2e-4 from Heun's at every time (digits)."""

TILE = 96
"""Pixels to which small images are enlarged."""

SIDE = 64
"""Pixels of an image on the path, at most."""

METHODS = [
    name
    for name, make in SOLVERS.items()
    if make.__name__ == name and name not in ("pf", "multistep")
]
"""The methods by name, without aliases, `pf` (no path) and `multistep` (which is `ipndm`)."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network, what it is called, and the schedule that it was trained on."""

    name: str
    network: UNet
    schedule: str

    def trained(self, convention: str) -> Schedule:
        """The schedule in a convention; InputError where it has none of that name."""
        timesteps = self.network.provenance.get("timesteps")
        timesteps = timesteps or round(1000 / self.network.arch.time_scale)
        return build_schedule({"name": self.schedule, "timesteps": timesteps}, convention)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """x_T [B, C, H, W] on the network's device."""
        arch, weight = self.network.arch, next(self.network.parameters())
        return noise.initial_noise(seeds, arch.image).to(weight.device)


class Method(NamedTuple):
    """One side of the page; `order` counts where a method has a choice of them."""

    solver: str
    steps: Any
    order: int | None = None


START = (Method("ddim", 30), Method("plms", 21))
"""The methods that the page begins with: 30 evaluations each."""


class Setting(NamedTuple):
    """What both sides share; `times`, where there are any, stand for the grid and the steps."""

    schedule: str = "linear"
    grid: str = "leading"
    seeds: str = "0-15"
    convention: str = "aligned"
    times: str = ""
    reference: bool = True


class Result(NamedTuple):
    """What one method made, and on the way.

    `samples` holds all images, `animation` (an animated PNG) their way; `strip` shows that of the
    first one at `times`: where it stands, and below what the network expects from there.
    `distance` to the fine solution is a root mean square over pixels in [−1, 1].
    """

    name: str
    samples: Image.Image
    animation: bytes
    strip: Image.Image
    times: list[float]
    nfe: int
    seconds: float
    distance: float | None


def compare(
    networks: dict[str, Model],
    methods: Sequence[Method],
    setting: Setting,
    tell: Callable[[str, int, int], object] = lambda *_: None,
) -> list[Result]:
    """Sample by each method from the same noise; `tell(what, done, of)` hears how far it is.

    InputError, before anything is sampled, for a value that cannot be used.
    """
    model = networks[setting.schedule]
    schedule = model.trained(setting.convention)
    seeds = read_seeds(setting.seeds)
    plans = [make_plan(method, schedule, setting) for method in methods]
    x_T = model.noise(seeds)
    model.network(x_T, x_T.new_zeros(len(x_T)))  # what a first evaluation costs is in no time
    results = []
    for plan in plans:
        states, seconds = sample_trajectory(model, x_T, seeds, plan, schedule, tell)
        distance = None
        if setting.reference and not plan.stochastic:
            tell("the fine solution", 0, 2 * FINE)
            fine = solution(model, schedule, seeds, plan.nodes[0].time, plan.nodes[-1].time)
            distance = (states[plan.steps] - fine).square().mean().sqrt().item()
        results.append(
            Result(
                name=title(plan),
                samples=tiles(states[plan.steps]),
                animation=animation(list(states.values())),
                strip=strip(model.network, states, plan),
                times=[plan.nodes[i].time for i in states],
                nfe=plan.nfe,
                seconds=seconds,
                distance=distance,
            )
        )
    return results


def read_seeds(text: str) -> tuple[int, ...]:
    """The seeds in a text such as "0-7, 42"; InputError if it is another, or has too many."""
    ranges = []
    for word in re.split(r"[,\s]+", re.sub(r"\s*-\s*", "-", text.strip(", \n"))):
        found = re.fullmatch(r"(\d{1,19})(?:-(\d{1,19}))?", word)
        if not found:
            raise InputError(f"seeds: {word!r} is no whole number, and no range such as 0-15")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise InputError(f"seeds: the range {word} ends before it begins")
        ranges.append((first, last + 1))
    count = sum(end - first for first, end in ranges)
    if count > IMAGES:
        raise InputError(f"seeds: these are {count} images, but at most {IMAGES} fit the page")
    return tuple(noise.check_seed(seed) for ends in ranges for seed in range(*ends))


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
    """Whether a method leaves its order to choose."""
    return "order" in inspect.signature(SOLVERS[solver]).parameters


def make_plan(method: Method, schedule: Schedule, setting: Setting) -> Plan:
    """The plan of one side; InputError if there is none."""
    options = {"order": method.order} if has_orders(method.solver) else {}
    solver = SOLVERS[method.solver](**options)
    assert isinstance(solver, Solver)
    if setting.times.strip():
        return pndm.plan(solver, schedule, grid=read_times(setting.times))
    if method.steps is None:
        raise InputError(f"{method.solver}: how many steps?")
    return pndm.plan(solver, schedule, method.steps, setting.grid)


def title(plan: Plan) -> str:
    """A method as the page calls it."""
    order = f", order {plan.solver.order}" if plan.solver.order else ""
    return f"{plan.solver.name}, {plan.steps} step{'s' * (plan.steps > 1)}{order}"


def sample_trajectory(
    model: Model,
    x_T: Tensor,
    seeds: Sequence[int],
    plan: Plan,
    schedule: Schedule,
    tell: Callable[[str, int, int], object],
) -> tuple[dict[int, Tensor], float]:
    """Where the images stand at some nodes, evenly spread and by their index; the seconds."""
    shown = {round(plan.steps * i / (FRAMES - 1)) for i in range(FRAMES)}
    states = {0: x_T}

    def see(row: int, x: Tensor) -> None:
        node = plan.rows[row].ends
        if node in shown:
            states[node] = x
            tell(title(plan), row + 1, plan.nfe)

    z = noise.step_noise(seeds, x_T.shape[1:]) if plan.stochastic else None
    began = time.perf_counter()
    pndm.sample(
        model.network,
        x_T,
        solver=plan.solver,
        schedule=schedule,
        grid=[node.time for node in plan.nodes],
        noise=z,
        callback=see,
    ).cpu()
    return states, time.perf_counter() - began


@lru_cache(maxsize=32)
def solution(
    model: Model, schedule: Schedule, seeds: tuple[int, ...], start: float, end: float
) -> Tensor:
    """The images to which the ODE itself leads from a time on, nearly.

    Heun's method asks at nodes only, and these are whole times, denser towards the image: so it
    is as fine in every convention.
    """
    whole = {round(start * (i / FINE) ** 2) for i in range(FINE)}
    nodes = sorted({t for t in whole if end < t < start} | {start, end}, reverse=True)
    return pndm.sample(
        model.network,
        model.noise(seeds),
        solver=pndm.solvers.heun(),
        schedule=schedule,
        grid=nodes,
    )


def animation(states: Sequence[Tensor]) -> bytes:
    """All images from noise to the end, over and over, as an animated PNG."""
    frames = [tiles(thumbnail(x)) for x in states]
    file = io.BytesIO()
    pace = [*[200] * (len(frames) - 1), 1500]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], duration=pace, loop=0)
    return file.getvalue()


def strip(network: UNet, states: dict[int, Tensor], plan: Plan) -> Image.Image:
    """The first image at some nodes, and below it what the network expects it to become."""
    x = torch.cat([state[:1] for state in states.values()])
    expected = [
        predicted(network, x[i : i + 1], plan.nodes[node])
        for i, node in enumerate(states)
        if node < plan.steps
    ]
    both = thumbnail(torch.cat([x, *expected, x[-1:]]))
    return tiles(both, columns=len(states))


def predicted(network: UNet, x: Tensor, node: Node) -> Tensor:
    """x_0 = (x − √(1−ᾱ)·e)/√ᾱ at a node."""
    e = network(x, x.new_full((len(x),), node.time))
    return (x - math.sqrt(1 - node.alpha_bar) * e) / math.sqrt(node.alpha_bar)


def tiles(x: Tensor, columns: int | None = None) -> Image.Image:
    """Images side by side, enlarged to about TILE pixels each where they are smaller."""
    columns = columns or math.isqrt(len(x) - 1) + 1
    return images.grid(images.to_uint8(x), columns, max(1, TILE // x.shape[-1]))


def thumbnail(x: Tensor) -> Tensor:
    """Images [B, C, H, H] of no more than SIDE pixels."""
    return adaptive_avg_pool2d(x, min(x.shape[-1], SIDE))


def load_digits() -> dict[str, Model]:
    """The two networks that ship with this package, by their schedules."""
    return {
        schedule: Model(name, models.load(name), schedule) for schedule, name in DIGITS.items()
    }


def load_model(
    checkpoint: str, architecture: str | None, schedule: str | None
) -> dict[str, Model]:
    """One network, as `pndm.models.load` takes it; unless given its schedule is its card's."""
    network = models.load(checkpoint, architecture=architecture)
    if schedule is None:
        schedule = network.provenance.get("schedule", "linear")
    return {schedule: Model(network.provenance["name"], network, schedule)}
