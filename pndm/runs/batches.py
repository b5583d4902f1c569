"""Sampling a batch of images: a network, a solver and the noise of given seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pndm import noise
from pndm._errors import MemoryLimit, NonFiniteError
from pndm._files import make_folder, write_atomic
from pndm.config.build import build_method, build_schedule
from pndm.config.schema import Run
from pndm.data import images
from pndm.execute import Denoiser
from pndm.runs.network import Runner, is_out_of_memory
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
        """Halve the batch size after `size` ran out of memory; MemoryLimit if `size` is 1."""
        if size == 1:
            raise MemoryLimit(
                f"one image of {network.name} does not fit into the memory of {network.device}: "
                "use precision=bf16, or another device"
            )
        print(f"out of memory with {size} images at once: {size // 2} from now on", flush=True)
        make_folder(self.folder)
        write_atomic(self.note, lambda path: path.write_text(str(size // 2)))


def sample_batch(
    cfg: Run, network: Runner, seeds: Sequence[int], progress: Progress
) -> tuple[Tensor, Tensor]:
    """Return images uint8 [B, C, H, W] of the given seeds, and the evaluations [B] of each."""
    shape = network.arch.image
    denoiser = FiniteCheck(network, progress)
    solution = solve(
        denoiser,
        network.state_of(noise.initial_noise(seeds, shape)),
        **build_method(cfg),
        schedule=build_schedule(cfg.schedule, cfg.convention),
        prediction=cfg.model.prediction,
        noise=noise.step_noise(seeds, shape),
    )
    denoiser.require_finite()
    return images.to_uint8(solution.x_0).cpu(), solution.nfe.cpu()


def sample_batches(
    cfg: Run, network: Runner, seeds: Sequence[int], size: BatchSize, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Return the images and evaluations of all seeds, sampled in batches that fit in memory."""
    parts: list[tuple[Tensor, Tensor]] = []
    done = 0
    while done < len(seeds):
        batch = seeds[done : done + size.now]
        try:
            parts.append(sample_batch(cfg, network, batch, progress))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            size.reduce(len(batch), network)
            continue
        done += len(batch)
    pixels, nfe = zip(*parts, strict=True)
    return torch.cat(pixels), torch.cat(nfe)
