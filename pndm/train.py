"""Training of ε-networks, on digits with a CPU or on larger images with a GPU.

    python -m pndm.train dataset=digits schedule=cosine

The loss is L_simple = E‖e − e_θ(√ᾱ_t·x_0 + √(1−ᾱ_t)·e, t)‖² (Ho et al. 2020, eq. 14), its times
stratified over the batch. Everything random in iteration i is drawn from (seed, i) alone, so a
run that was stopped continues from its checkpoint as if it had never been stopped. With
`processes=N` each process has a part of the same batch and of the same random numbers.
"""

import copy
import dataclasses
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from pndm import noise
from pndm._devices import copy_to, resolve_device
from pndm._distributed import Part, distribute, mean_of_processes, run_processes
from pndm._errors import NonFiniteError, one_line_exit, prepare_console
from pndm._files import make_folder, sha256, write_atomic, write_json
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
    recipe, out = cfg.recipe, Path(cfg.output)
    device = torch.device(resolve_device(cfg.device))
    root = None if cfg.dataset.root is None else Path(cfg.dataset.root)
    if root is None:
        fetch_unasked(cfg.dataset.name)
    data = datasets.source(cfg.dataset.name)("train" if cfg.holdout else "all", root)
    schedule = build_schedule(cfg.schedule)
    alpha_bar = torch.tensor([schedule.alpha_bar(t) for t in range(schedule.timesteps)])
    alpha_bar = alpha_bar.to(device)

    torch.manual_seed(noise.derive_seed("initial weights", cfg.seed))
    model = UNet(ARCHITECTURES[cfg.architecture]).to(device)
    if model.arch.channels >= WIDE:
        model = model.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    is_cuda = device.type == "cuda"
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr, fused=is_cuda or None)
    start, losses, window, seconds, commit = 0, [], [], 0.0, current_commit()
    sizes, arch = data[0].shape, model.arch
    if sizes != arch.image:
        raise ConfigError(
            f"architecture={cfg.architecture} is not for images {list(sizes)} of "
            f"dataset={cfg.dataset.name}"
        )

    make_folder(out)
    checkpoint, settings = out / "checkpoint.pt", identity(cfg)
    if checkpoint.exists():
        saved = resumed(checkpoint, settings, recipe.iterations)
        model.load_state_dict(saved["model"])
        ema.load_state_dict(saved["ema"])
        optimizer.load_state_dict(saved["optimizer"])
        start, losses, seconds = saved["iteration"], saved["losses"], saved["seconds"]
        window = [*torch.tensor(saved.get("window", []), device=device)]
        commit = saved["commit"]
    if cfg.finish:
        if window:
            losses.append([start, torch.stack(window).mean().item()])
        if not losses:
            raise ConfigError(f"there is no {checkpoint} to finish: train first")
        return finish(cfg, ema, losses, seconds, commit, start)

    size = len(data)  # type: ignore[arg-type]  # which torch's Dataset does not promise
    loader = DataLoader(
        data,
        batch_sampler=map(part.of, batch_indices(size, recipe.batch_size, cfg.seed, start)),
        num_workers=cfg.workers,
        pin_memory=is_cuda,
    )
    shared = distribute(model, part, recipe.batch_size)
    network = torch.compile(shared, dynamic=False) if cfg.compile == "auto" else shared
    weight, is_first = part.weight(recipe.batch_size), part.rank == 0
    bar = tqdm(
        loader,
        total=recipe.iterations,
        initial=start,
        desc=out.name,
        mininterval=1,
        disable=not is_first,
    )
    began = time.monotonic()
    model.train()
    for iteration, batch in enumerate(bar, start):
        if iteration >= recipe.iterations:
            break
        torch.manual_seed(noise.derive_seed("iteration", cfg.seed, iteration))
        x_0 = images.from_uint8(batch.to(device, non_blocking=True))
        if cfg.dataset.flip:
            is_flipped = torch.rand(recipe.batch_size, 1, 1, 1) < 0.5
            x_0 = torch.where(copy_to(part.of(is_flipped), device), x_0.flip(3), x_0)
        drawn = times_and_noise(recipe.batch_size, arch.image, schedule.timesteps)
        t, e = (copy_to(part.of(numbers), device) for numbers in drawn)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(iteration, recipe)
        with tf32(cfg.precision == "tf32"):
            with torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
                value = loss(network, x_0, t, e, alpha_bar) * weight
            optimizer.zero_grad()
            value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_ema(ema, model, recipe.ema, iteration)

        window.append(value.detach())
        done = iteration + 1
        if done % recipe.log_every == 0 or done == recipe.iterations:
            mean = mean_of_processes(torch.stack(window).mean(), part).item()
            if not math.isfinite(mean):
                raise NonFiniteError(f"loss is {mean} at iteration {done}: lower recipe.lr")
            losses.append([done, mean])
            window = []
            bar.set_postfix(loss=f"{mean:.4f}")
        if done % recipe.checkpoint_every == 0 or done == recipe.iterations:
            unlogged = mean_of_processes(torch.stack(window), part).tolist() if window else []
            if not is_first:
                continue
            now = time.monotonic()
            seconds, began = seconds + now - began, now
            state = {
                "model": model.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
                "settings": settings,
                "iteration": done,
                "losses": losses,
                "window": unlogged,
                "seconds": seconds,
                "commit": commit,
            }
            write_atomic(checkpoint, partial(torch.save, state))
    bar.close()
    if is_first:
        finish(cfg, ema, losses, seconds, commit, recipe.iterations)


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
    write_atomic(weights, lambda path: save_file(state, path))
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
