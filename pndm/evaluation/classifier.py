"""Small classifiers of digits and of Fashion-MNIST, whose features are compared by FID.

    python -m pndm.evaluation.classifier
    python -m pndm.evaluation.classifier fashion

The features are the inputs of the last hidden layer's ReLU, standardised on all images of the
part `all`. The outputs of a ReLU would not do: units that are always 0 make the covariance
singular. Without a decorrelation loss, such a network's 64 features collapse to about ten distinct
ones, one per class, which see little else; so training also penalises their correlation (Cogswell
et al. 2016, DeCov).
"""

import copy
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from pndm import _provenance, noise
from pndm._errors import InputError, Parser, one_line_exit, prepare_console
from pndm._files import sha256, write_bytes, write_json
from pndm._provenance import versions
from pndm.data import datasets, images

COMMAND = "python -m pndm.evaluation.classifier"

BATCH = 250
"""Images in a batch of a trained network."""

LARGE_BATCH = 2000
"""Images in a batch of `standardise`: all digits, whose last bits depend on it."""


@dataclass(frozen=True)
class Recipe:
    """A classifier and its training.

    `layers` are the widths of 3×3 convolutions, each with a ReLU (and before it, with `norm`, a
    BatchNorm), and `half` where the image is halved. It is trained on the images of `train_part`
    and tested on those of `test_part`; `images` says so in its card.
    """

    name: str
    dataset: str
    load: Callable[[datasets.Part], datasets.TensorImages]
    labels: Callable[[datasets.Part], Tensor]
    train_part: datasets.Part
    test_part: datasets.Part
    images: str
    size: int
    layers: tuple[int | Literal["half"], ...]
    features: int
    steps: int
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05
    decorrelation: float = 0.3
    flip: bool = False
    norm: bool = False
    channels_last: bool = False

    @property
    def weights(self) -> Path:
        """The weights that come with the package."""
        folder = Path(__file__).parents[1] / "models" / "weights"
        return folder / f"{self.name}_classifier.safetensors"


RECIPES = {
    "digits": Recipe(
        name="digits",
        dataset="digits",
        load=datasets.digits,
        labels=datasets.digit_labels,
        train_part="train",
        test_part="holdout",
        images="nine tenths; the features are standardised on all",
        size=8,
        layers=(32, 64, "half"),
        features=64,
        steps=1000,
    ),
    "fashion": Recipe(
        name="fashion",
        dataset="fashion_mnist",
        load=datasets.fashion_mnist,
        labels=datasets.fashion_labels,
        train_part="all",
        test_part="test",
        images="all 60,000 for training; the other 10,000 are the test",
        size=28,
        layers=(32, "half", 64, "half", 128, "half"),
        features=128,
        steps=2500,
        batch_size=256,
        flip=True,
        norm=True,
        channels_last=True,
    ),
}
"""The classifiers by the names that their features have in `conf/dataset`."""


class Classifier(nn.Module):
    """Convolutions, the features, ten classes; images uint8 [B, 1, size, size]."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        body: list[nn.Module] = []
        width, size = 1, recipe.size
        for layer in recipe.layers:
            if layer == "half":
                body.append(nn.MaxPool2d(2))
                size //= 2
            else:
                norms = [nn.BatchNorm2d(layer)] if recipe.norm else []
                body += [nn.Conv2d(width, layer, 3, padding=1), *norms, nn.ReLU()]
                width = layer
        body += [nn.Flatten(), nn.Linear(width * size * size, recipe.features)]
        self.body = nn.Sequential(*body)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(recipe.features, 10))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(recipe.features))
        self.register_buffer("std", torch.ones(recipe.features))

    def hidden(self, x: Tensor) -> Tensor:
        """The pre-activations [B, D] of images in [−1, 1]."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """The logits [B, 10] of images in [−1, 1]."""
        return self.head(self.hidden(x))

    def features(self, pixels: Tensor) -> Tensor:
        """The pre-activations of uint8 images, of mean 0 and variance 1 on the data, [B, D]."""
        shape = (1, self.recipe.size, self.recipe.size)
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != shape:
            raise InputError(
                f"{self.recipe.name} features are of uint8 images [B, {str(shape)[1:-1]}], "
                f"not {pixels.dtype} {list(pixels.shape)}"
            )
        x = images.from_uint8(pixels).to(self.mean.dtype)
        return (self.hidden(x) - self.mean) / self.std


def load(name: str = "digits", path: Path | None = None) -> Classifier:
    """A trained classifier, in eval mode and without gradients."""
    with torch.device("meta"):
        model = Classifier(RECIPES[name])
    model.load_state_dict(load_file(path or model.recipe.weights), assign=True)
    return model.eval().requires_grad_(False)


def shifted(x: Tensor) -> Tensor:
    """Each image moved by −1, 0 or 1 pixels either way, x [B, 1, S, S] in [−1, 1]."""
    padded = functional.pad(x, (1, 1, 1, 1), value=-1.0)
    top, left = torch.randint(3, (2, len(x), 1, 1))
    grid = torch.arange(x.shape[-1])
    rows, columns = grid.view(1, -1, 1) + top, grid.view(1, 1, -1) + left
    return padded[torch.arange(len(x)).view(-1, 1, 1), 0, rows, columns][:, None]


def flipped(x: Tensor) -> Tensor:
    """Each image mirrored or not, x [B, 1, S, S]."""
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)


def correlation(hidden: Tensor) -> Tensor:
    """Σ_{i≠j} r_ij² / D over the correlations of features [B, D] with each other."""
    z = (hidden - hidden.mean(0)) / (hidden.std(0) + 1e-3)
    r = z.T @ z / (len(z) - 1)
    return (r.square().sum() - r.diagonal().square().sum()) / len(r)


def train(recipe: Recipe, seed: int, steps: int) -> tuple[Classifier, float]:
    """A trained classifier, and its loss over the last tenth of the steps."""
    torch.manual_seed(noise.derive_seed(f"{recipe.name} classifier", seed))
    data = recipe.load(recipe.train_part).images
    labels = recipe.labels(recipe.train_part)
    model = Classifier(recipe).train()
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: 0.5 * (1 + math.cos(math.pi * i / steps))
    )
    losses = []
    for _ in (bar := tqdm(range(steps), desc=recipe.name, mininterval=1)):
        batch = torch.randint(len(data), (recipe.batch_size,))
        x = shifted(images.from_uint8(data[batch]))
        hidden = model.hidden(flipped(x) if recipe.flip else x)
        loss = functional.cross_entropy(model.head(hidden), labels[batch])
        loss = loss + recipe.decorrelation * correlation(hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.detach())
        if len(losses) % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    model = model.to(memory_format=torch.contiguous_format).eval()
    standardise(model)
    return model, torch.stack(losses[-max(1, steps // 10) :]).mean().item()


@torch.no_grad()
def standardise(model: Classifier) -> None:
    """Set the mean and the spread of the features from all images."""
    batches = model.recipe.load("all").images.split(LARGE_BATCH)
    hidden = torch.cat([model.hidden(images.from_uint8(batch)).double() for batch in batches])
    model.mean.copy_(hidden.mean(0))
    model.std.copy_(hidden.std(0))


@torch.no_grad()
def accuracy(model: Classifier, part: datasets.Part) -> float:
    """The share of a part's images that are recognised."""
    batches = model.recipe.load(part).images.split(BATCH)
    classes = torch.cat([model(images.from_uint8(batch)).argmax(1) for batch in batches])
    return (classes == model.recipe.labels(part)).double().mean().item()


@torch.no_grad()
def spectrum(model: Classifier) -> tuple[int, float]:
    """Rank and condition number of the features' covariance on all images, in float64."""
    exact = copy.deepcopy(model).double()
    batches = model.recipe.load("all").images.split(BATCH)
    features = torch.cat([exact.features(batch) for batch in batches])
    values = torch.linalg.eigvalsh(features.T.cov())
    least = values[-1] * len(values) * torch.finfo(torch.float64).eps
    return int((values > least).sum()), (values[-1] / values[0]).item()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a classifier; write its weights and their card."""
    parser = Parser(COMMAND, description=main.__doc__)
    parser.add_argument("name", nargs="?", choices=RECIPES, default="digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--output", type=Path, help="another file than the package's")
    options = parser.parse_args(arguments)
    recipe = RECIPES[options.name]
    steps, output = options.steps, options.output or recipe.weights
    steps = recipe.steps if steps is None else steps
    if steps < 1 or options.seed < 0:
        parser.error("--steps must be 1 or more, --seed 0 or more")

    torch.set_num_threads(1)  # sums in another order would give other weights
    began, commit = time.process_time(), _provenance.commit()
    model, loss = train(recipe, options.seed, steps)
    seconds = time.process_time() - began
    rank, condition = spectrum(model)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, save(model.state_dict()))
    card = {
        "name": output.stem,
        "dataset": recipe.dataset,
        "images": recipe.images,
        "command": f"{COMMAND} {recipe.name} --seed {options.seed} --steps {steps}",
        "seed": options.seed,
        "steps": steps,
        "batch_size": recipe.batch_size,
        "decorrelation": recipe.decorrelation,
        "loss_last_tenth": loss,
        "accuracy_train": accuracy(model, recipe.train_part),
        f"accuracy_{recipe.test_part}": accuracy(model, recipe.test_part),
        "features": recipe.features,
        "rank": rank,
        "condition_number": condition,
        "cpu_seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "sha256": sha256(output),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
    }
    write_json(output.with_suffix(".json"), card)
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    prepare_console()
    with one_line_exit("the same command begins again"):
        main()
