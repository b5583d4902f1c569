"""The work of a run: images and features, shard after shard, each kept when it is finished.

A shard is a fixed range of seeds, always cut into the same batches, so its images depend neither
on the process that makes it nor on what was made before.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pndm import config, evaluation, images, models, noise, records, sampling
from pndm.inference import Runner
from pndm.models import registry
from pndm.plans import plan
from pndm.shards import Store
from pndm.solvers import ProbabilityFlow
from pndm.streams import Coming, beside, overlaps

SHARD = 500
"""Images per shard: what is lost at most when a run is killed."""

Progress = Callable[[int], object]
"""Is told how many more images were evaluated."""

PARENT = "PNDM_PARENT"
"""Environment variable that tells workers the number of the process they work for."""

MOMENT = 0.2
"""Seconds of an evaluation that tell what it takes."""


class Watched:
    """A denoiser that notes, on the device, whether each of its outputs was finite."""

    def __init__(self, network: sampling.Denoiser) -> None:
        self.network = network
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        e = self.network(x, t)
        self.seen.append((t[0], e.sum(dtype=torch.float32)))
        return e

    def noted(self) -> tuple[Tensor, Tensor]:
        """The time and the sum of every output, on the device."""
        times, sums = (torch.stack(column) for column in zip(*self.seen, strict=True))
        return times, sums


@dataclass(frozen=True)
class Batch:
    """Images uint8 [B, C, H, W], evaluations [B], and what was noted of them, on their way."""

    coming: Coming

    def fetch(self) -> tuple[Tensor, Tensor]:
        """Images and evaluations; FloatingPointError names the first that was not finite."""
        pixels, nfe, times, sums = self.coming.wait()
        for i in range(len(sums)):
            if not sums[i].isfinite():
                raise FloatingPointError(
                    f"evaluation {i} at time {times[i]:g}: the network returned NaN or infinity"
                )
        return pixels, nfe


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
        start = self.cfg.seed * config.MOST_SAMPLES
        end = min(self.first(shard + 1), self.cfg.samples)
        return range(start + self.first(shard), start + end)

    @cached_property
    def weights(self) -> Path:
        """The file of the weights; an error that says what to fetch if it is not there."""
        if self.cfg.model.checkpoint is not None:
            return models.checkpoints.locate(self.cfg.model.checkpoint)
        return registry.find(self.cfg.model.name).require()

    @cached_property
    def key(self) -> str:
        """A hash of what determines an image: configuration, weights, code; not their number."""
        what = self.cfg.identity() | dict.fromkeys(("samples", "fid", "kid", "prc"))
        what["dataset"] = self.cfg.dataset.name
        content = [what, records.sha256(self.weights), records.code(records.SAMPLING)]
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

    def forget(self) -> None:
        """Remove this run's shards, and what was kept of its batches; others' beyond them stay."""
        for shard in range(self.shards):
            for path in self.folder.glob(f"*/{self.images.path(shard).name}"):
                path.unlink(missing_ok=True)
        (self.folder / "batch_size").unlink(missing_ok=True)

    @cached_property
    def network(self) -> Runner:
        """The network on its device and in its precision."""
        model, how = self.cfg.model, (self.cfg.precision, self.cfg.compile)
        file = (model.checkpoint or model.name, model.architecture, model.format)
        return loaded(*file, records.sha256(self.weights), self.device, *how)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.network.arch.image

    @property
    def batch_size(self) -> int:
        """`cfg.batch_size`, halved as often as memory ran out for this run's images."""
        kept = self.folder / "batch_size"
        text = kept.read_text(errors="replace").strip() if kept.exists() else ""
        least = int(text) if text.isdecimal() else 0
        return min(least or self.cfg.batch_size, self.cfg.batch_size)

    def halve(self, size: int) -> None:
        """Note that batches of `size` do not fit; MemoryError where no smaller ones are left."""
        if size == 1:
            raise MemoryError(
                f"one image of {self.cfg.model.name} does not fit into the memory of "
                f"{self.device}: use precision=bf16, or another device"
            )
        print(f"out of memory with {size} images at once: {size // 2} from now on", flush=True)
        text = str(size // 2)
        self.folder.mkdir(parents=True, exist_ok=True)
        records.atomic(self.folder / "batch_size", lambda path: path.write_text(text))

    def sample(self, seeds: Sequence[int], progress: Progress) -> Batch:
        """The images of some seeds; on a graphics card they may still be under way."""
        cfg, denoiser = self.cfg, Watched(self.network)
        solver, schedule = config.solver(cfg.solver), config.schedule(cfg.schedule, cfg.convention)
        x_T = self.network.state_of(noise.initial_noise(seeds, self.shape))
        prediction = cfg.model.prediction
        if isinstance(solver, ProbabilityFlow):
            from pndm import flow

            x_0, nfe = flow.integrate(denoiser, x_T, solver, schedule, cfg.grid, prediction)
            progress(int(nfe.sum()))
        else:
            table = plan(solver, schedule, cfg.steps, cfg.grid, prediction)
            z = noise.step_noise(seeds, self.shape) if table.stochastic else None
            x_0 = sampling.execute(table, denoiser, x_T, z, lambda *_: progress(len(x_T)))
            nfe = torch.full((len(x_T),), table.nfe)
        return Batch(Coming(images.to_uint8(x_0), nfe, *denoiser.noted()))

    @torch.no_grad()
    def seconds_per_evaluation(self) -> float:
        """A rough measure per image, in a batch that takes a MOMENT or is as large as the run's.

        MemoryError where one image does not fit.
        """
        count, each = 1, 0.0
        while True:
            x = self.network.state_of(torch.zeros(count, *self.shape))
            t = torch.zeros(1, device=self.device).expand(count)
            began = time.monotonic()
            try:
                self.network(x, t).sum().item()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if count == 1:
                    self.halve(count)
                return each
            each = (time.monotonic() - began) / count
            if each * count > MOMENT or count == self.batch_size:
                return each
            count = min(4 * count, self.batch_size)


@lru_cache(maxsize=1)
def loaded(
    name: str,
    architecture: str | None,
    format: str,
    sha256: str,
    device: torch.device,
    precision: str,
    compile: str,
) -> Runner:
    """The network of a file of this content; that of the last run is kept for the next one."""
    network = models.load(name, architecture=architecture, format=format)
    return Runner(network, device, precision, compile)


def missing(job: Job, extractor: evaluation.Extractor | None) -> list[int]:
    """The shards that are still to be made, in part at least; damaged ones are reported."""
    return [shard for shard in range(job.shards) if not is_whole(job, shard, extractor)]


def is_whole(job: Job, shard: int, extractor: evaluation.Extractor | None) -> bool:
    """Whether all images of a shard are there, and their features where they are wanted."""
    wanted = len(job.seeds(shard))
    if count(job.images, shard, "nfe") < wanted:
        return False
    return extractor is None or count(job.features(extractor), shard, "features") >= wanted


def count(store: Store, shard: int, array: str) -> int:
    """The length of an array of a shard, 0 where the shard is missing or damaged."""
    arrays = store.load(shard)
    if arrays is None and store.path(shard).exists():
        print(f"damaged, made again: {store.path(shard)}", flush=True)
        store.path(shard).unlink(missing_ok=True)
    return 0 if arrays is None else len(arrays[array])


def work(
    job: Job,
    extractor: evaluation.Extractor | None,
    progress: Progress,
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Make every missing shard that no other process makes, then those that one left behind.

    Any number of processes may do this at once. A claim is a lock that the system frees when its
    process ends, however it ends, so what a dead worker had begun is taken over. It stops before
    a shard that is no longer `wanted`. A graphics card extracts the features of a shard beside
    the images of the next.
    """
    for wait in (False, True):
        with contextlib.ExitStack() as last:
            for shard in range(job.shards):
                if not wanted():
                    return
                if is_whole(job, shard, extractor):
                    continue
                with contextlib.ExitStack() as claim:
                    lock = records.lock(job.folder / "locks" / f"{shard:05d}", wait)
                    if not claim.enter_context(lock) or is_whole(job, shard, extractor):
                        continue
                    make_images(job, shard, progress)
                    if extractor is not None:
                        claim.callback(extract(job, shard, extractor))
                    last.close()
                    # who waits for another's claim must not hold one
                    if overlaps(job.device) and not wait:
                        last.enter_context(claim.pop_all())


def make_images(job: Job, shard: int, progress: Progress) -> None:
    """Sample what is missing of a shard's images and keep it."""
    old = job.images.load(shard)
    have = 0 if old is None else len(old["nfe"])
    seeds = job.seeds(shard)[have:]
    if not seeds:
        return
    began = time.monotonic()
    parts = sample_all(job, seeds, progress)
    pixels, nfe = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    seconds = time.monotonic() - began
    if old is not None:
        pixels, nfe = np.concatenate([old["images"], pixels]), np.concatenate([old["nfe"], nfe])
        seconds += float(old["seconds"])
    how = {"seconds": np.array(seconds), "compile": np.array(job.network.mode or "off")}
    job.images.save(shard, {"images": pixels, "nfe": nfe, **how})


def sample_all(job: Job, seeds: Sequence[int], progress: Progress) -> list[tuple[Tensor, Tensor]]:
    """Images and evaluations, batch after batch, in batches that the memory has room for.

    A graphics card begins the next batch before the last one is fetched from it.
    """
    parts: list[tuple[Tensor, Tensor]] = []
    running: Batch | None = None
    done = 0
    while done < len(seeds):
        size = job.batch_size
        try:
            batch = job.sample(seeds[done : done + size], progress)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            job.halve(min(size, len(seeds) - done))
            continue
        parts += [running.fetch()] if running else []
        running, done = batch, done + size
    return [*parts, running.fetch()] if running else parts


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a graphics card or the processor's memory had no room."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def extract(job: Job, shard: int, extractor: evaluation.Extractor) -> Callable[[], None]:
    """Begin to extract the features of a shard's images; what waits for them and keeps them.

    The time they take is that of beginning and of waiting, not what passes beside other work.
    """
    began = time.monotonic()
    with beside(job.device):
        pixels = torch.from_numpy(job.image_shard(shard)["images"]).to(job.device)
        features = torch.cat([extractor(batch) for batch in pixels.split(job.batch_size)])
        coming = Coming(features)
    begun = time.monotonic() - began

    def keep() -> None:
        began = time.monotonic()
        (features,) = coming.wait()
        seconds = np.array(begun + time.monotonic() - began)
        arrays = {"features": features.numpy(), "seconds": seconds}
        job.features(extractor).save(shard, arrays)

    return keep


def main(path: str) -> None:
    """A worker process of the run that is configured in `path`."""
    cfg = config.load(Path(path))
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if config.device(cfg.device) == "cuda":
        cfg = dataclasses.replace(cfg, device=f"cuda:{rank % torch.cuda.device_count()}")
    job = Job(cfg)
    extractor = None
    if cfg.fid == "auto":
        with contextlib.suppress(evaluation.MissingReference):
            extractor = evaluation.extractor(cfg.dataset.extractor, job.device)
    work(job, extractor, lambda images: None, parent_lives)


def parent_lives() -> bool:
    """Whether the process that started the workers is still there to use what they make."""
    try:
        os.kill(int(os.environ[PARENT]), 0)
    except (KeyError, ProcessLookupError):
        return PARENT not in os.environ
    return True


if __name__ == "__main__":
    main(sys.argv[1])
