"""A small classifier of digits, the feature extractor for samples of digits.

    python -m pndm.evaluation.digits_classifier

Its 64 features are the inputs of the last hidden layer's ReLU, standardised on the 1,797 scans.
The outputs of a ReLU are unsuitable: units that are always 0 make the covariance singular. With a
plain classification loss the 64 features collapse to ten, one per class, insensitive to anything
else; so training also penalises correlated features (Cogswell et al. 2016, DeCov).
"""

import argparse
import copy
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pndm import _provenance, noise
from pndm._errors import InputError
from pndm._files import sha256, write_atomic, write_json
from pndm._provenance import versions
from pndm.data import datasets, images

WEIGHTS = Path(__file__).parents[1] / "models" / "weights" / "digits_classifier.safetensors"
"""The weights that come with the package."""

COMMAND = "python -m pndm.evaluation.digits_classifier"
FEATURES = 64
BATCH_SIZE = 128
DECORRELATION = 0.3


class Classifier(nn.Module):
    """Two convolutions, 64 features, ten classes; images uint8 [B, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, FEATURES),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, 10))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("std", torch.ones(FEATURES))

    def hidden(self, x: Tensor) -> Tensor:
        """The pre-activations [B, 64] of digits in [−1, 1]."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """The logits [B, 10] of digits in [−1, 1]."""
        return self.head(self.hidden(x))

    def features(self, digits: Tensor) -> Tensor:
        """The pre-activations of uint8 digits, of mean 0 and variance 1 on the data, [B, 64]."""
        if digits.dtype != torch.uint8 or digits.shape[1:] != (1, 8, 8):
            raise InputError(
                f"digits are uint8 [B, 1, 8, 8], not {digits.dtype} {list(digits.shape)}"
            )
        x = images.from_uint8(digits).to(self.mean.dtype)
        return (self.hidden(x) - self.mean) / self.std


def load(path: Path = WEIGHTS) -> Classifier:
    """Load the trained classifier, in eval mode and without gradients."""
    with torch.device("meta"):
        model = Classifier()
    model.load_state_dict(load_file(path), assign=True)
    return model.eval().requires_grad_(False)


def shifted(x: Tensor) -> Tensor:
    """Shift each image randomly by −1, 0 or 1 pixels per axis, x [B, 1, 8, 8] in [−1, 1]."""
    padded = functional.pad(x, (1, 1, 1, 1), value=-1.0)
    top, left = torch.randint(3, (2, len(x), 1, 1))
    rows, columns = torch.arange(8).view(1, 8, 1) + top, torch.arange(8).view(1, 1, 8) + left
    return padded[torch.arange(len(x)).view(-1, 1, 1), 0, rows, columns][:, None]


def correlation(hidden: Tensor) -> Tensor:
    """Σ_{i≠j} r_ij² / D over the correlations of features [B, D] with each other."""
    z = (hidden - hidden.mean(0)) / (hidden.std(0) + 1e-3)
    r = z.T @ z / (len(z) - 1)
    return (r.square().sum() - r.diagonal().square().sum()) / len(r)


def train(seed: int, steps: int) -> tuple[Classifier, float]:
    """Train a classifier on nine tenths of the digits; return it and its final loss."""
    torch.manual_seed(noise.derive_seed("digits classifier", seed))
    x = images.from_uint8(datasets.digits("train").images)
    labels = datasets.digit_labels("train")
    model = Classifier().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: 0.5 * (1 + math.cos(math.pi * i / steps))
    )
    losses = []
    for _ in range(steps):
        batch = torch.randint(len(x), (BATCH_SIZE,))
        hidden = model.hidden(shifted(x[batch]))
        loss = functional.cross_entropy(model.head(hidden), labels[batch])
        loss = loss + DECORRELATION * correlation(hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.detach())
    standardise(model)
    return model.eval(), torch.stack(losses[-max(1, steps // 10) :]).mean().item()


@torch.no_grad()
def standardise(model: Classifier) -> None:
    """Set the mean and standard deviation of the features from all 1,797 digits."""
    hidden = model.hidden(images.from_uint8(datasets.digits().images)).double()
    model.mean.copy_(hidden.mean(0))
    model.std.copy_(hidden.std(0))


@torch.no_grad()
def accuracy(model: Classifier, part: datasets.Part) -> float:
    """The accuracy on a part of the digits."""
    logits = model(images.from_uint8(datasets.digits(part).images))
    return (logits.argmax(1) == datasets.digit_labels(part)).double().mean().item()


@torch.no_grad()
def spectrum(model: Classifier) -> tuple[int, float]:
    """Rank and condition number of the features' covariance on all digits, in float64."""
    features = copy.deepcopy(model).double().features(datasets.digits().images)
    values = torch.linalg.eigvalsh(features.T.cov())
    rank = int((values > values[-1] * FEATURES * torch.finfo(torch.float64).eps).sum())
    return rank, (values[-1] / values[0]).item()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the classifier; write its weights and their card."""
    parser = argparse.ArgumentParser(
        "python -m pndm.evaluation.digits_classifier", description=main.__doc__
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.seed < 0:
        parser.error("--steps must be 1 or more, --seed 0 or more")

    torch.set_num_threads(1)  # another summation order would give other weights
    began, commit = time.process_time(), _provenance.commit()
    model, loss = train(options.seed, options.steps)
    seconds = time.process_time() - began
    rank, condition = spectrum(model)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.output, lambda path: save_file(model.state_dict(), path))
    card = {
        "name": options.output.stem,
        "dataset": "digits",
        "images": "nine tenths; the features are standardised on all",
        "command": f"{COMMAND} --seed {options.seed} --steps {options.steps}",
        "seed": options.seed,
        "steps": options.steps,
        "batch_size": BATCH_SIZE,
        "decorrelation": DECORRELATION,
        "loss_last_tenth": loss,
        "accuracy_train": accuracy(model, "train"),
        "accuracy_holdout": accuracy(model, "holdout"),
        "features": FEATURES,
        "rank": rank,
        "condition_number": condition,
        "cpu_seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "sha256": sha256(options.output),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
    }
    write_json(options.output.with_suffix(".json"), card)
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
