"""The page: gradio's parts, and the results as HTML."""

import base64
import html
import inspect
import io
from collections.abc import Sequence
from typing import Any, get_args

from PIL import Image

from pndm import grids
from pndm._errors import PndmError, one_line
from pndm.demo.compare import (
    DIGITS,
    FINE,
    IMAGES,
    METHODS,
    START,
    TILE,
    Method,
    Model,
    Result,
    Setting,
    compare,
    has_orders,
)
from pndm.schedules import Convention
from pndm.solvers import SOLVERS

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


def render(results: Sequence[Result]) -> str:
    """The results as HTML that needs nothing but itself."""
    return (
        '<div class="results">'
        + "".join(map(_column, results))
        + "".join(map(_strip, results))
        + "</div>"
    )


def render_error(error: BaseException) -> str:
    """An error as one line of HTML."""
    return f'<p class="wrong" role="alert">{html.escape(one_line(error))}</p>'


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
                return render(compare(networks, methods, setting, tell))
            except PndmError as error:
                return render_error(error)

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
