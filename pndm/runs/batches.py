"""Sampling a batch of images: a network, a solver and the noise of given seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pndm import noise
from pndm._errors import MemoryLimit, NonFiniteError
from pndm._files import make_folder, write_atomic
from pndm._memory import is_out_of_memory
from pndm.config.build import build_method, build_schedule
from pndm.config.schema import Run
from pndm.data import images
from pndm.execute import Denoiser
from pndm.runs.network import Runner
from pndm.sampling import solve

Progress = Callable[[int], object]
"""Callback: images just evaluated."""


class FiniteCheck:
    """A denoiser that stores the sum of each output on the device, to detect NaN and infinity.

    `progress` is called after every evaluation.
    """

    def __init__(self, network: Denoiser, progress: Progress) -> None:
        self.network, self.progress = network, progress
        self.times: list[Tensor] = []
        self.sums: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        e = self.network(x, t)
        self.times.append(t[0])
        self.sums.append(e.sum(dtype=torch.float32))
        self.progress(len(x))
        return e

    def require_finite(self) -> None:
        """Raise NonFiniteError with the first evaluation that was not finite."""
        finite = torch.stack(self.sums).isfinite().tolist()
        for i, is_finite in enumerate(finite):
            if not is_finite:
                raise NonFiniteError(
                    f"evaluation {i} at time {self.times[i]:g}: the network returned NaN or "
                    "infinity: check its weights, or raise precision="
                )


@dataclass(frozen=True)
class BatchSize:
    """The number of images sampled at once: `largest`, halved after each out-of-memory error.

    A file in `folder` shares the reduced size with later runs and with other workers.
    """

    largest: int
    folder: Path

    @property
    def now(self) -> int:
        """The size of the next batch."""
        text = self.note.read_text(errors="replace").strip() if self.note.exists() else ""
        limit = int(text) if text.isdecimal() else 0
        return min(limit or self.largest, self.largest)

    @property
    def note(self) -> Path:
        """The file that stores a reduced size."""
        return self.folder / "batch_size"

    def reduce(self, size: int, network: Runner) -> None:
        """Halve the batch size after `size` ran out of memory, and free what a network holds.

        MemoryLimit if `size` is 1. Call it outside of the except clause, whose traceback holds
        tensors.
        """
        if size == 1:
            raise MemoryLimit(
                f"one image of {network.name} does not fit into the memory of {network.device}: "
                "use precision=bf16, or another device"
            )
        network.free_memory()
        print(f"out of memory with {size} images at once: {size // 2} from now on", flush=True)
        make_folder(self.folder)
        write_atomic(self.note, lambda path: path.write_text(str(size // 2)))


def sample_batch(
    cfg: Run, network: Runner, seeds: Sequence[int], progress: Progress, length: int = 0
) -> tuple[Tensor, Tensor]:
    """Return images uint8 [B, C, H, W] of the given seeds, and the evaluations [B] of each.

    Fewer than `length` seeds are filled up with the first one, whose further images are dropped.
    """
    count, shape = len(seeds), network.arch.image
    seeds = [*seeds, *[seeds[0]] * (length - count)]
    denoiser = FiniteCheck(network, lambda images: progress(min(images, count)))
    z = noise.step_noise(seeds, shape)
    solution = solve(
        denoiser,
        network.state_of(noise.initial_noise(seeds, shape)),
        **build_method(cfg),
        schedule=build_schedule(cfg.schedule, cfg.convention),
        prediction=cfg.model.prediction,
        noise=lambda row: network.state_of(z(row)),
    )
    denoiser.require_finite()
    return images.to_uint8(solution.x_0)[:count].cpu(), solution.nfe[:count].cpu()


def sample_batches(
    cfg: Run,
    network: Runner,
    seeds: Sequence[int],
    size: BatchSize,
    progress: Progress,
    whole: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return the images and evaluations of all seeds, sampled in batches that fit in memory.

    The size of a batch decides which kernels a GPU runs, and so an image's last digits. On a GPU
    all batches therefore have one size, that of equal parts of `whole`, the number of images of
    which `seeds` are the rest.
    """
    parts: list[tuple[Tensor, Tensor]] = []
    done = 0
    while done < len(seeds):
        fixed = network.device.type == "cuda"
        length = equal_parts(max(whole, len(seeds)), size.now) if fixed else size.now
        batch = seeds[done : done + length]
        part = None
        try:
            part = sample_batch(cfg, network, batch, progress, length if fixed else 0)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if part is None:
            size.reduce(length if fixed else len(batch), network)
        else:
            parts.append(part)
            done += len(batch)
    pixels, nfe = zip(*parts, strict=True)
    return torch.cat(pixels), torch.cat(nfe)


def equal_parts(count: int, largest: int) -> int:
    """The length of the fewest equal parts of `count`, each of at most `largest`."""
    return -(-count // -(-count // largest))
