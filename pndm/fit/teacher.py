"""The teacher: the fine solution of the same ODE, computed once for each noise and kept."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pndm import noise
from pndm._errors import InputError, MissingFile, NonFiniteError
from pndm._files import cache_dir
from pndm.evaluation.statistics import load_arrays, save_arrays
from pndm.execute import execute
from pndm.plans import Plan, plan
from pndm.prediction import Prediction
from pndm.runs.network import Runner
from pndm.schedules import Schedule
from pndm.solvers import heun

VERSION = 2
"""To be raised when the computation changes."""

BATCH = 256
"""Images that are kept together."""


def fine_plan(
    schedule: Schedule, steps: int, start: float, end: float, prediction: Prediction
) -> Plan:
    """Heun's method on at most so many steps between whole times, denser towards the image.

    ᾱ of a table has a kink at each whole time, where a step of order 2 must end.
    """
    whole = {float(round(start * (i / steps) ** 2)) for i in range(steps)}
    nodes = sorted({t for t in whole if end < t < start} | {start, end}, reverse=True)
    return plan(heun(), schedule, grid=nodes, prediction=prediction)


def solve(
    network: Runner,
    schedule: Schedule,
    prediction: Prediction,
    seeds: Sequence[int],
    steps: int,
    end: float,
    weights: str,
    batch_size: int = BATCH,
    progress: bool = True,
) -> tuple[Tensor, Tensor]:
    """Noise and images (x_T, x_0) of the seeds, each [B, C, H, W], from time T−1 on.

    `weights` is the hash of the network. Each BATCH is kept by everything that determines it, its
    noise included, so a larger number of seeds, or an interrupted computation, continues; at most
    `batch_size` images are solved at once.
    NonFiniteError where the network returns NaN.
    """
    x_T = network.state_of(noise.initial_noise(seeds, network.arch.image))
    table = fine_plan(schedule, steps, float(schedule.timesteps - 1), end, prediction)
    key: list[Any] = [VERSION, weights, table.nodes, prediction, str(network.dtype)]
    key += ["tf32"] if network.tf32 else []
    parts = []
    total = table.nfe * len(seeds)
    with tqdm(total=total, desc="teacher", unit="eval", disable=not progress) as bar:
        for first in range(0, len(seeds), BATCH):
            batch = x_T[first : first + BATCH]
            own = hashlib.sha256(batch.cpu().numpy().tobytes()).hexdigest()
            digest = hashlib.sha256(json.dumps([*key, own]).encode()).hexdigest()[:24]
            path = cache_dir() / "teachers" / f"{digest}.npz"
            x_0 = load_images(path, batch)
            if x_0 is not None:
                bar.update(table.nfe * len(batch))
            else:
                x_0 = torch.cat(
                    [
                        execute(table, network, x, callback=lambda _, x: bar.update(len(x)))
                        for x in batch.split(batch_size)
                    ]
                )
                if not x_0.isfinite().all():
                    raise NonFiniteError("the teacher's images have NaN: check the weights")
                save_arrays(path, {"images": x_0.cpu().numpy()})
            parts.append(x_0)
    return x_T, torch.cat(parts)


def load_images(path: Path, noise: Tensor) -> Tensor | None:
    """The images of a file that was kept for this noise, like it; None if it is missing.

    A damaged file is as good as missing, after a warning.
    """
    try:
        images = torch.from_numpy(load_arrays(path)["images"])
    except MissingFile:
        return None
    except (InputError, KeyError, TypeError):
        images = torch.empty(0)
    if images.shape == noise.shape and images.is_floating_point() and images.isfinite().all():
        return images.to(noise)
    warnings.warn(f"{path} is damaged: its images are computed again", stacklevel=2)
    return None
