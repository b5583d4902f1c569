"""Training of ε-networks, on digits with a CPU or on larger images with a GPU.

    python -m pndm.train dataset=digits schedule=cosine

The loss is L_simple = E‖e − e_θ(√ᾱ_t·x_0 + √(1−ᾱ_t)·e, t)‖² (Ho et al. 2020, eq. 14), its times
stratified over the batch. Everything random in iteration i is drawn from (seed, i) alone, so a
run that was stopped continues from its checkpoint as if it had never been stopped. With
`processes=N` each process has a part of the same batch and of the same random numbers.
"""

import copy
import dataclasses
import io
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from pndm import noise
from pndm._devices import copy_to, resolve_device
from pndm._distributed import Part, distribute, mean_of_processes, run_processes
from pndm._errors import NonFiniteError, one_line_exit, prepare_console
from pndm._files import make_folder, sha256, sole_process, write_bytes, write_json
from pndm._provenance import commit as current_commit
from pndm._provenance import versions
from pndm._tf32 import tf32
from pndm.config.build import build_schedule
from pndm.config.compose import compose_train
from pndm.config.schema import ConfigError, Recipe, Train
from pndm.data import datasets, images
from pndm.data.download import fetch_unasked
from pndm.models.registry import ARCHITECTURES
from pndm.models.unet import UNet
from pndm.sampling import sample
from pndm.solvers import ddim

NOT_OF_WEIGHTS = tuple(
    f"dataset.{name}" for name in ("samples", "batch_size", "extractor", "models")
)
"""Settings of a dataset that are for sampling."""

WIDE = 32
"""From so many channels on, channels_last trains faster (measured)."""


def times_and_noise(count: int, image: Sequence[int], timesteps: int) -> tuple[Tensor, Tensor]:
    """Stratified times t [B] and noise e ~ N(0, 1) [B, C, H, W] of a batch, on the CPU."""
    strata = (torch.arange(count) + torch.rand(count)) / count
    t = (strata * timesteps).long().clamp(max=timesteps - 1)
    return t, torch.randn(count, *image)


def loss(
    model: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, t: Tensor, e: Tensor, alpha_bar: Tensor
) -> Tensor:
    """Mean squared error of the predicted noise (Ho et al. 2020, eq. 14).

    x_0 and e [B, C, H, W], t [B] integers from 0 to T−1, alpha_bar [T].
    """
    a = alpha_bar[t].view(-1, 1, 1, 1)
    return (model(a.sqrt() * x_0 + (1 - a).sqrt() * e, t.float()) - e).square().mean()


def batch_indices(count: int, batch_size: int, seed: int, start: int) -> Iterator[list[int]]:
    """Endless batches of indices from the permutation of each epoch, from iteration `start` on."""
    epoch, order = -1, torch.empty(0)
    position = start * batch_size
    while True:
        batch = []
        for p in range(position, position + batch_size):
            if p // count != epoch:
                epoch = p // count
                order = torch.randperm(count, generator=generator(seed, epoch))
            batch.append(int(order[p % count]))
        yield batch
        position += batch_size


def generator(seed: int, stream: int) -> torch.Generator:
    """The random numbers of one epoch."""
    return torch.Generator("cpu").manual_seed(noise.derive_seed("epoch", seed, stream))


def learning_rate(iteration: int, recipe: Recipe) -> float:
    """Linear warm-up, then constant or, with `decay`, half a cosine down to zero."""
    rate = recipe.lr * min(1.0, (iteration + 1) / max(recipe.warmup, 1))
    if recipe.decay:
        rate *= 0.5 * (1 + math.cos(math.pi * iteration / recipe.iterations))
    return rate


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float, iteration: int) -> None:
    """ema ← d·ema + (1−d)·model, d = min(decay, (1+i)/(10+i)) so that it forgets its start."""
    d = min(decay, (1 + iteration) / (10 + iteration))
    torch._foreach_lerp_([*ema.parameters()], [*model.parameters()], 1 - d)


def train(cfg: Train) -> Path:
    """Train to `cfg.recipe.iterations`, resuming if there is a checkpoint; the weights' path."""
    if cfg.processes == 1 or cfg.finish:
        train_part(cfg, Part())
    else:
        run_processes(train_part, cfg.processes, cfg.device, cfg)
    return weights_path(Path(cfg.output))


def weights_path(out: Path) -> Path:
    """The file of the averaged weights in a training's folder."""
    return out / f"{out.name}.safetensors"


def train_part(cfg: Train, part: Part) -> None:
    """Train on a part of every batch; the first of several processes writes all files."""
    training = Training(cfg, part)
    out = make_folder(Path(cfg.output))
    with sole_process(out / "train") if part.rank == 0 else nullcontext():
        training.restore()
        if not cfg.finish:
            training.run()
        if part.rank == 0:
            training.finish()


class Training:
    """A training in progress: the data, the network with its moving average, the optimizer.

    ConfigError where the images are not those of the architecture.
    """

    def __init__(self, cfg: Train, part: Part) -> None:
        self.cfg, self.part = cfg, part
        self.checkpoint, self.settings = Path(cfg.output) / "checkpoint.pt", identity(cfg)
        self.device = torch.device(resolve_device(cfg.device))
        self.is_cuda = self.device.type == "cuda"
        root = None if cfg.dataset.root is None else Path(cfg.dataset.root)
        if root is None:
            fetch_unasked(cfg.dataset.name)
        self.data = datasets.source(cfg.dataset.name)("train" if cfg.holdout else "all", root)
        self.schedule = build_schedule(cfg.schedule)
        alpha_bar = [self.schedule.alpha_bar(t) for t in range(self.schedule.timesteps)]
        self.alpha_bar = torch.tensor(alpha_bar).to(self.device)

        torch.manual_seed(noise.derive_seed("initial weights", cfg.seed))
        model = UNet(ARCHITECTURES[cfg.architecture]).to(self.device)
        if model.arch.channels >= WIDE:
            model = model.to(memory_format=torch.channels_last)
        if self.data[0].shape != model.arch.image:
            raise ConfigError(
                f"architecture={cfg.architecture} is not for images {list(self.data[0].shape)} of "
                f"dataset={cfg.dataset.name}"
            )
        self.model, self.ema = model, copy.deepcopy(model).eval().requires_grad_(False)
        fused = self.is_cuda or None
        self.optimizer = torch.optim.Adam(model.parameters(), lr=cfg.recipe.lr, fused=fused)
        self.iteration, self.seconds, self.commit = 0, 0.0, current_commit()
        self.losses: list[list[float]] = []
        self.window: list[Tensor] = []
        """The losses of iterations that were not logged yet."""

    def restore(self) -> None:
        """Continue from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        saved = resumed(self.checkpoint, self.settings, self.cfg.recipe.iterations)
        self.model.load_state_dict(saved["model"])
        self.ema.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.iteration, self.losses = saved["iteration"], saved["losses"]
        self.seconds, self.commit = saved["seconds"], saved["commit"]
        self.window = [*torch.tensor(saved.get("window", []), device=self.device)]

    def run(self) -> None:
        """Train to the last iteration."""
        cfg, recipe, part = self.cfg, self.cfg.recipe, self.part
        size = len(self.data)  # type: ignore[arg-type]  # which torch's Dataset does not promise
        batches = batch_indices(size, recipe.batch_size, cfg.seed, self.iteration)
        loader = DataLoader(
            self.data,
            batch_sampler=map(part.of, batches),
            num_workers=cfg.workers,
            pin_memory=self.is_cuda,
        )
        shared = distribute(self.model, part, recipe.batch_size)
        network = torch.compile(shared, dynamic=False) if cfg.compile == "auto" else shared
        bar = tqdm(
            loader,
            total=recipe.iterations,
            initial=self.iteration,
            desc=self.checkpoint.parent.name,
            mininterval=1,
            disable=part.rank != 0,
        )
        self.began = time.monotonic()
        self.model.train()
        for iteration, batch in enumerate(bar, self.iteration):
            if iteration >= recipe.iterations:
                break
            self.window.append(self.step(network, iteration, batch))
            done = self.iteration = iteration + 1
            if done % recipe.log_every == 0 or done == recipe.iterations:
                bar.set_postfix(loss=f"{self.log():.4f}")
            if done % recipe.checkpoint_every == 0 or done == recipe.iterations:
                self.save()
        bar.close()

    def step(self, network: Callable[..., Tensor], iteration: int, batch: Tensor) -> Tensor:
        """One step of Adam on this process's part of a batch, uint8; its share of the loss."""
        cfg, recipe, part = self.cfg, self.cfg.recipe, self.part
        torch.manual_seed(noise.derive_seed("iteration", cfg.seed, iteration))
        x_0 = images.from_uint8(batch.to(self.device, non_blocking=True))
        if cfg.dataset.flip:
            is_flipped = torch.rand(recipe.batch_size, 1, 1, 1) < 0.5
            x_0 = torch.where(copy_to(part.of(is_flipped), self.device), x_0.flip(3), x_0)
        drawn = times_and_noise(recipe.batch_size, self.model.arch.image, self.schedule.timesteps)
        t, e = (copy_to(part.of(numbers), self.device) for numbers in drawn)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(iteration, recipe)
        with tf32(cfg.precision == "tf32"):
            is_bf16 = cfg.precision == "bf16"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
                value = loss(network, x_0, t, e, self.alpha_bar) * part.weight(recipe.batch_size)
            self.optimizer.zero_grad()
            value.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        update_ema(self.ema, self.model, recipe.ema, iteration)
        return value.detach()

    def log(self) -> float:
        """Add the mean loss since the last time to the curve; NonFiniteError if it is none."""
        mean = mean_of_processes(torch.stack(self.window).mean(), self.part).item()
        if not math.isfinite(mean):
            raise NonFiniteError(f"loss is {mean} at iteration {self.iteration}: lower recipe.lr")
        self.losses.append([self.iteration, mean])
        self.window = []
        return mean

    def save(self) -> None:
        """Write a checkpoint, in the first process; all take part in the mean of the losses."""
        window = torch.stack(self.window) if self.window else None
        unlogged = [] if window is None else mean_of_processes(window, self.part).tolist()
        if self.part.rank != 0:
            return
        now = time.monotonic()
        self.seconds, self.began = self.seconds + now - self.began, now
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "settings": self.settings,
            "iteration": self.iteration,
            "losses": self.losses,
            "window": unlogged,
            "seconds": self.seconds,
            "commit": self.commit,
        }
        save_checkpoint(self.checkpoint, state)

    def finish(self) -> None:
        """Write the weights and what belongs to them; ConfigError if nothing was trained."""
        if self.window:
            self.losses.append([self.iteration, torch.stack(self.window).mean().item()])
        if not self.losses:
            raise ConfigError(f"there is no {self.checkpoint} to finish: train first")
        finish(self.cfg, self.ema, self.losses, self.seconds, self.commit, self.iteration)


def identity(cfg: Train) -> dict[str, Any]:
    """What determines the weights, but for the number of iterations; plain, as files hold it.

    Their precision in the file is no part of it.
    """
    found: dict[str, Any] = dataclasses.asdict(cfg)
    for key in ("output", "device", "workers", "finish", "compile", "processes"):
        del found[key]
    if cfg.precision == "fp32":  # as checkpoints from before there was a choice
        del found["precision"]
    for key in ("iterations", "log_every", "checkpoint_every", "half"):
        del found["recipe"][key]
    if cfg.recipe.decay:  # the rate depends on how many there will be
        found["recipe"]["iterations"] = cfg.recipe.iterations
    return found


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically; FileError where the file system refuses."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getbuffer())


def resumed(path: Path, settings: dict[str, Any], iterations: int) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU, where Adam counts its steps.

    ConfigError where it is of another training, or no checkpoint.
    """
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        done, found = saved["iteration"], saved["settings"]
    except Exception as error:  # torch raises whatever its readers meet in a broken file
        raise ConfigError(
            f"{path} is no checkpoint of this version ({type(error).__name__}): remove it, or "
            "give another output="
        ) from None
    flat = [d for d in _differences(found, settings) if not d.startswith(NOT_OF_WEIGHTS)]
    if done > iterations:
        flat.append(f"{done} iterations done")
    if flat:
        raise ConfigError(
            f"{path} is of another training ({', '.join(flat)}): give another output="
        )
    return saved


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """Settings that are not the same, as name=value of the one found."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in {**found, **wanted}:
            yield from _differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
    elif found != wanted:
        yield f"{name}={found}"


def finish(
    cfg: Train, ema: UNet, losses: list, seconds: float, commit: str | None, iterations: int
) -> None:
    """Write the averaged weights, their card, the loss curve and a picture of samples.

    With `recipe.half` the file has half precision, and the picture is made with its numbers.
    """
    out = Path(cfg.output)
    weights = weights_path(out)
    rounded = ema.half() if cfg.recipe.half else ema
    state = {name: tensor.contiguous() for name, tensor in rounded.state_dict().items()}
    write_bytes(weights, save(state))
    write_json(out / "losses.json", losses)

    schedule = build_schedule(cfg.schedule)
    x_T = noise.initial_noise(range(100), ema.arch.image).to(next(ema.parameters()).device)
    steps = min(100, schedule.timesteps)
    x_0 = sample(rounded.float(), x_T, solver=ddim(), schedule=schedule, steps=steps)
    images.save_grid(images.to_uint8(x_0), out / "samples.png")

    card = {
        "name": out.name,
        "architecture": cfg.architecture,
        "dataset": cfg.dataset.name,
        "images": "nine tenths" if cfg.holdout else "all",
        "schedule": cfg.schedule["name"],
        "timesteps": schedule.timesteps,
        **{key: value for key, value in cfg.schedule.items() if key in ("beta_start", "beta_end")},
        "ema": cfg.recipe.ema,
        "precision": "half" if cfg.recipe.half else "single",
        **({} if cfg.precision == "fp32" else {"training_precision": cfg.precision}),
        "command": " ".join(["python -m pndm.train", *sys.argv[1:]]),
        "seed": cfg.seed,
        "iterations": iterations,
        "iterations_of_recipe": cfg.recipe.iterations,
        "batch_size": cfg.recipe.batch_size,
        "loss": losses[-1][1],
        "loss_last_tenth": mean_of_last_tenth(losses),
        "seconds": round(seconds, 1),
        **({} if cfg.processes == 1 else {"processes": cfg.processes}),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "sha256": sha256(weights),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
    }
    write_json(weights.with_suffix(".json"), card)
    print(json.dumps(card, indent=2))


def mean_of_last_tenth(losses: list) -> float:
    """The mean loss over the last tenth of the iterations."""
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(value for _, value in tail) / len(tail)


def main(words: list[str]) -> None:
    """Refuse what cannot be trained in one line; Ctrl-C loses nothing since the checkpoint."""
    prepare_console()
    if {"-h", "--help"} & set(words):
        return print(__doc__)
    with one_line_exit("the same command continues from the last checkpoint"):
        train(compose_train(words))


if __name__ == "__main__":
    main(sys.argv[1:])
