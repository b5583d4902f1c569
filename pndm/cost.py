"""The predicted cost of a run: evaluations, operations, time, memory and disk.

    python -m pndm.cost dataset=celeba solver=plms steps=50 samples=50000

takes the arguments of run.py, times the run's network for some seconds (`seconds=10`) and
extrapolates. Missing weights are replaced by random ones, which take the same time.
"""

import contextlib
import math
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from pndm._errors import one_line_exit, prepare_console
from pndm.config.build import build_schedule, build_solver
from pndm.config.compose import compose_runs
from pndm.config.schema import CLASSIFIER_IMAGES, ConfigError, Run
from pndm.evaluation.features import (
    DIMENSIONS,
    EXTRACTION,
    MissingReference,
    extract_in_chunks,
    load_extractor,
)
from pndm.models import flops as operations
from pndm.models.architectures import ARCHITECTURES
from pndm.models.registry import WEIGHTS, find
from pndm.models.unet import UNet
from pndm.plans import plan
from pndm.runs.batches import BatchSize, sample_batches
from pndm.runs.job import Job, compile_setting
from pndm.runs.needs import all_missing, format_bytes
from pndm.runs.network import Runner
from pndm.runs.shards import SHARD
from pndm.runs.timing import Timing, time_evaluations
from pndm.solvers import ProbabilityFlow

SECONDS = 10.0
"""The default duration of the timing."""


@dataclass(frozen=True)
class Cost:
    """The prediction for a run.

    `nfe` evaluations of each image and `flops` operations in all (a multiplication and an addition
    are two), `sampling` and `features` seconds (None where there is no extractor), `memory` of
    this process, or of the GPU, and `disk` in bytes. `timing` is the measurement behind it.
    """

    nfe: float
    flops: float
    sampling: float
    features: float | None
    memory: int
    disk: int
    timing: Timing


def predict(cfg: Run, seconds: float = SECONDS) -> Cost:
    """Predict the cost of a run by timing its network for `seconds`.

    CheckpointError if the weights of an adaptive method are missing, since its number of
    evaluations depends on them.
    """
    solver = build_solver(cfg.solver)
    runner = load_runner(cfg)
    if runner.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(runner.device)
    if isinstance(solver, ProbabilityFlow):
        nfe, timing = time_adaptive(cfg, Job(cfg).network, seconds)
    else:
        schedule = build_schedule(cfg.schedule, cfg.convention)
        nfe = plan(solver, schedule, cfg.steps, cfg.grid, cfg.model.prediction).nfe
        timing = time_network(cfg, runner, seconds)
    evaluations = nfe * cfg.samples
    return Cost(
        nfe=nfe,
        flops=evaluations * flops(architecture(cfg)),
        sampling=evaluations * timing.seconds,
        features=time_features(cfg, runner) if cfg.fid == "auto" else None,
        memory=peak_memory(runner.device),
        disk=disk(cfg),
        timing=timing,
    )


def disk(cfg: Run) -> int:
    """The bytes of a run's images, twice where they are saved, and features.

    Those of a classifier are in float64. A PNG has at most about the bytes of its pixels.
    """
    copies = 2 if cfg.save_images in ("npz", "png") else 1
    dimension = DIMENSIONS[cfg.dataset.extractor] if cfg.fid == "auto" else 0
    image = math.prod(ARCHITECTURES[architecture(cfg)].image)
    number = 8 if cfg.dataset.extractor in CLASSIFIER_IMAGES else 4
    return cfg.samples * (copies * image + number * dimension)


def has_weights(cfg: Run) -> bool:
    """Whether a run's weights are on this machine."""
    return cfg.model.checkpoint is not None or find(cfg.model.name).present


def load_runner(cfg: Run) -> Runner:
    """Return a run's network, with random weights if its own are missing."""
    if has_weights(cfg):
        return Job(cfg).network
    job, network = Job(cfg), UNet(ARCHITECTURES[architecture(cfg)]).eval()
    compile = compile_setting(cfg, network.arch, job.device)
    return Runner(network, job.device, job.cfg.precision, compile)


def architecture(cfg: Run) -> str:
    """The architecture of a run's network."""
    if cfg.model.architecture is not None:
        return cfg.model.architecture
    return WEIGHTS[cfg.model.name].architecture


def flops(architecture: str) -> float:
    """The floating-point operations of one evaluation on one image."""
    return operations.flops(ARCHITECTURES[architecture])


def time_network(cfg: Run, runner: Runner, seconds: float) -> Timing:
    """Time an evaluation at the batch size of a run."""
    with tempfile.TemporaryDirectory() as folder:
        size = BatchSize(min(cfg.batch_size, cfg.samples, SHARD), Path(folder))
        return time_evaluations(runner, size, seconds)


def time_adaptive(cfg: Run, runner: Runner, seconds: float) -> tuple[float, Timing]:
    """Measure the evaluations per image of an adaptive method, and the time of each, on one batch.

    The batch grows until it takes a tenth of `seconds`, or reaches the run's batch size, halved
    where it does not fit. Each size is first evaluated once, which compiles and selects kernels.
    """
    batch = 1
    with tempfile.TemporaryDirectory() as folder:
        size = BatchSize(min(cfg.batch_size, cfg.samples, SHARD), Path(folder))
        while True:
            time_evaluations(runner, BatchSize(batch, Path(folder)), 0)
            batch = min(batch, size.now)
            began = time.monotonic()
            _, nfe = sample_batches(cfg, runner, range(batch), size, lambda images: None)
            duration = time.monotonic() - began
            if duration > seconds / 10 or batch >= size.now:
                return nfe.double().mean().item(), Timing(batch, duration / int(nfe.sum()))
            batch = min(4 * batch, size.now)


def time_features(cfg: Run, runner: Runner) -> float | None:
    """Estimate the feature extraction time of all images; None if there is no extractor."""
    try:
        extractor = load_extractor(cfg.dataset.extractor, runner.device)
    except MissingReference:
        return None
    count = min(cfg.samples, EXTRACTION)
    pixels = torch.zeros(count, *runner.arch.image, dtype=torch.uint8)
    seconds = 0.0
    for _ in range(2):  # the first call warms up
        began = time.monotonic()
        extract_in_chunks(extractor, pixels)
        seconds = time.monotonic() - began
    return seconds / count * cfg.samples


def peak_memory(device: torch.device) -> int:
    """The peak bytes reserved on the GPU, else the peak memory of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def show(cfg: Run, cost: Cost) -> None:
    """Print the prediction as a table."""
    missing = "no extractor here" if cfg.fid == "auto" else "fid=off"
    rate, speed = cost.timing, cost.flops / cost.sampling / 1e9
    rows = {
        "run": f"{cfg.dataset.name}, {cfg.schedule['name']}, {cfg.model.name}",
        "evaluations": f"{cost.nfe:g} × {cfg.samples:,} images, {cost.flops:.3g} FLOP",
        "sampling": format_duration(cost.sampling),
        "features": missing if cost.features is None else format_duration(cost.features),
        "memory": format_size(cost.memory),
        "disk": format_size(cost.disk),
        "measured with": f"{rate.batch} images at once: {1e3 * rate.seconds:.3g} ms each, "
        f"{speed:,.0f} GFLOP/s",
    }
    for need in all_missing([cfg]):
        size = "" if need.size is None else f", {format_bytes(need.size)}"
        rows[f"missing {need.kind}"] = need.source + size
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def format_duration(seconds: float) -> str:
    """Format a duration in a readable unit."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def format_size(count: int) -> str:
    """Format a number of bytes in a readable unit."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def parse_seconds(word: str) -> float:
    """Parse seconds=…; ConfigError if it is not a positive number."""
    with contextlib.suppress(ValueError):
        seconds = float(word.partition("=")[2])
        if 0 < seconds < math.inf:
            return seconds
    raise ConfigError(f"{word}: give a positive number of seconds")


def main(words: Sequence[str]) -> None:
    """Predict the cost of each composed run; SystemExit with one line on an error."""
    prepare_console()
    if {"-h", "--help"} & set(words):
        return print(__doc__)
    own = [word for word in words if word.startswith("seconds=")]
    with one_line_exit("the same command begins again"):
        seconds = parse_seconds(own[-1]) if own else SECONDS
        ours = [word for word in words if word not in (*own, "-m", "--multirun")]
        for cfg in compose_runs(ours, multirun=True):
            show(cfg, predict(cfg, seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
