"""Trajectories from noise to digits and clothes by several methods, from the same seeds.

    python -m experiments.trajectories    # trajectory[_fashion].png, interpolation.png

`trajectory` shows x_0 as predicted at every node of ten steps, x_0 = (x_t − √(1−ᾱ)·e)/√ᾱ, and the
image at the end. `interpolation` shows images whose noises lie between two seeds', on the great
circle (slerp), which keeps their norm.
"""

import math
from pathlib import Path

import torch
from torch import Tensor

import pndm
from experiments.figures import figure, save
from experiments.pages import FOLDER, NAMES
from pndm._errors import prepare_console
from pndm.data import images
from pndm.schedules import Schedule
from pndm.solvers import SOLVERS

METHODS = ("ddim", "s_pndm", "plms", "prk", "fon")
STEPS, SEED = 10, 7

PATHS = {"trajectory": "digits_linear", "trajectory_fashion": "fashion_linear"}
"""The networks whose paths are drawn, by picture."""

BETWEEN = ((3, 21), (5, 8), (13, 2))
"""Pairs of seeds for interpolation."""


class Predicting:
    """A network that stores the predicted image of the last evaluation at each time.

    A stage of Runge-Kutta that reaches a node comes before the evaluation at the node itself.
    """

    def __init__(self, network, schedule: Schedule) -> None:
        self.network, self.schedule, self.seen = network, schedule, {}

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        e, a = self.network(x, t), self.schedule.node(t[0].item()).alpha_bar
        self.seen[t[0].item()] = (x - math.sqrt(1 - a) * e) / math.sqrt(a)
        return e


def path(solver: str, name: str, seed: int = SEED, steps: int = STEPS) -> Tensor:
    """The predicted images [steps + 1, C, H, W] at the nodes, the last one the result."""
    schedule, loaded = pndm.schedules.linear(), pndm.models.load(name)
    network = Predicting(loaded, schedule)
    x_T = pndm.initial_noise([seed], loaded.arch.image)
    x_0 = pndm.sample(network, x_T, solver=SOLVERS[solver](), schedule=schedule, steps=steps)
    nodes = pndm.plan(SOLVERS[solver](), schedule, steps).nodes[:-1]
    return torch.cat([*(network.seen[node.time] for node in nodes), x_0])


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation sin((1−s)Ω)/sin Ω·a + sin(sΩ)/sin Ω·b from a to b, s in [0, 1]."""
    angle = math.acos(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item())
    sides = math.sin((1 - share) * angle), math.sin(share * angle)
    return (sides[0] * a + sides[1] * b) / math.sin(angle)


def between(solver: str, pair: tuple[int, int], count: int = STEPS + 1, steps: int = 50) -> Tensor:
    """Sample images [count, 1, 8, 8] from interpolations of the noise of two seeds."""
    a, b = pndm.initial_noise(pair, (1, 8, 8))
    x_T = torch.stack([slerp(a, b, i / (count - 1)) for i in range(count)])
    return pndm.sample(
        pndm.models.load("digits_linear"),
        x_T,
        solver=SOLVERS[solver](),
        schedule=pndm.schedules.linear(),
        steps=steps,
    )


def draw(rows: dict[str, Tensor], title: str, below: str, stem: Path) -> list[Path]:
    """Draw labelled rows of images."""
    with figure(9, 0.86 * len(rows) + 0.7, len(rows), sharey=False, rows=len(rows)) as (
        fig,
        axes,
    ):
        for ax, (name, strip) in zip(axes, rows.items(), strict=True):
            scale = 64 // strip.shape[-1]
            tiles = images.grid(images.to_uint8(strip), columns=len(strip), scale=scale)
            ax.imshow(tiles, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.set_ylabel(name, rotation=0, ha="right", va="center")
            ax.grid(False)
            for side in ax.spines.values():
                side.set_visible(False)
        fig.suptitle(title)
        axes[-1].set_xlabel(below)
        return save(fig, stem)[:1]


def main() -> None:
    """Draw the three pictures."""
    times = f"nodes of {STEPS} steps, from t = 900 to the image"
    for picture, name in PATHS.items():
        paths = {NAMES[solver]: path(solver, name) for solver in METHODS}
        draw(paths, "the image as predicted on the way", times, FOLDER / picture)
    rows = {
        f"{NAMES[solver]} {pair[0]}–{pair[1]}": between(solver, pair)
        for pair in BETWEEN
        for solver in ("ddim", "plms")
    }
    title = "noises between two seeds, 50 steps"
    draw(rows, title, "share of the way on the great circle, 0 to 1", FOLDER / "interpolation")
    for picture in (*PATHS, "interpolation"):
        (FOLDER / f"{picture}.svg").unlink(missing_ok=True)  # pictures of pixels


if __name__ == "__main__":
    prepare_console()
    main()
