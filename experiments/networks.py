"""The networks that were trained here: how, for how long, with which loss.

    python -m experiments.networks                 # networks.md and networks.png
    python -m experiments.networks outputs/train   # first take loss curves and samples from there

From the cards beside the shipped weights, and from the loss curves and pictures that
`python -m pndm.train` leaves beside what it trains.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

import pndm
from experiments.figures import figure, plain_log, save
from experiments.pages import FOLDER, markdown
from pndm._errors import MissingFile, Parser, one_line_exit, prepare_console
from pndm.models import registry

NETWORKS = ("digits_linear", "digits_cosine", "fashion_linear", "fashion_cosine")


def take(folder: Path) -> None:
    """Copy loss curves and sample pictures of networks trained in a folder; none is an error."""
    found = [name for name in NETWORKS if (folder / name / "losses.json").exists()]
    if not found:
        raise MissingFile(f"{folder} has no training of {', '.join(NETWORKS)}")
    for name in found:
        shutil.copy(folder / name / "losses.json", FOLDER / f"losses_{name}.json")
        shutil.copy(folder / name / "samples.png", FOLDER / f"samples_{name}.png")


def rows() -> Iterator[dict[str, str]]:
    """What the card of each network says."""
    for name in NETWORKS:
        path = registry.find(name).require().with_suffix(".json")
        card = json.loads(path.read_text(encoding="utf-8"))
        parameters = sum(weights.numel() for weights in pndm.models.load(name).parameters())
        yield {
            "network": name,
            "parameters": f"{parameters:,}",
            "iterations × batch": f"{card['iterations']:,} × {card['batch_size']}",
            "loss, last tenth": f"{card['loss_last_tenth']:.4f}",
            "hours": f"{card['seconds'] / 3600:.1f}",
            "threads": str(card["threads"]),
            "trained by": f"`{card['command']}`",
        }


def page(table: pd.DataFrame) -> str:
    """The page, in Markdown."""
    pictures = [
        f"100 samples of {name}, DDIM in 100 steps:\n\n![samples](samples_{name}.png)"
        for name in NETWORKS
        if (FOLDER / f"samples_{name}.png").exists()
    ]
    parts = [
        "# Networks",
        "From the cards next to the shipped weights. Loss curves and samples were kept for the "
        "networks of Fashion-MNIST.",
        "    python -m experiments.networks",
        markdown(table),
        "![Loss](networks.png)",
    ]
    return "\n\n".join([*parts, *pictures, ""])


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the page, and the loss curves that are here."""
    path = folder / "networks.md"
    path.write_text(page(table), encoding="utf-8")
    with figure(7.5, 4) as (fig, (ax,)):
        for name in NETWORKS:
            losses = FOLDER / f"losses_{name}.json"
            if losses.exists():
                curve = json.loads(losses.read_text(encoding="utf-8"))
                ax.plot(*zip(*curve, strict=True), label=name, lw=1)
        ax.set(
            xscale="log", yscale="log", xlabel="iteration", ylabel="loss (Ho et al. 2020, eq. 14)"
        )
        plain_log(ax.yaxis)
        ax.legend()
        return [path, *save(fig, folder / "networks")]


def main() -> None:
    """Take what a folder of trainings has, then write the page and the figure."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="a folder of trainings")
    options = parser.parse_args()
    with one_line_exit("the same command begins again"):
        if options.folder is not None:
            take(options.folder)
        write(pd.DataFrame(rows()), FOLDER)


if __name__ == "__main__":
    prepare_console()
    main()
