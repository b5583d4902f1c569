"""Fit every plan that ships with the package, and those of the comparison.

    python -m experiments.learned.fits                  # what is missing
    python -m experiments.learned.fits dataset=digits schedule=linear nfe=5 device=cuda

Complete fits of the networks as they are now are kept, interrupted ones continue; other words go
to `python -m pndm.fit`.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.arguments import command, split
from experiments.learned import cells
from pndm._files import make_folder, read_json
from pndm.config.compose import compose_fit
from pndm.config.schema import ConfigError, Fit
from pndm.fit.loop import fit, loss_settings
from pndm.learned import SHIPPED
from pndm.models import registry
from pndm.models.locations import weights_sha256


@command
def main(words: Sequence[str]) -> None:
    """Fit what is missing, and copy the plans that ship into the package."""
    own, more = split(words, dict.fromkeys(cells.Fit._fields, ""))
    count = 0
    for cell in cells.fits():
        if any(own[key] not in ("", str(value)) for key, value in cell._asdict().items()):
            continue
        cfg, path = compose_fit([*cell.words(), *more]), cell.output / "plan.json"
        count += 1
        if not is_complete(path, cfg):
            print(f"{cell.name} {cell.variant}", flush=True)
            fit(cfg)
        if cell.variant == "both":
            shutil.copy(path, make_folder(SHIPPED) / f"{cell.name}.json")
    if not count:
        given = " ".join(f"{key}={value}" for key, value in own.items() if value)
        raise ConfigError(f"{given}: there is no such plan")


def is_complete(path: Path, cfg: Fit) -> bool:
    """Whether a plan is there, of this network and this loss, and its fit did not end early."""
    plan = read_json(path)
    if plan is None:
        return False
    optimizer = plan["fitted"]["optimizer"]
    sha256 = weights_sha256(registry.find(cfg.model.name).require())
    done = optimizer.get("done", optimizer["iterations"])
    is_whole = done == optimizer["iterations"] == cfg.iterations
    is_same_loss = {"huber": 0, **plan["fitted"]["loss"]} == loss_settings(cfg)
    return is_whole and is_same_loss and plan["network"]["sha256"] == sha256


if __name__ == "__main__":
    main(sys.argv[1:])
