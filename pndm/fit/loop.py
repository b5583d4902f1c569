"""The fitting: Adam on the numbers of a student, until its images are the teacher's.

Everything random in iteration i is drawn from (seed, i) alone, so that a fit that was stopped
continues from its checkpoint as if it had never been stopped. The numbers that are best on noise
that no gradient has seen are kept.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from pndm import models
from pndm._devices import resolve_device
from pndm._errors import NonFiniteError
from pndm._files import make_folder, sole_process, write_json
from pndm._provenance import commit, hardware, versions
from pndm.config.build import build_schedule, build_solver
from pndm.config.schema import IMAGES_PER_SEED, Fit
from pndm.fit import teacher
from pndm.fit.loss import Loss
from pndm.fit.student import Student
from pndm.learned import FIRST_SEED_SET, PARTS
from pndm.models.locations import weights_sha256
from pndm.plans import plan
from pndm.runs.network import Runner, find_weights
from pndm.train import batch_indices, resumed, save_checkpoint

NOT_HASHED = ("device", "output", "progress", "recompute")
"""Settings that do not change the numbers."""

STEP = 0.25
"""The length of the step that moves a start against its gradient, in radii."""


def fit(cfg: Fit) -> Path:
    """Fit, resuming if there is a checkpoint; return the path of plan.json.

    NonFiniteError where the loss is NaN or infinite: the best plan so far is written first.
    FileError while another process fits into the same folder.
    """
    network, sha256 = load_network(cfg)
    out = make_folder(Path(cfg.output))
    with sole_process(out / "fit"):
        return Fitting(cfg, network, sha256).run()


def load_network(cfg: Fit) -> tuple[Runner, str]:
    """The frozen network on its device, and the hash of its weights."""
    model, (name, path) = cfg.model, find_weights(cfg.model)
    network = models.load(name, architecture=model.architecture, format=model.format)
    network.requires_grad_(False)
    return Runner(network, torch.device(resolve_device(cfg.device))), weights_sha256(path)


class Fitting:
    """A fit in progress: the student, its optimizer, the teacher's images, and the best so far.

    `state` is what a checkpoint holds; one that is in the folder is read before the teacher, the
    expensive part, begins. ConfigError where it is of another fit.
    """

    def __init__(self, cfg: Fit, network: Runner, sha256: str) -> None:
        self.cfg, self.network, self.sha256 = cfg, network, sha256
        self.began = time.monotonic()
        self.checkpoint = Path(cfg.output) / "checkpoint.pt"
        self.settings = identity(cfg) | {"network": sha256}
        self.schedule = build_schedule(cfg.schedule, cfg.convention)
        solver, prediction = build_solver(cfg.solver), cfg.model.prediction
        start = plan(solver, self.schedule, cfg.steps, cfg.grid, prediction)
        self.student = Student(start, self.schedule, cfg.learn, prediction, cfg.recompute)
        self.loss = Loss(cfg.moments, cfg.huber)
        groups: list[dict[str, Any]] = [
            {"params": [self.student.part(part)], "rate": getattr(cfg.lr, part)}
            for part in cfg.learn
        ]
        self.optimizer = torch.optim.Adam(groups) if groups else None
        self.state: dict[str, Any] = {"iteration": 0, "seconds": 0.0, "history": [], "best": None}
        if self.checkpoint.exists():
            self.restore()
        self.seconds = self.state["seconds"]
        self.fitting, self.validation = map(self.solve, ("fitting", "validation"))
        self.offsets = self.state.get("offsets")
        if cfg.radius:
            zeros = torch.zeros_like(self.fitting[0])
            self.offsets = zeros if self.offsets is None else self.offsets.to(zeros)

    def restore(self) -> None:
        """Continue from the checkpoint."""
        self.state = resumed(self.checkpoint, self.settings, self.cfg.iterations)
        self.student.load_state_dict(self.state["student"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(self.state["optimizer"])

    def solve(self, purpose: str) -> tuple[Tensor, Tensor]:
        """The teacher's noise and images (x_T, x_0) for `fitting` or `validation`."""
        cfg = self.cfg
        return teacher.solve(
            self.network,
            self.schedule,
            cfg.model.prediction,
            seeds(cfg, purpose),
            cfg.teacher,
            self.student.end.time,
            self.sha256,
            cfg.batch_size,
            cfg.progress,
        )

    def run(self) -> Path:
        """Fit to the last iteration, and write the best plan."""
        cfg = self.cfg
        if self.state["best"] is None:
            self.save(0)
        count = cfg.iterations if cfg.learn else 0
        first = self.state["iteration"]
        batches = batch_indices(cfg.images, cfg.batch_size, cfg.seed, first)
        shown: dict[str, Any] = {"desc": self.checkpoint.parent.name, "mininterval": 1}
        bar = tqdm(
            range(first, count), initial=first, total=count, disable=not cfg.progress, **shown
        )
        for iteration in bar:
            value = self.step(iteration, next(batches))
            done = iteration + 1
            if done % cfg.validate_every == 0 or done == count:
                self.save(done)
                best = self.state["best"]["loss"]
                bar.set_postfix(loss=f"{value:.5f}", validation=f"{best:.5f}")
        return finish(cfg, self.student, self.state, self.sha256)

    def step(self, iteration: int, indices: list[int]) -> float:
        """One step of Adam on a batch; its loss."""
        cfg, optimizer = self.cfg, self.optimizer
        assert optimizer is not None
        x_T, x_0 = (part[indices] for part in self.fitting)
        if self.offsets is not None:
            x_T = (x_T + self.offsets[indices]).requires_grad_()
        for group in optimizer.param_groups:
            decay = 0.5 * (1 + math.cos(math.pi * iteration / cfg.iterations))
            group["lr"] = group["rate"] * decay
        optimizer.zero_grad()
        value = self.loss(self.student(self.network, x_T), x_0)
        value.backward()
        gradients = [group["params"][0].grad for group in optimizer.param_groups]
        if not all(tensor.isfinite().all() for tensor in (value, *gradients)):
            self.diverge("the loss", value.item(), iteration + 1)
        optimizer.step()
        if self.offsets is not None:
            assert x_T.grad is not None
            self.offsets[indices] = moved(self.offsets[indices], x_T.grad, cfg.radius)
        return value.item()

    def save(self, iteration: int) -> None:
        """Validate, keep the numbers if they are the best, and write a checkpoint."""
        student, state = self.student, self.state
        value = evaluate(student, self.network, self.validation, self.loss, self.cfg.batch_size)
        if not all(map(math.isfinite, value.values())):
            self.diverge("the validation loss", value["loss"], iteration)
        state["history"].append([iteration, *value.values()])
        if state["best"] is None or value["loss"] < state["best"]["loss"]:
            numbers = {key: tensor.clone() for key, tensor in student.state_dict().items()}
            state["best"] = {"iteration": iteration, **value, "student": numbers}
        state |= {
            "iteration": iteration,
            "student": student.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer is not None else None,
            "offsets": self.offsets,
            "settings": self.settings,
            "seconds": self.seconds + time.monotonic() - self.began,
        }
        save_checkpoint(self.checkpoint, state)

    def diverge(self, what: str, value: float, iteration: int) -> NoReturn:
        """Write the best plan so far, if there is one; NonFiniteError."""
        message = f"{what} is {value} at iteration {iteration}: lower lr.*"
        if self.state["best"] is not None:
            path = finish(self.cfg, self.student, self.state, self.sha256)
            message += f"; the best plan so far is {path}"
        raise NonFiniteError(message)


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


def loss_settings(cfg: Fit) -> dict[str, float]:
    """What a plan says of its loss; those from before `huber` lack it, and squared distances."""
    return {"moments": cfg.moments, "huber": cfg.huber, "radius": cfg.radius}


def provenance(cfg: Fit, state: dict[str, Any]) -> dict[str, Any]:
    """How a plan came to be."""
    best, first = state["best"], state["history"][0]
    sets = {name: seeds(cfg, name)[0] // IMAGES_PER_SEED for name in ("fitting", "validation")}
    return {
        "start": {"solver": cfg.solver, "grid": cfg.grid, "steps": cfg.steps},
        "learn": [part for part in PARTS if part in cfg.learn],
        "loss": loss_settings(cfg),
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
