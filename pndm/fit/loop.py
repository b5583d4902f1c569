"""The fitting: Adam on the numbers of a student, until its images are the teacher's.

Everything random in iteration i is drawn from (seed, i) alone, so that a fit that was stopped
continues from its checkpoint as if it had never been stopped. The numbers that are best on noise
that no gradient has seen are kept.
"""

import dataclasses
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pndm import models
from pndm._devices import resolve_device
from pndm._errors import NonFiniteError
from pndm._files import make_folder, write_atomic, write_json
from pndm._provenance import commit, hardware, versions
from pndm.config.build import build_schedule, build_solver
from pndm.config.schema import IMAGES_PER_SEED, Fit
from pndm.fit import teacher
from pndm.fit.loss import Loss
from pndm.fit.student import Student
from pndm.learned import FIRST_SEED_SET, PARTS
from pndm.models import locations, registry
from pndm.plans import plan
from pndm.runs.network import Runner
from pndm.train import batch_indices, resumed

NOT_HASHED = ("device", "output", "progress", "recompute")
"""Settings that do not change the numbers."""

STEP = 0.25
"""The length of the step that moves a start against its gradient, in radii."""


def fit(cfg: Fit) -> Path:
    """Fit, resuming if there is a checkpoint; return the path of plan.json.

    NonFiniteError where the loss is NaN or infinite: the best plan so far is written first.
    """
    out = make_folder(Path(cfg.output))
    schedule, began = build_schedule(cfg.schedule, cfg.convention), time.monotonic()
    start = plan(build_solver(cfg.solver), schedule, cfg.steps, cfg.grid, cfg.model.prediction)
    student = Student(start, schedule, cfg.learn, cfg.model.prediction, cfg.recompute)
    network, sha256 = load_network(cfg)
    loss = Loss(cfg.moments)
    fitting, validation = (
        teacher.solve(
            network,
            schedule,
            cfg.model.prediction,
            seeds(cfg, purpose),
            cfg.teacher,
            start.nodes[-1].time,
            sha256,
            cfg.batch_size,
            cfg.progress,
        )
        for purpose in ("fitting", "validation")
    )
    groups: list[dict[str, Any]] = [
        {"params": [student.part(part)], "rate": getattr(cfg.lr, part)} for part in cfg.learn
    ]
    optimizer = torch.optim.Adam(groups) if groups else None
    offsets = torch.zeros_like(fitting[0]) if cfg.radius else None
    state: dict[str, Any] = {"iteration": 0, "seconds": 0.0, "history": [], "best": None}
    checkpoint = out / "checkpoint.pt"
    settings = identity(cfg) | {"network": sha256}
    if checkpoint.exists():
        state = resumed(checkpoint, settings, cfg.iterations)
        student.load_state_dict(state["student"])
        if optimizer is not None:
            optimizer.load_state_dict(state["optimizer"])
        if offsets is not None:
            offsets = state["offsets"].to(offsets)

    def diverged(what: str, value: float, iteration: int) -> str:
        """Write the best plan so far, if there is one, and say what happened."""
        message = f"{what} is {value} at iteration {iteration}: lower lr.*"
        if state["best"] is None:
            return message
        return f"{message}; the best plan so far is {finish(cfg, student, state, sha256)}"

    def save(iteration: int) -> None:
        """Validate, keep the numbers if they are the best, and write a checkpoint."""
        value = evaluate(student, network, validation, loss, cfg.batch_size)
        if not all(map(math.isfinite, value.values())):
            raise NonFiniteError(diverged("the validation loss", value["loss"], iteration))
        state["history"].append([iteration, *value.values()])
        if state["best"] is None or value["loss"] < state["best"]["loss"]:
            numbers = {key: tensor.clone() for key, tensor in student.state_dict().items()}
            state["best"] = {"iteration": iteration, **value, "student": numbers}
        now = {
            "iteration": iteration,
            "student": student.state_dict(),
            "optimizer": optimizer.state_dict() if optimizer is not None else None,
            "offsets": offsets,
            "settings": settings,
            "seconds": seconds + time.monotonic() - began,
        }
        state.update(now)
        write_atomic(checkpoint, partial(torch.save, state))

    seconds = state["seconds"]
    if state["best"] is None:
        save(0)
    count = cfg.iterations if cfg.learn else 0
    first = state["iteration"]
    batches = batch_indices(cfg.images, cfg.batch_size, cfg.seed, first)
    shown: dict[str, Any] = {"desc": out.name, "mininterval": 1, "disable": not cfg.progress}
    bar = tqdm(range(first, count), initial=first, total=count, **shown)
    for iteration in bar:
        indices = next(batches)
        x_T, x_0 = (part[indices] for part in fitting)
        if offsets is not None:
            x_T = (x_T + offsets[indices]).requires_grad_()
        assert optimizer is not None
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * 0.5 * (1 + math.cos(math.pi * iteration / count))
        optimizer.zero_grad()
        value = loss(student(network, x_T), x_0)
        value.backward()
        gradients = [group["params"][0].grad for group in optimizer.param_groups]
        if not all(tensor.isfinite().all() for tensor in (value, *gradients)):
            raise NonFiniteError(diverged("the loss", value.item(), iteration + 1))
        optimizer.step()
        if offsets is not None:
            assert x_T.grad is not None
            offsets[indices] = moved(offsets[indices], x_T.grad, cfg.radius)
        done = iteration + 1
        if done % cfg.validate_every == 0 or done == count:
            save(done)
            bar.set_postfix(loss=f"{value.item():.5f}", validation=f"{state['best']['loss']:.5f}")
    return finish(cfg, student, state, sha256)


def load_network(cfg: Fit) -> tuple[Runner, str]:
    """The frozen network on its device, and the hash of its weights."""
    model = cfg.model
    if model.checkpoint is not None:
        path = locations.locate(model.checkpoint)
    else:
        path = registry.find(model.name).require()
    name = model.checkpoint or model.name
    network = models.load(name, architecture=model.architecture, format=model.format)
    network.requires_grad_(False)
    device = torch.device(resolve_device(cfg.device))
    return Runner(network, device), locations.weights_sha256(path)


def seeds(cfg: Fit, purpose: str) -> range:
    """The seeds of the images for `fitting` or `validation`, each from a seed set of its own.

    Seed sets below FIRST_SEED_SET are left for evaluation.
    """
    number = FIRST_SEED_SET + 2 * cfg.seed + (purpose == "validation")
    count = cfg.validation if purpose == "validation" else cfg.images
    return range(number * IMAGES_PER_SEED, number * IMAGES_PER_SEED + count)


@torch.no_grad()
def evaluate(
    student: Student, network: Runner, pairs: tuple[Tensor, Tensor], loss: Loss, batch_size: int
) -> dict[str, float]:
    """The loss of all images at once, and their root mean square distance to the teacher's."""
    x_T, x_0 = pairs
    x = torch.cat([student(network, batch) for batch in x_T.split(batch_size)])
    return {"loss": loss(x, x_0).item(), "rmse": (x - x_0).square().mean().sqrt().item()}


def moved(offsets: Tensor, gradient: Tensor, radius: float) -> Tensor:
    """Offsets [B, ...] after a step against the gradient, projected into the ball of r·√D."""
    limit = radius * math.sqrt(offsets[0].numel())
    shape = (-1, *[1] * (offsets.ndim - 1))
    length = gradient.flatten(1).norm(dim=1).clamp(min=1e-30).view(shape)
    offsets = offsets - STEP * limit * gradient / length
    return offsets * (limit / offsets.flatten(1).norm(dim=1).clamp(min=limit)).view(shape)


def identity(cfg: Fit) -> dict[str, Any]:
    """What determines the numbers, as plain values."""
    settings: dict[str, Any] = dataclasses.asdict(cfg)
    for key in NOT_HASHED:
        del settings[key]
    settings["dataset"] = cfg.dataset.name
    return settings


def finish(cfg: Fit, student: Student, state: dict[str, Any], sha256: str) -> Path:
    """Write the best numbers as plan.json, with what they were fitted to, and the loss curve."""
    best = state["best"]
    student.load_state_dict(best["student"])
    table = dataclasses.replace(
        student.to_learned(),
        name=f"{cfg.model.name}-{cfg.steps}",
        network={"name": cfg.model.name, "sha256": sha256},
        schedule={**cfg.schedule, "convention": cfg.convention},
        fitted=provenance(cfg, state),
    )
    path = Path(cfg.output) / "plan.json"
    write_json(path, table.to_json())
    keys = ("iteration", "loss", "rmse")
    history = [dict(zip(keys, values, strict=True)) for values in state["history"]]
    write_json(path.with_name("history.json"), history)
    return path


def provenance(cfg: Fit, state: dict[str, Any]) -> dict[str, Any]:
    """How a plan came to be."""
    best, first = state["best"], state["history"][0]
    sets = {name: seeds(cfg, name)[0] // IMAGES_PER_SEED for name in ("fitting", "validation")}
    return {
        "start": {"solver": cfg.solver, "grid": cfg.grid, "steps": cfg.steps},
        "learn": [part for part in PARTS if part in cfg.learn],
        "loss": {"moments": cfg.moments, "radius": cfg.radius},
        "teacher": {"solver": "heun", "steps": cfg.teacher},
        "seed_sets": sets,
        "images": {"fitting": cfg.images, "validation": cfg.validation},
        "optimizer": {
            "iterations": cfg.iterations,
            "done": state["history"][-1][0],
            "batch_size": cfg.batch_size,
            "lr": dataclasses.asdict(cfg.lr),
        },
        "best": {key: best[key] for key in ("iteration", "loss", "rmse")},
        "first": {"loss": first[1], "rmse": first[2]},
        "seconds": round(state["seconds"], 1),
        "machine": hardware(resolve_device(cfg.device)),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "torch": versions()["torch"],
    }
