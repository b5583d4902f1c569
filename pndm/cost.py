"""What a run will take before it is made: evaluations, operations, time, memory and disk.

    python -m pndm.cost dataset=celeba solver=plms steps=50 samples=50000

takes run.py's words, samples one batch of the run for ten seconds and reckons from that. Where the
weights are not here, random ones take the same time.
"""

import contextlib
import math
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from pndm import config, evaluation
from pndm.inference import Runner
from pndm.models.architectures import ARCHITECTURES
from pndm.models.registry import WEIGHTS, find
from pndm.models.unet import UNet
from pndm.plans import plan
from pndm.solvers import ProbabilityFlow
from pndm.worker import SHARD, Job

SECONDS = 10.0
"""How long a calibration samples."""

DIMENSIONS = {"digits": 64, "inception": 2048}
"""Features of an image, each of four bytes."""


@dataclass(frozen=True)
class Cost:
    """The prediction for a run.

    `nfe` evaluations of each image and `flops` operations in all (a multiplication and an addition
    are two), `sampling` and `features` seconds (None where no extractor is here), `memory` of this
    process, or of the graphics card, and `disk` in bytes. `batch` images were evaluated at once,
    in `rate` seconds for each and evaluation.
    """

    nfe: float
    flops: float
    sampling: float
    features: float | None
    memory: int
    disk: int
    batch: int
    rate: float


class Enough(Exception):
    """The calibration has sampled for long enough."""


class Stopwatch:
    """Counts a run's evaluations in place of its progress bar, and stops it after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.times = [time.perf_counter()]
        self.counts: list[int] = []

    def __call__(self, evaluations: int) -> None:
        self.times.append(time.perf_counter())
        self.counts.append(evaluations)
        if self.times[-1] - self.times[0] > self.seconds:
            raise Enough

    @property
    def rate(self) -> float:
        """Seconds of one image's evaluation; the first batch, if there are more, warms up."""
        first = min(1, len(self.counts) - 1)
        return (self.times[-1] - self.times[first]) / sum(self.counts[first:])


class Untrained(Job):
    """A job whose network has random weights."""

    @cached_property
    def network(self) -> Runner:
        network = UNet(ARCHITECTURES[architecture(self.cfg)]).eval()
        return Runner(network, self.device, self.cfg.precision, self.cfg.compile)

    @property
    def batch_size(self) -> int:
        return self.cfg.batch_size


def architecture(cfg: config.Run) -> str:
    """The architecture of a run's network."""
    if cfg.model.architecture is not None:
        return cfg.model.architecture
    return WEIGHTS[cfg.model.name].architecture


@cache
def flops(architecture: str) -> float:
    """Floating-point operations of one evaluation on one image, counted without any weights."""
    arch = ARCHITECTURES[architecture]
    with torch.device("meta"):
        x = torch.empty(1, *arch.image)
        network, t = UNet(arch).eval(), torch.empty(1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x, t)
    return counter.get_total_flops()


def calibrate(job: Job, seconds: float) -> tuple[Stopwatch, int]:
    """Sample as a run does, for so many seconds at least; and how many images at once."""
    batch, watch = min(job.batch_size, job.cfg.samples, SHARD), Stopwatch(seconds)
    with contextlib.suppress(Enough):
        while True:
            job.sample(range(batch), watch)
    return watch, batch


def present(cfg: config.Run) -> bool:
    """Whether a run's weights are here."""
    return cfg.model.checkpoint is not None or find(cfg.model.name).present


def stand_in(cfg: config.Run) -> Job:
    """A run's job, with random weights, which take the same time, where its own are not here."""
    return Job(cfg) if present(cfg) else Untrained(cfg)


def predict(cfg: config.Run, seconds: float = SECONDS) -> Cost:
    """The cost of a run, from sampling one batch of it for so many seconds.

    CheckpointError where the weights of an adaptive method are missing, as its evaluations depend
    on them.
    """
    adaptive = isinstance(config.solver(cfg.solver), ProbabilityFlow)
    job = Job(cfg) if adaptive else stand_in(cfg)
    watch, batch = calibrate(job, seconds)
    if adaptive:  # its images are finished all at once
        nfe = watch.counts[0] / batch
    else:
        settings = config.solver(cfg.solver), config.schedule(cfg.schedule, cfg.convention)
        nfe = plan(*settings, cfg.steps, cfg.grid, cfg.model.prediction).nfe
    evaluations = nfe * cfg.samples
    copies = 2 if cfg.save_images == "npz" else 1
    dimension = DIMENSIONS[cfg.dataset.extractor] if cfg.fid == "auto" else 0
    return Cost(
        nfe=nfe,
        flops=evaluations * flops(architecture(cfg)),
        sampling=evaluations * watch.rate,
        features=seconds_of_features(job, batch) if cfg.fid == "auto" else None,
        memory=peak(job.device),
        disk=cfg.samples * (copies * math.prod(job.shape) + 4 * dimension),
        batch=batch,
        rate=watch.rate,
    )


def seconds_of_features(job: Job, batch: int) -> float | None:
    """What the features of all images will take; None where there is no extractor."""
    try:
        extractor = evaluation.extractor(job.cfg.dataset.extractor, job.device)
    except evaluation.MissingReference:
        return None
    pixels = torch.zeros(batch, *job.shape, dtype=torch.uint8)
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        extractor(pixels).cpu()
        seconds = time.perf_counter() - began
    return seconds / batch * job.cfg.samples


def peak(device: torch.device) -> int:
    """The most bytes that were in use: of the graphics card, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def show(cfg: config.Run, cost: Cost) -> None:
    """The prediction as a table."""
    table = Table(show_header=False)
    table.add_row("run", f"{cfg.dataset.name}, {cfg.schedule['name']}, {cfg.model.name}")
    table.add_row("evaluations", f"{cost.nfe:g} × {cfg.samples:,} images, {cost.flops:.3g} FLOP")
    table.add_row("sampling", duration(cost.sampling))
    table.add_row(
        "features",
        duration(cost.features)
        if cost.features is not None
        else ("no extractor here" if cfg.fid == "auto" else "fid=off"),
    )
    table.add_row("memory", size(cost.memory))
    table.add_row("disk", size(cost.disk))
    speed = cost.flops / cost.sampling / 1e9
    table.add_row(
        "measured with",
        f"{cost.batch} images at once: {1e3 * cost.rate:.3g} ms each, {speed:,.0f} GFLOP/s",
    )
    Console().print(table)


def duration(seconds: float) -> str:
    """Seconds in a unit that people read."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def size(count: int) -> str:
    """Bytes in a unit that people read."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def given(word: str) -> float:
    """The value of seconds=…; ConfigError where it is none."""
    with contextlib.suppress(ValueError):
        seconds = float(word.partition("=")[2])
        if 0 < seconds < math.inf:
            return seconds
    raise config.ConfigError(f"{word}: give a positive number of seconds")


def main(words: Sequence[str]) -> None:
    """Predict the cost of each run that is meant; SystemExit with one line if it cannot."""
    if {"-h", "--help"} & set(words):
        return print(__doc__)
    own = [word for word in words if word.startswith("seconds=")]
    try:
        seconds = given(own[-1]) if own else SECONDS
        for cfg in config.cells([word for word in words if word not in own], multirun=True):
            show(cfg, predict(cfg, seconds))
    except config.EXPECTED as error:
        sys.exit(f"error: {config.one_line(error)}")


if __name__ == "__main__":
    main(sys.argv[1:])
