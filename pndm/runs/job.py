"""A run as its processes see it: its configuration, network, and paths."""

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from pndm import learned
from pndm._devices import resolve_device, resolve_precision
from pndm._errors import MissingFile
from pndm._files import file_state
from pndm.config.build import build_solver
from pndm.config.schema import Run
from pndm.evaluation.features import Extractor
from pndm.evaluation.reference import evaluation_hash
from pndm.models import locations
from pndm.models.architectures import Architecture
from pndm.models.flops import flops
from pndm.runs.batches import BatchSize
from pndm.runs.identity import image_key, run_name
from pndm.runs.network import Runner, cached_runner, find_weights, load_network
from pndm.runs.shards import SHARD, Shards, Store


@dataclass(frozen=True)
class Job:
    """A run: its shards, the paths of shards and record, and the network that samples.

    `cfg` has the precision that `auto` means on this machine.
    """

    cfg: Run

    def __post_init__(self) -> None:
        precision = resolve_precision(self.cfg.precision, resolve_device(self.cfg.device))
        object.__setattr__(self, "cfg", dataclasses.replace(self.cfg, precision=precision))

    @property
    def shards(self) -> Shards:
        """The shards of the run."""
        return Shards(self.cfg.samples, self.cfg.seed)

    @cached_property
    def weights(self) -> Path:
        """The weights file; CheckpointError with what to fetch if it is missing."""
        return find_weights(self.cfg.model)[1]

    @cached_property
    def key(self) -> str:
        """A hash of what determines an image (see `pndm.runs.identity`).

        InputError as for `require_plan`.
        """
        self.require_plan()
        return image_key(self.cfg, locations.weights_sha256(self.weights))

    def require_plan(self) -> None:
        """Raise InputError where the learned plan, if any, was fitted to other weights."""
        if self.cfg.plan is not None:
            table = learned.read(self.cfg.plan, self.cfg.override)
            table.require_network(locations.weights_sha256(self.weights))

    @cached_property
    def folder(self) -> Path:
        """The folder of the record: outputs/digits/linear/plms-50-0123456789ab."""
        cfg, evaluation = self.cfg, None
        if cfg.fid != "off":
            data = cfg.dataset
            evaluation = evaluation_hash(
                data.name, data.extractor, data.root, "auto" in (cfg.kid, cfg.prc)
            )
        name = run_name(cfg, locations.weights_sha256(self.weights), evaluation)
        return Path(cfg.outputs) / cfg.dataset.name / cfg.schedule["name"] / name

    @property
    def shard_folder(self) -> Path:
        """The folder of the shards: runs that differ in the number of samples share it."""
        return Path(self.cfg.outputs) / "shards" / self.key[:16]

    @property
    def images(self) -> Store:
        """The shards of `images` uint8 [n, C, H, W], `nfe` [n], and their `seconds`."""
        return Store(self.shard_folder / "images")

    def features(self, extractor: Extractor) -> Store:
        """The shards of `features` [n, D] of one extractor, and their `seconds`."""
        return Store(self.shard_folder / f"{extractor.name}-{extractor.sha256[:12]}")

    def image_shard(self, shard: int) -> dict[str, np.ndarray]:
        """Return the arrays of a finished shard, limited to the run's number of images."""
        arrays = self.images.load(shard)
        if arrays is None:
            raise MissingFile(f"{self.images.path(shard)} is missing or damaged: run again")
        count = len(self.shards.seeds(shard))
        return {**arrays, "images": arrays["images"][:count], "nfe": arrays["nfe"][:count]}

    def delete_shards(self) -> None:
        """Delete this run's shards and its stored batch size; shards of larger runs remain."""
        for shard in range(len(self.shards)):
            for path in self.shard_folder.glob(f"*/{self.images.path(shard).name}"):
                path.unlink(missing_ok=True)
        self.batch_size.note.unlink(missing_ok=True)

    @property
    def batch_size(self) -> BatchSize:
        """The number of images sampled at once."""
        return BatchSize(self.cfg.batch_size, self.shard_folder)

    @cached_property
    def device(self) -> torch.device:
        return torch.device(resolve_device(self.cfg.device))

    @property
    def _source(self) -> tuple[str, str | None, str, Hashable]:
        """The arguments for loading the weights, and the state of their files."""
        model = self.cfg.model
        name, path = find_weights(model)
        state = tuple(map(file_state, locations.parts(path)))
        return name, model.architecture, model.format, state

    def load_weights(self) -> None:
        """Load the weights; CheckpointError if they are missing, damaged or of another network."""
        load_network(*self._source)
        self.require_plan()

    @cached_property
    def network(self) -> Runner:
        """The network on its device and in its precision."""
        compile = compile_setting(self.cfg, self.arch, self.device)
        return cached_runner(*self._source, self.device, self.cfg.precision, compile)

    @property
    def arch(self) -> Architecture:
        """The architecture of the network, which is loaded on the CPU for it."""
        return load_network(*self._source).arch

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.arch.image


GPU_RATE = 1e14
"""Operations per second of a GPU in TF32, roughly."""

LAUNCH_SECONDS = 2e-3
"""About the time in which the kernels of an eager evaluation are launched, of whatever batch."""

WORTH_COMPILING = 100.0
"""Seconds of a GPU from which `compile=auto` compiles, of which a minute of compilation saves a
third. This and the two above are expected, not measured: `python -m benchmarks.run layouts` on a
GPU measures them."""

ADAPTIVE_NFE = 100
"""About the evaluations of an adaptive method, which are not known before."""


def compile_setting(cfg: Run, arch: Architecture, device: torch.device) -> str:
    """The setting `compile` with what `auto` means on a GPU.

    That is `off` where compilation would not pay, and `graphs` where an evaluation is so small
    that launching its kernels takes longer than their work, which CUDA graphs mend.
    """
    if cfg.compile != "auto" or device.type == "cpu":
        return cfg.compile
    batch = min(cfg.batch_size, cfg.samples, SHARD)
    nfe = build_solver(cfg.solver).nfe(cfg.steps) or ADAPTIVE_NFE
    work = flops(arch) * batch / GPU_RATE
    if nfe * cfg.samples / batch * max(work, LAUNCH_SECONDS) < WORTH_COMPILING:
        return "off"
    return "graphs" if work < LAUNCH_SECONDS else "auto"
