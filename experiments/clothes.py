"""Generated clothes and test images: distance to the training images, classifier confidence.

    python -m experiments.clothes                # clothes.csv, clothes.md

F-PNDM in 50 steps from the first seeds, and as many of Fashion-MNIST's test images. Were samples
copies, they would lie nearer to the training images than the test images do; distances are
Euclidean over pixels from 0 to 1. Confidence is the largest probability that the classifier of the
`fashion` features gives to a class; it was trained on real images alone.
"""

import pandas as pd
import torch
from torch import Tensor

from experiments.memorisation import row, samples
from experiments.pages import FOLDER, markdown
from pndm._errors import prepare_console
from pndm.data import datasets, images
from pndm.evaluation import classifier

SAMPLES = 500
NETWORKS = ("fashion_linear", "fashion_cosine")
CERTAIN = 0.9


def classes(pixels: Tensor) -> dict[str, object]:
    """The classifier's confidence in images [B, 1, 28, 28] uint8, and the sizes of its classes."""
    network = classifier.load("fashion")
    parts = pixels.split(classifier.BATCH)
    probabilities = torch.cat([network(images.from_uint8(x)).softmax(1) for x in parts])
    confidence, of = probabilities.max(1)
    counts = of.bincount(minlength=probabilities.shape[1])
    return {
        "confidence": round(confidence.mean().item(), 3),
        "certain": round((confidence > CERTAIN).double().mean().item(), 3),
        "classes": f"{counts.min()} to {counts.max()}",
    }


def measure(count: int = SAMPLES) -> pd.DataFrame:
    """A row for the samples of each network, and one for test images."""
    train, test = (datasets.fashion_mnist(part).images for part in ("all", "test"))
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    sets = {f"samples of {name}": samples(name, None, count) for name in NETWORKS}
    sets["test images"] = test[order[:count]]
    return pd.DataFrame(
        [{**row(name, of, "training", train), **classes(of)} for name, of in sets.items()]
    )


def page(table: pd.DataFrame) -> str:
    """The page, in Markdown."""
    names = {
        "from": "",
        "images": "images",
        "median": "nearest training image, median",
        "first_percentile": "1st percentile",
        "confidence": "mean confidence",
        "certain": f"above {CERTAIN}",
        "classes": "images of a class",
    }
    text = table[list(names)].rename(columns=names).astype(str)
    title, command, about = __doc__.strip().split("\n\n")
    return "\n\n".join([f"# {title[:-1]}", command, about, markdown(text)]) + "\n"


def main() -> None:
    """Measure, and write the table and the page."""
    table = measure()
    table.to_csv(FOLDER / "clothes.csv", index=False)
    (FOLDER / "clothes.md").write_text(page(table), encoding="utf-8")


if __name__ == "__main__":
    prepare_console()
    main()
