"""Memorisation check: distances of samples to the training images.

    python -m pndm.train dataset=digits schedule=linear holdout=true recipe.iterations=5000
    python -m experiments.memorisation

A network that never saw a fixed tenth of the scans is asked for samples. Were they copies, they
would lie nearer to the scans it was trained on than real digits that it never saw do. Distances
are Euclidean over pixels from 0 to 1, to the nearest of a set.
"""

import json
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

import pndm
from experiments.pages import FOLDER, markdown
from pndm._errors import Parser, prepare_console
from pndm._files import write_json
from pndm._provenance import commit
from pndm.data import datasets, images
from pndm.evaluation.metrics import nearest_neighbours

HELD_OUT = Path("outputs/train/digits_linear_holdout/digits_linear_holdout.safetensors")
COLUMNS = ("from", "to", "images", "median", "first_percentile", "copies")

COPY, COPY_MEANS = 0.05, "less than one grey level of sixteen in one pixel"
"""The distance below which an image is a copy of a digit, and why."""


def samples(weights: str, architecture: str | None, count: int) -> Tensor:
    """Sample images [count, C, H, W] uint8 by PLMS in 50 steps from the seeds 0, 1, …"""
    network = pndm.models.load(weights, architecture=architecture)
    schedule = pndm.schedules.SCHEDULES[network.provenance.get("schedule") or "linear"]()
    batches = []
    for first in range(0, count, 250):
        seeds = range(first, min(first + 250, count))
        x_T = pndm.initial_noise(seeds, network.arch.image)
        x_0 = pndm.sample(network, x_T, solver=pndm.solvers.plms(), schedule=schedule, steps=50)
        batches.append(images.to_uint8(x_0))
    return torch.cat(batches)


def row(name: str, of: Tensor, to_name: str, to: Tensor) -> dict[str, object]:
    """Summarise the nearest distances of images to a set; in the same set, excluding the image."""
    if of is to:
        distances = torch.stack(
            [
                nearest_neighbours(of[i : i + 1], torch.cat([of[:i], of[i + 1 :]]))[0][0]
                for i in range(len(of))
            ]
        )
    else:
        distances = nearest_neighbours(of, to)[0]
    return {
        "from": name,
        "to": to_name,
        "images": len(of),
        "median": round(distances.median().item(), 4),
        "first_percentile": round(distances.quantile(0.01).item(), 4),
        "copies": int((distances < COPY).sum()),
    }


def measure(held_out: Path, count: int) -> list[dict[str, object]]:
    """The rows of the table; needs the network that was trained with holdout=true."""
    if not held_out.exists():
        raise SystemExit(
            f"{held_out} is missing: python -m pndm.train dataset=digits schedule=linear "
            "holdout=true recipe.iterations=5000"
        )
    train, rest, everything = (
        datasets.digits(part).images for part in ("train", "holdout", "all")
    )
    blind = samples(str(held_out), "digits_linear", count)
    shipped = samples("digits_linear", None, count)
    return [
        row("samples, nine tenths seen", blind, "the nine tenths", train),
        row("real digits, held out", rest, "the nine tenths", train),
        row("samples, nine tenths seen", blind, "the held-out tenth", rest),
        row("samples, all seen (shipped)", shipped, "all", everything),
        row("real digits", everything, "all others", everything),
    ]


def page(table: pd.DataFrame) -> str:
    """The page, in Markdown."""
    names = {"from": "", "to": "nearest in", "first_percentile": "1st percentile"}
    text = table[list(COLUMNS)].rename(columns=names).astype(str)
    title, command, about = __doc__.strip().split("\n\n")
    note = f"A distance below {COPY} counts as a copy: {COPY_MEANS}."
    parts = [f"# {title[:-1]}", command, f"{about} {note}", markdown(text)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure, write memorisation.csv with its provenance, and the page."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--held-out", type=Path, default=HELD_OUT)
    parser.add_argument("--samples", type=int, default=1797)
    options = parser.parse_args()
    table = pd.DataFrame(measure(options.held_out, options.samples), columns=COLUMNS)
    table.to_csv(FOLDER / "memorisation.csv", index=False)
    card = json.loads(options.held_out.with_suffix(".json").read_text(encoding="utf-8"))
    origin = {"held_out": card, "commit": commit(), "samples": options.samples}
    write_json(FOLDER / "memorisation.json", origin)
    (FOLDER / "memorisation.md").write_text(page(table), encoding="utf-8")


if __name__ == "__main__":
    prepare_console()
    main()
