"""The work of a run: images and features, shard after shard, each kept when it is finished.

A shard is a fixed range of seeds, always cut into the same batches, so its images depend neither
on the process that makes it nor on what was made before.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pndm import config, evaluation, flow, images, models, noise, records, sampling
from pndm.models import registry
from pndm.plans import plan
from pndm.shards import Store
from pndm.solvers import ProbabilityFlow

SHARD = 500
"""Images per shard: what is lost at most when a run is killed."""

SEED_SETS = 2**32
"""Image i of seed set s is drawn from the seed s·2³² + i."""

LONG_RUN = 600
"""Seconds of sampling from which a run on a CPU says beforehand how long it will take."""


class Watched:
    """A denoiser that notes, on the device, whether each of its outputs was finite."""

    def __init__(self, network: sampling.Denoiser) -> None:
        self.network = network
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        e = self.network(x, t)
        self.seen.append((t[0], e.sum(dtype=torch.float32)))
        return e

    def check(self) -> None:
        """FloatingPointError naming the first evaluation that was not finite."""
        times, sums = (torch.stack(column).tolist() for column in zip(*self.seen, strict=True))
        for i, (t, total) in enumerate(zip(times, sums, strict=True)):
            if not np.isfinite(total):
                raise FloatingPointError(
                    f"evaluation {i} at time {t:g}: the network returned NaN or infinity"
                )


@dataclass(frozen=True)
class Job:
    """A run as its workers see it: which shards there are, where they lie, how they are made."""

    cfg: config.Run

    @property
    def shards(self) -> int:
        """The number of shards that hold all images."""
        return -(-self.cfg.samples // SHARD)

    def first(self, shard: int) -> int:
        """The index of a shard's first image."""
        return shard * SHARD

    def seeds(self, shard: int) -> range:
        """The seeds of a shard's images."""
        start = self.cfg.seed * SEED_SETS
        end = min(self.first(shard + 1), self.cfg.samples)
        return range(start + self.first(shard), start + end)

    @cached_property
    def weights(self) -> Path:
        """The file of the weights; an error that says what to fetch if it is not there."""
        if self.cfg.model.checkpoint is not None:
            return Path(self.cfg.model.checkpoint)
        return registry.find(self.cfg.model.name).require()

    @cached_property
    def key(self) -> str:
        """A hash of what determines an image: configuration, weights, code; not their number."""
        what = {**self.cfg.identity(), "samples": None, "fid": None}
        what["dataset"] = self.cfg.dataset.name
        content = [what, records.sha256(self.weights), records.code()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def device(self) -> torch.device:
        return torch.device(config.device(self.cfg.device))

    @property
    def folder(self) -> Path:
        """Where the shards lie; runs that differ in the number of samples share them."""
        return Path(self.cfg.outputs) / "shards" / self.key[:16]

    @property
    def images(self) -> Store:
        """Shards of `images` uint8 [n, C, H, W], `nfe` [n], and the `seconds` they took."""
        return Store(self.folder / "images")

    def features(self, extractor: evaluation.Extractor) -> Store:
        """Shards of `features` [n, D] of one extractor, and the `seconds` they took."""
        return Store(self.folder / f"{extractor.name}-{extractor.sha256[:12]}")

    def image_shard(self, shard: int) -> dict[str, np.ndarray]:
        """A finished shard's arrays, no more images than the run has."""
        arrays = self.images.load(shard)
        if arrays is None:
            raise FileNotFoundError(f"{self.images.path(shard)} is missing or damaged: run again")
        count = len(self.seeds(shard))
        return {**arrays, "images": arrays["images"][:count], "nfe": arrays["nfe"][:count]}

    @cached_property
    def network(self) -> nn.Module:
        """The network on its device and in its precision."""
        model = self.cfg.model
        if model.checkpoint is None:
            network = models.load(model.name)
        else:
            network = models.load(
                model.checkpoint, architecture=model.architecture, format=model.format
            )
        return network.to(self.device, self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "fp64": torch.float64}[self.cfg.precision]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        arch = self.network.arch
        return arch.in_channels, arch.image_size, arch.image_size

    def sample(self, seeds: Sequence[int], bar: tqdm) -> tuple[Tensor, Tensor]:
        """The images of some seeds, uint8 [B, C, H, W], and their numbers of evaluations [B]."""
        cfg, denoiser = self.cfg, Watched(self.network)
        solver, schedule = config.solver(cfg.solver), config.schedule(cfg.schedule, cfg.convention)
        x_T = noise.initial_noise(seeds, self.shape).to(self.device, self.dtype)
        if isinstance(solver, ProbabilityFlow):
            x_0, nfe = flow.integrate(denoiser, x_T, solver, schedule, cfg.grid)
            bar.update(int(nfe.sum()))
        else:
            table = plan(solver, schedule, cfg.steps, cfg.grid)
            z = noise.step_noise(seeds, self.shape) if table.stochastic else None
            x_0 = sampling.execute(table, denoiser, x_T, z, lambda *_: bar.update(len(x_T)))
            nfe = torch.full((len(x_T),), table.nfe)
        denoiser.check()
        return images.to_uint8(x_0).cpu(), nfe.cpu()

    @torch.no_grad()
    def seconds_per_evaluation(self) -> float:
        """A rough measure per image, on a few of them."""
        x = torch.zeros(min(4, self.cfg.batch_size), *self.shape).to(self.device, self.dtype)
        t = torch.zeros(len(x), device=self.device)
        for _ in range(2):  # the first one warms up
            began = time.monotonic()
            self.network(x, t).sum().item()
            seconds = time.monotonic() - began
        return seconds / len(x)


def missing(job: Job, store: Store, array: str, redo: bool = False) -> dict[int, int]:
    """The shards that are not whole, by `array`, and how much of each is; damage is reported."""
    todo = {}
    for shard in range(job.shards):
        arrays = None if redo else store.load(shard)
        if arrays is None and store.path(shard).exists() and not redo:
            print(f"damaged, made again: {store.path(shard)}")
        have = 0 if arrays is None else len(arrays[array])
        if have < len(job.seeds(shard)):
            todo[shard] = have
    return todo


def make_images(job: Job, todo: dict[int, int]) -> None:
    """Sample the rest of each of these shards."""
    if not todo:
        return
    cfg = job.cfg
    count = sum(len(job.seeds(shard)) - have for shard, have in todo.items())
    nfe = config.solver(cfg.solver).nfe(cfg.steps) if isinstance(cfg.grid, str) else None
    if nfe is not None and job.device.type == "cpu":
        seconds = job.seconds_per_evaluation() * nfe * count
        if seconds > LONG_RUN:
            print(
                f"{count} images of {nfe} evaluations take about {duration(seconds)} on this CPU"
            )
    total = None if nfe is None else nfe * count
    with tqdm(
        total=total, unit="eval", unit_scale=True, desc="sampling", disable=not cfg.progress
    ) as bar:
        for shard, have in todo.items():
            began = time.monotonic()
            seeds = job.seeds(shard)[have:]
            cuts = range(0, len(seeds), cfg.batch_size)
            parts = [job.sample(seeds[cut : cut + cfg.batch_size], bar) for cut in cuts]
            pixels, evaluations = (
                torch.cat(column).numpy() for column in zip(*parts, strict=True)
            )
            seconds = time.monotonic() - began
            if have:
                old = job.images.load(shard) or {}
                pixels = np.concatenate([old["images"], pixels])
                evaluations = np.concatenate([old["nfe"], evaluations])
                seconds += float(old["seconds"])
            arrays = {"images": pixels, "nfe": evaluations, "seconds": np.array(seconds)}
            job.images.save(shard, arrays)


def make_features(job: Job, extractor: evaluation.Extractor, todo: dict[int, int]) -> None:
    """Extract the features of each of these shards."""
    store = job.features(extractor)
    for shard in tqdm(todo, desc="features", disable=not job.cfg.progress or len(todo) < 8):
        began = time.monotonic()
        pixels = torch.from_numpy(job.image_shard(shard)["images"])
        batches = [extractor(batch).cpu() for batch in pixels.split(job.cfg.batch_size)]
        features = torch.cat(batches).numpy()
        seconds = np.array(time.monotonic() - began)
        store.save(shard, {"features": features, "seconds": seconds})


def duration(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
