"""The paper's norm figure: which methods leave the manifold of noised data, and where.

    python -m experiments.manifold                        # the exact network of the digits
    python -m experiments.manifold --model digits_linear  # the trained one, or fashion_linear, …

‖x_t‖ along the trajectories of each method against the band that holds 99 % of true noised data
√ᾱ·x_0 + √(1−ᾱ)·e, and the share of samples outside it. `exact` is E[e | x_t] for the 1,797 scans,
each blurred by the standard deviation of its rounding to 17 grey levels, so that all deviations
are due to the solver, not to a network.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

import pndm
from experiments.figures import STYLES, figure, save
from experiments.pages import FOLDER, NAMES, markdown
from pndm._errors import Parser, lookup, one_line_exit, prepare_console
from pndm.data import datasets, images
from pndm.models import registry
from pndm.schedules import Schedule
from pndm.solvers import SOLVERS

METHODS = ("ddim", "plms", "prk", "fon")
STEPS, SAMPLES, DRAWS = 10, 200, 20_000

INSIDE = (0.005, 0.995)
"""The quantiles of the band of norms that counts as on the manifold."""

BLUR = {"digits": (2 / 16) / 12**0.5, "fashion_mnist": (2 / 255) / 12**0.5}
"""The standard deviation of rounding to a dataset's levels, 2/16 or 2/255 apart."""

Denoiser = Callable[[Tensor, Tensor], Tensor]


def trained_network(model: str) -> registry.Weights:
    """The network with a model's dataset and schedule; that of `exact` is the trained one.

    InputError for a name that is none, or of a dataset whose levels are not known here.
    """
    known = registry.find("digits_linear" if model == "exact" else model)
    lookup(BLUR, known.dataset, "dataset")
    return known


def exact(schedule: Schedule, data: Tensor, blur: float = BLUR["digits"]) -> Denoiser:
    """The optimal denoiser for data [N, D], every point of it blurred.

    `analytic.Mixture` with equal variances and weights, by matrix products, which makes 1,797
    components cheap.
    """

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        a, flat = schedule.node(t[0].item()).alpha_bar, x.flatten(1)
        total = a * blur**2 + 1 - a
        far = torch.cdist(flat, a**0.5 * data).square()
        mean = (-far / (2 * total)).softmax(1) @ data
        return ((1 - a) ** 0.5 * (flat - a**0.5 * mean) / total).view_as(x)

    return denoiser


def band(schedule: Schedule, data: Tensor, blur: float, t: float) -> tuple[float, float, float]:
    """The low end, middle and high end of the norms of true noised data at time t."""
    generator = torch.Generator().manual_seed(1)
    chosen = data[torch.randint(len(data), (DRAWS,), generator=generator)]
    noise = torch.randn(2, *chosen.shape, generator=generator, dtype=data.dtype)
    a = schedule.node(t).alpha_bar
    x = a**0.5 * (chosen + blur * noise[0]) + (1 - a) ** 0.5 * noise[1]
    low, middle, high = x.norm(dim=1).quantile(torch.tensor([INSIDE[0], 0.5, INSIDE[1]]).to(x))
    return low.item(), middle.item(), high.item()


def norms(denoiser: Denoiser, schedule: Schedule, solver: str, x_T: Tensor) -> dict[float, Tensor]:
    """The norms [B] at every node of a trajectory, by its time."""
    table = pndm.plan(SOLVERS[solver](), schedule, steps=STEPS)
    norms = {table.nodes[0].time: x_T.flatten(1).norm(dim=1)}

    def note(row: int, x: Tensor) -> None:
        if table.rows[row].ends is not None:
            norms[table.nodes[table.rows[row].ends].time] = x.flatten(1).norm(dim=1)

    pndm.sample(
        denoiser, x_T, solver=SOLVERS[solver](), schedule=schedule, steps=STEPS, callback=note
    )
    return norms


def measure(model: str) -> pd.DataFrame:
    """For each method and node: the median norm, the band, and the share of samples outside."""
    known = trained_network(model)
    schedule, blur = pndm.schedules.SCHEDULES[known.schedule](), BLUR[known.dataset]
    pixels = datasets.source(known.dataset)("all").images  # type: ignore[attr-defined]
    data = images.from_uint8(pixels).flatten(1).double()
    x_T = pndm.initial_noise(range(SAMPLES), pixels.shape[1:])
    if model == "exact":
        denoiser, x_T = exact(schedule, data), x_T.double()
    else:
        denoiser = pndm.models.load(model)
    rows, bands = [], {}
    for solver in METHODS:
        for t, lengths in norms(denoiser, schedule, solver, x_T).items():
            low, middle, high = bands[t] = bands.get(t) or band(schedule, data, blur, t)
            outside = ((lengths < low) | (lengths > high)).double().mean().item()
            row = {"model": model, "solver": solver, "time": t, "norm": lengths.median().item()}
            rows.append({**row, "low": low, "data": middle, "high": high, "outside": outside})
    return pd.DataFrame(rows)


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """The share of samples outside the band: the most at any node on the way, and at the end."""
    rows = []
    for solver in METHODS:
        nodes = table[table["solver"] == solver].sort_values("time")
        last, way = nodes.iloc[0], nodes.iloc[1:]
        worst = way.loc[way["outside"].idxmax()]
        most = f"{100 * worst['outside']:.1f} % (t = {worst['time']:g})"
        end = f"{100 * last['outside']:.1f} %"
        rows.append({"method": NAMES[solver], "most on the way": most, "image": end})
    return pd.DataFrame(rows)


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write manifold_MODEL.md and the figure from manifold_MODEL.csv."""
    model = table["model"].iloc[0]
    known = trained_network(model)
    page = folder / f"manifold_{model}.md"
    page.write_text(
        f"# Outside the manifold: {model} network, {known.dataset}, {known.schedule} schedule, "
        f"{STEPS} steps\n\n"
        f"Samples whose norm is outside the band that holds 99 % of true noised data ({SAMPLES} "
        f"samples).\n\n    python -m experiments.manifold --model {model}\n\n"
        f"{markdown(shares(table))}\n",
        encoding="utf-8",
    )
    with figure(11.5, 4.2, 2, sharey=False) as (fig, (left, right)):
        true = table[table["solver"] == METHODS[0]].sort_values("time", ascending=False)
        sides = (true["time"], true["low"], true["high"])
        left.fill_between(*sides, color="0.88", label="99 % of noised data")
        for solver in METHODS:
            rows = table[table["solver"] == solver]
            colour, marker, line = STYLES[solver, "leading"]
            look = {"color": colour, "marker": marker, "ls": line, "ms": 5}
            left.plot(rows["time"], rows["norm"], label=NAMES[solver], **look)
            right.plot(rows["time"], 100 * rows["outside"], **look)
        left.set(title="median norm of the samples", ylabel="‖x‖")
        right.set(title="samples outside the band of noised data", ylabel="%")
        right.axhline(1, color="0.3", lw=1, ls=(0, (4, 2)), label="noised data itself")
        for ax in (left, right):
            ax.set_xlabel("time t of the noise")
            ax.invert_xaxis()
        fig.legend(loc="outside right center")
        return [page, *save(fig, folder / f"manifold_{model}")]


def main() -> None:
    """Measure, write manifold_MODEL.csv, the page and the figure."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="exact", help="exact, or digits_linear, …")
    with one_line_exit("the same command begins again"):
        table = measure(parser.parse_args().model)
    path = FOLDER / f"manifold_{table['model'].iloc[0]}.csv"
    table.to_csv(path, index=False, float_format="%.6g")
    write(pd.read_csv(path), FOLDER)
    print(shares(table).to_string(index=False))


if __name__ == "__main__":
    prepare_console()
    main()
