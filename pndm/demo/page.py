"""The page: gradio's parts and their layout."""

import html
from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from pndm import grids
from pndm._errors import PndmError, one_line
from pndm.demo.compare import (
    DEFAULT_METHODS,
    FINE_STEPS,
    MAX_IMAGES,
    METHODS,
    SHIPPED,
    Method,
    Model,
    Result,
    Setting,
    compare,
    has_orders,
    summary,
)
from pndm.schedules import Convention

ABOUT = """
# Two methods, one network, the same noise

A diffusion model is sampled by solving an ODE that leads from noise to an image. The two methods
below start from the same noise and call the same network, so they differ only by their own error:
the **distance** (root mean square over pixels from −1 to 1) of their images from those of the
ODE's fine solution. Their cost is the number of **evaluations** of the network (NFE): 30 for both
at first.
"""
THEME = gr.themes.Default(
    primary_hue="blue",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["system-ui", "sans-serif"],
)
CSS = """
.gradio-container { width: 100%; max-width: 1180px !important; margin: auto !important; }
#results img { object-fit: contain; }
#results .block:not(.strip) .image-frame { width: 100%; }
#results .strip { overflow-x: auto !important; }
#results .strip .image-container { min-width: 750px; }
#results .strip img { object-fit: scale-down; }
#results .strip button { justify-content: left; }
#results .icon-button-wrapper { display: none; }
"""

picture = partial(gr.Image, format="png", show_label=False, container=False, buttons=[])
"""A picture without frame and buttons."""


def build(networks: dict[str, Model], device: str) -> gr.Blocks:
    """The page; the first network is chosen."""
    with gr.Blocks(title="pndm", delete_cache=(3600, 3600)) as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            sides = [_method_inputs(side, DEFAULT_METHODS[i]) for i, side in enumerate("AB")]
        shared = _setting_inputs(networks, device)
        button = gr.Button("Compare", variant="primary", elem_id="compare")
        table = gr.Dataframe(
            headers=["method", "NFE", "seconds", "distance"],
            interactive=False,
            buttons=[],
            elem_id="numbers",
        )
        with gr.Column(visible=False, elem_id="results") as results:
            outputs: list[Any] = [results, table]
            with gr.Row():
                for _ in sides:
                    with gr.Column():
                        outputs.append(gr.Markdown())
                        with gr.Row():
                            outputs.append(picture(alt_text="samples"))
                            outputs.append(picture(alt_text="path from the noise"))
            for _ in sides:
                outputs += [gr.Markdown(), picture(alt_text="strip", elem_classes="strip")]

        def run(values: dict, progress: gr.Progress = gr.Progress()) -> list:  # noqa: B008
            """Compare the two methods."""
            methods = [Method(*(values[part] for part in side)) for side in sides]
            setting = Setting(*(values[part] for part in shared))

            def report(what: str, done: int, total: int) -> None:
                progress((done, total), desc=what, unit="evaluations")

            try:
                return render(compare(networks, methods, setting, report))
            except Exception as error:
                raise render_error(error) from error

        gr.on(
            [button.click, shared[2].submit],  # or Enter in the seeds
            run,
            {*(part for side in sides for part in side), *shared},
            outputs,
            api_name="compare",
            show_progress_on=table,
        ).failure(lambda: gr.Column(visible=False), None, results, api_visibility="private")
    return page


def _method_inputs(side: str, method: Method) -> tuple[gr.Dropdown, gr.Number, gr.Dropdown]:
    """The inputs of one side: those of a `Method`, in its order."""
    with gr.Column(variant="panel"):
        solver = gr.Dropdown(
            METHODS,
            value=method.solver,
            label=f"Method {side}",
            info=summary(method.solver),
            elem_id=f"solver-{side.lower()}",
        )
        with gr.Row():
            steps = gr.Number(method.steps, label="Steps", elem_id=f"steps-{side.lower()}")
            order = gr.Dropdown(
                [("the usual", None), *((f"{n}", n) for n in range(1, 5))],
                value=None,
                label="Order",
                visible=False,
                elem_id=f"order-{side.lower()}",
            )
    solver.change(
        lambda name: (gr.Dropdown(info=summary(name)), gr.Dropdown(visible=has_orders(name))),
        solver,
        [solver, order],
        show_progress="hidden",
        api_visibility="private",
    )
    return solver, steps, order


def _setting_inputs(networks: dict[str, Model], device: str) -> tuple[Any, ...]:
    """The inputs of both sides: those of a `Setting`, in its order."""
    with gr.Row():
        network = gr.Dropdown(
            [(f"{name}, {model.schedule}", name) for name, model in networks.items()],
            label="Network and schedule",
            info="The variances that it was trained with",
            elem_id="network",
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
            info=f"One for each image, {MAX_IMAGES} at most",
            elem_id="seeds",
        )
    with (
        gr.Accordion("Convention, your own times, distance", open=False, elem_id="more"),
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
        distance = gr.Checkbox(
            device == "cuda" or set(networks) == set(SHIPPED),
            label="Distance to the fine solution",
            info=f"Costs up to {2 * FINE_STEPS} evaluations, once for the same seeds",
            elem_id="distance",
        )
    return network, grid, seeds, convention, times, distance


def render(results: Sequence[Result]) -> list:
    """The values of the outputs: the results shown, their table, headings and pictures."""
    table = []
    for result in results:
        distance = "–" if result.distance is None else f"{result.distance:.4f}"
        table.append([result.name, str(result.nfe), f"{result.seconds:.2f}", distance])
    values: list[Any] = [gr.Column(visible=True), table]
    for result in results:
        path = save_bytes_to_cache(result.animation, "path.png", get_upload_folder())
        values += [f"### {result.name}: samples and path", result.samples, path]
    for result in results:
        heading = f"### {result.name}: the first image; below, what the network predicts"
        values += [heading, result.strip]
    return values


def render_error(error: Exception) -> gr.Error:
    """The gradio error for an error: one line for a `PndmError`, a traceback for a bug."""
    if isinstance(error, PndmError):
        return gr.Error(html.escape(one_line(error)), print_exception=False)
    return gr.Error("internal error: the terminal shows where")
