"""A page on which two methods sample side by side, from the same noise.

    pip install 'pndm[demo]'
    python -m pndm.demo                                         # digits, on this machine alone
    python -m pndm.demo --checkpoint FILE --architecture ddpm_cifar10

Everything up to `compare` is plain Python; `build` puts a page of gradio in front of it.
"""

import argparse
import base64
import html
import inspect
import io
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, get_args

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

import pndm
from pndm import config, grids, images, models, noise
from pndm.models.registry import ARCHITECTURES, WEIGHTS
from pndm.models.unet import UNet
from pndm.plans import Plan
from pndm.schedules import SCHEDULES, Convention, Node, Schedule
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
        """The schedule in a convention; ValueError where it has none of that name."""
        timesteps = round(1000 / self.network.arch.time_scale)
        return config.schedule({"name": self.schedule, "timesteps": timesteps}, convention)

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

    ValueError, before anything is sampled, for a value that cannot be used.
    """
    model = networks[setting.schedule]
    schedule = model.trained(setting.convention)
    seeds = read_seeds(setting.seeds)
    plans = [planned(method, schedule, setting) for method in methods]
    x_T = model.noise(seeds)
    model.network(x_T, x_T.new_zeros(len(x_T)))  # what a first evaluation costs is in no time
    results = []
    for plan in plans:
        states, seconds = follow(model, x_T, seeds, plan, schedule, tell)
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
    """The seeds in a text such as "0-7, 42"; ValueError if it is another, or has too many."""
    ranges = []
    for word in re.split(r"[,\s]+", re.sub(r"\s*-\s*", "-", text.strip(", \n"))):
        found = re.fullmatch(r"(\d{1,19})(?:-(\d{1,19}))?", word)
        if not found:
            raise ValueError(f"seeds: {word!r} is no whole number, and no range such as 0-15")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(f"seeds: the range {word} ends before it begins")
        ranges.append((first, last + 1))
    count = sum(end - first for first, end in ranges)
    if count > IMAGES:
        raise ValueError(f"seeds: these are {count} images, but at most {IMAGES} fit the page")
    return tuple(noise.check_seed(seed) for ends in ranges for seed in range(*ends))


def read_times(text: str) -> list[float]:
    """The times in a text such as "999, 600, 0, -1"; ValueError for what is no number."""
    times = []
    for word in re.split(r"[,\s]+", text.strip(", \n")):
        try:
            times.append(float(word))
        except ValueError:
            raise ValueError(f"times: {word!r} is no number") from None
    return times


def has_orders(solver: str) -> bool:
    """Whether a method leaves its order to choose."""
    return "order" in inspect.signature(SOLVERS[solver]).parameters


def planned(method: Method, schedule: Schedule, setting: Setting) -> Plan:
    """The plan of one side; ValueError if there is none."""
    options = {"order": method.order} if has_orders(method.solver) else {}
    solver = SOLVERS[method.solver](**options)
    assert isinstance(solver, Solver)
    if setting.times.strip():
        return pndm.plan(solver, schedule, grid=read_times(setting.times))
    if method.steps is None:
        raise ValueError(f"{method.solver}: how many steps?")
    return pndm.plan(solver, schedule, method.steps, setting.grid)


def title(plan: Plan) -> str:
    """A method as the page calls it."""
    order = f", order {plan.solver.order}" if plan.solver.order else ""
    return f"{plan.solver.name}, {plan.steps} step{'s' * (plan.steps > 1)}{order}"


def follow(
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
    frames = [tiles(small(x)) for x in states]
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
    both = small(torch.cat([x, *expected, x[-1:]]))
    return tiles(both, columns=len(states))


def predicted(network: UNet, x: Tensor, node: Node) -> Tensor:
    """x_0 = (x − √(1−ᾱ)·e)/√ᾱ at a node."""
    e = network(x, x.new_full((len(x),), node.time))
    return (x - math.sqrt(1 - node.alpha_bar) * e) / math.sqrt(node.alpha_bar)


def tiles(x: Tensor, columns: int | None = None) -> Image.Image:
    """Images side by side, enlarged to about TILE pixels each where they are smaller."""
    columns = columns or math.isqrt(len(x) - 1) + 1
    return images.grid(images.to_uint8(x), columns, max(1, TILE // x.shape[-1]))


def small(x: Tensor) -> Tensor:
    """Images [B, C, H, H] of no more than SIDE pixels."""
    return adaptive_avg_pool2d(x, min(x.shape[-1], SIDE))


# The page

ABOUT = """
# Two methods, one network, the same noise

A diffusion model is sampled by solving an ODE that leads from noise to an image. The two methods
below begin at the same noise and ask the same network, so what differs is their own error: the
**distance** (root mean square over pixels from −1 to 1) of their images to those of the ODE's fine
solution. What they cost is the number of **evaluations** of the network (NFE): 30 for both, as set
here at first.
"""

LOOK = """
.gradio-container { max-width: 1180px !important; margin: auto !important; }
.results { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem 2.5rem; }
.results h3 { margin: 0 0 .6rem; }
.results figure { margin: 0; min-width: 0; }
.results figcaption, .strip span, .hint, dt { color: var(--body-text-color-subdued); }
.results figcaption { font-size: .85rem; margin-top: .35rem; }
.results img { width: 100%; border-radius: 4px; }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; }
dl.numbers { display: grid; grid-template-columns: repeat(3, 1fr); gap: .8rem; margin: .9rem 0 0; }
.numbers dt { font-size: .85rem; }
.numbers dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.strip { grid-column: 1 / -1; }
.strip .times, .strip img { max-width: var(--width); }
.strip .times { display: grid; font-size: .75rem; text-align: center; }
.wrong { border-left: 4px solid #d55e00; padding: .7rem 1rem; font-size: 1.05rem; }
@media (max-width: 800px) { .results { grid-template-columns: 1fr; } }
"""

HINT = """
<p class="hint">Here will be the images of both methods, their way there, and what it cost.</p>
"""


def shown(results: Sequence[Result]) -> str:
    """The results as HTML that needs nothing but itself."""
    return (
        '<div class="results">'
        + "".join(map(_column, results))
        + "".join(map(_strip, results))
        + "</div>"
    )


def wrong(error: BaseException) -> str:
    """An error as one line of HTML."""
    return f'<p class="wrong" role="alert">{html.escape(config.one_line(error))}</p>'


def _column(result: Result) -> str:
    far = "–" if result.distance is None else f"{result.distance:.4f}"
    numbers = {
        "evaluations (NFE)": result.nfe,
        "seconds": f"{result.seconds:.2f}",
        "distance": far,
    }
    return (
        f'<section><h3>{result.name}</h3><div class="pictures">'
        + _figure(_png(result.samples), f"samples of {result.name}", "samples")
        + _figure(result.animation, f"path of {result.name}", "the way from the noise")
        + '</div><dl class="numbers">'
        + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in numbers.items())
        + "</dl></section>"
    )


def _strip(result: Result) -> str:
    times = "".join(f"<span>{_time(t)}</span>" for t in result.times)
    columns = f"grid-template-columns: repeat({len(result.times)}, 1fr)"
    return (
        f'<div class="strip" style="--width: {len(result.times) * (TILE + 4)}px">'
        f"<h3>{result.name}: the first image on its way</h3>"
        f'<div class="times" style="{columns}">{times}</div>'
        + _figure(
            _png(result.strip),
            f"strip of {result.name}",
            "above, where it stands; below, the image that the network expects from there",
        )
        + "</div>"
    )


def _time(t: float) -> str:
    return "the image" if t == -1 else f"t = {round(t, 1):g}"


def _figure(png: bytes, about: str, caption: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<figure><img src="{source}" alt="{about}"><figcaption>{caption}</figcaption></figure>'


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def build(networks: dict[str, Model], device: str) -> Any:
    """The page, as the Blocks of gradio; the first network is chosen."""
    import gradio as gr

    orders: list[tuple[str, int | None]] = [
        ("the usual", None),
        *((f"{n}", n) for n in range(1, 5)),
    ]
    sides = []
    with gr.Blocks(title="pndm") as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            for side, method in zip("ab", START, strict=True):
                with gr.Column(variant="panel"):
                    solver = gr.Dropdown(
                        METHODS,
                        value=method.solver,
                        label=f"Method {side.upper()}",
                        info=summary(method.solver),
                        elem_id=f"solver-{side}",
                    )
                    with gr.Row():
                        steps = gr.Number(method.steps, label="Steps", elem_id=f"steps-{side}")
                        order = gr.Dropdown(
                            orders,
                            value=None,
                            label="Order",
                            visible=False,
                            elem_id=f"order-{side}",
                        )
                    solver.change(
                        lambda name: (
                            gr.update(info=summary(name)),
                            gr.update(visible=has_orders(name)),
                        ),
                        solver,
                        [solver, order],
                        show_progress="hidden",
                    )
                    sides.append((solver, steps, order))
        with gr.Row():
            schedule = gr.Dropdown(
                [(f"{model.name}, {name}", name) for name, model in networks.items()],
                label="Network and schedule",
                info="The variances that it was trained with",
                elem_id="schedule",
            )
            grid = gr.Dropdown(
                list(grids.GRIDS),
                label="Grid",
                info="The times at which both methods stop",
                elem_id="grid",
            )
            seeds = gr.Textbox(
                "0-15",
                label="Seeds",
                info=f"One for each image, {IMAGES} at most",
                elem_id="seeds",
            )
        with (
            gr.Accordion("Convention, times of your own, distance", open=False, elem_id="more"),
            gr.Row(),
        ):
            convention = gr.Dropdown(
                list(get_args(Convention)),
                label="Convention",
                info="Which ᾱ belongs to a time, and where the end is",
                elem_id="convention",
            )
            times = gr.Textbox(
                "",
                label="Times",
                info="Your own, descending, instead of grid and steps: 999, 600, 300, 0, -1",
                elem_id="times",
            )
            reference = gr.Checkbox(
                device == "cuda" or networks.keys() == DIGITS.keys(),
                label="Distance to the fine solution",
                info=f"Costs up to {2 * FINE} evaluations, once for the same seeds",
                elem_id="reference",
            )
        button = gr.Button("Compare", variant="primary", elem_id="compare")
        output = gr.HTML(HINT, elem_id="output")
        shared = (schedule, grid, seeds, convention, times, reference)

        bar = gr.Progress()

        def press(values: dict, progress=bar) -> str:
            """The results, or one line that says what is wrong."""
            methods = [
                Method(values[solver], values[steps], values[order])
                for solver, steps, order in sides
            ]
            setting = Setting(*(values[part] for part in shared))

            def tell(what: str, done: int, of: int) -> None:
                progress((done, of), desc=what, unit="evaluations")

            try:
                return shown(compare(networks, methods, setting, tell))
            except (*config.EXPECTED, RuntimeError) as error:
                return wrong(error)

        gr.on(
            [button.click, seeds.submit],
            press,
            {*(part for side in sides for part in side), *shared},
            output,
            api_name="compare",
        )
    return page


def summary(solver: str) -> str:
    """The first line of a method's description."""
    return (inspect.getdoc(SOLVERS[solver]) or "").split("\n")[0]


def digits() -> dict[str, Model]:
    """The two networks that ship with this package, by their schedules."""
    return {
        schedule: Model(name, models.load(name), schedule) for schedule, name in DIGITS.items()
    }


def loaded(checkpoint: str, architecture: str | None, schedule: str | None) -> dict[str, Model]:
    """One network, as `pndm.models.load` takes it; its schedule is the registry's unless given."""
    network = models.load(checkpoint, architecture=architecture)
    if schedule is None:
        schedule = WEIGHTS[checkpoint].schedule if checkpoint in WEIGHTS else "linear"
    return {schedule: Model(network.provenance["name"], network, schedule)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until it is interrupted; SystemExit with one line if it cannot."""
    parser = argparse.ArgumentParser(
        "python -m pndm.demo", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for other machines to see it")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--checkpoint", help="a file of weights, or a name known to pndm.models")
    parser.add_argument("--architecture", choices=ARCHITECTURES, help="that of a file")
    parser.add_argument("--schedule", choices=SCHEDULES, help="what it was trained on (linear)")
    chosen = parser.parse_args(arguments)
    if chosen.checkpoint is None and (chosen.architecture or chosen.schedule):
        parser.error("--architecture and --schedule describe a --checkpoint, and there is none")
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    try:
        import gradio as gr
    except ImportError:
        sys.exit("error: the page is made with gradio: pip install 'pndm[demo]'")
    try:
        networks = (
            loaded(chosen.checkpoint, chosen.architecture, chosen.schedule)
            if chosen.checkpoint
            else digits()
        )
        device = config.device("auto")
        for model in networks.values():
            model.network.to(device)
        theme = gr.themes.Default(
            primary_hue="blue",
            neutral_hue="slate",
            font=["system-ui", "sans-serif"],
            font_mono=["monospace"],
        )
        print(f"http://{chosen.host}:{chosen.port} is the page, until Ctrl-C", flush=True)
        build(networks, device).launch(
            quiet=True,
            server_name=chosen.host,
            server_port=chosen.port,
            share=False,
            ssr_mode=False,
            footer_links=[],
            theme=theme,
            css=LOOK,
        )
    except config.EXPECTED as error:
        sys.exit(f"error: {config.one_line(error)}")


if __name__ == "__main__":
    main()
