"""Strips of samples: DDIM and F-PNDM from the same noise, at the same number of evaluations.

    python -m experiments.strip               # results/strip_fashion.png and strip.png

Clothes of the first seeds after 10, 20, 50 and 1000 evaluations; digits after 10, 20 and 50, and
below each row of these the difference to the fine solution of the ODE from the same noise and
time. F-PNDM takes as many steps as the evaluations allow; each of its first three takes four,
except that a step into the image takes one.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

import pndm
from experiments.figures import figure
from experiments.fine_solution import rms, solution
from experiments.pages import FOLDER
from pndm._errors import prepare_console
from pndm.data import images
from pndm.solvers import SOLVERS

METHODS = {"ddim": "DDIM", "plms": "F-PNDM"}
EVALUATIONS = (10, 20, 50)
SEEDS = range(5)
OF_CLOTHES, CLOTHES = (10, 20, 50, 1000), range(8)
"""The evaluations and the seeds of the strip of clothes."""
DARKEST = 0.3
"""The difference drawn in full colour; pixels are in [−1, 1]."""


def most_steps(solver: str, evaluations: int) -> int:
    """The largest number of steps of a solver within a number of evaluations."""
    nfe = SOLVERS[solver]().nfe
    return max(steps for steps in range(1, evaluations + 1) if nfe(steps) <= evaluations)


def cell(solver: str, evaluations: int) -> tuple[Tensor, Tensor, int]:
    """Images [B, 1, 8, 8], their differences to the fine solution, and the evaluations of each."""
    schedule, network = pndm.schedules.linear(), pndm.models.load("digits_linear")
    x_T = pndm.initial_noise(SEEDS, (1, 8, 8))
    steps = most_steps(solver, evaluations)
    plan = pndm.plan(SOLVERS[solver](), schedule, steps)
    x_0 = pndm.sample(network, x_T, solver=plan.solver, schedule=schedule, steps=steps)
    return x_0, x_0 - solution(network, schedule, x_T, plan.nodes[0].time), plan.nfe


def side_by_side(x: Tensor) -> Tensor:
    """Concatenate images [B, H, W, 3] to a row [H, …, 3], with white gaps."""
    white = torch.ones(x.shape[1], 1, 3)
    return torch.cat([part for image in x for part in (image, white)][:-1], 1)


def picture(x_0: Tensor, difference: Tensor) -> Tensor:
    """Draw images in grey, and below the differences in colour, red where they are brighter."""
    grey = images.to_uint8(x_0)[:, 0, :, :, None].expand(-1, -1, -1, 3) / 255
    scaled = (difference[:, 0] / DARKEST + 1) / 2
    colours = torch.from_numpy(plt.get_cmap("RdBu_r")(scaled.numpy())[..., :3]).float()
    above, below = side_by_side(grey), side_by_side(colours)
    return torch.cat([above, torch.ones(1, above.shape[1], 3), below])


def frame(ax: Axes, solver: str, count: int) -> None:
    """Leave the picture alone, and in the first row the number of evaluations above it."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    if solver == "ddim":
        ax.set_title(f"{count} evaluations")


def draw(path: Path) -> None:
    """A row for each method, a column for each number of evaluations."""
    with figure(10, 3.35, 6, sharey=False, rows=2) as (fig, axes):
        fig.get_layout_engine().set(wspace=0.06, hspace=0.05)
        pairs = [(solver, count) for solver in METHODS for count in EVALUATIONS]
        for ax, (solver, count) in zip(axes, pairs, strict=True):
            x_0, difference, nfe = cell(solver, count)
            ax.imshow(picture(x_0, difference), interpolation="nearest")
            error = rms(difference)
            fewer = "" if nfe == count else f" ({nfe} evaluations)"
            frame(ax, solver, count)
            ax.set_xlabel(f"error {error:.3f}{fewer}")
            if count == EVALUATIONS[0]:
                height = x_0.shape[2]
                ax.set_yticks([(height - 1) / 2, (3 * height + 1) / 2], [METHODS[solver], "error"])
                ax.tick_params(length=0)
        fig.savefig(path, dpi=150, metadata={"Software": None})


def clothes(solver: str, evaluations: int) -> Tensor:
    """Images [B, 1, 28, 28] of the fashion network on the linear schedule."""
    schedule, network = pndm.schedules.linear(), pndm.models.load("fashion_linear")
    x_T = pndm.initial_noise(CLOTHES, (1, 28, 28))
    steps = most_steps(solver, evaluations)
    return pndm.sample(network, x_T, solver=SOLVERS[solver](), schedule=schedule, steps=steps)


def draw_clothes(path: Path) -> None:
    """A row for each method, a column for each number of evaluations."""
    with figure(11, 3.1, 2 * len(OF_CLOTHES), sharey=False, rows=2) as (fig, axes):
        fig.get_layout_engine().set(wspace=0.06, hspace=0.04)
        pairs = [(solver, count) for solver in METHODS for count in OF_CLOTHES]
        for ax, (solver, count) in zip(axes, pairs, strict=True):
            tiles = images.grid(images.to_uint8(clothes(solver, count)), columns=4, scale=2)
            ax.imshow(tiles, interpolation="nearest", cmap="gray", vmin=0, vmax=255)
            frame(ax, solver, count)
            if count == OF_CLOTHES[0]:
                ax.set_ylabel(METHODS[solver])
        fig.savefig(path, dpi=150, metadata={"Software": None})


def main() -> None:
    """Draw both strips."""
    draw_clothes(FOLDER / "strip_fashion.png")
    draw(FOLDER / "strip.png")


if __name__ == "__main__":
    prepare_console()
    main()
