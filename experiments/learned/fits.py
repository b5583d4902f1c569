"""Fit every plan that ships with the package, and those of the comparison.

    python -m experiments.learned.fits                  # what is missing
    python -m experiments.learned.fits dataset=digits schedule=linear nfe=5 device=cuda

Complete fits are kept, interrupted ones continue; other words go to `python -m pndm.fit`.
"""

import shutil
import sys
from collections.abc import Sequence

from experiments.arguments import command, split
from experiments.learned.cells import Fit, fits
from pndm._files import make_folder
from pndm.config.compose import compose_fit
from pndm.fit.loop import fit
from pndm.learned import SHIPPED


@command
def main(words: Sequence[str]) -> None:
    """Fit what is missing, and copy the plans that ship into the package."""
    own, more = split(words, dict.fromkeys(Fit._fields, ""))
    for cell in fits():
        if any(own[key] not in ("", str(value)) for key, value in cell._asdict().items()):
            continue
        path = cell.output / "plan.json"
        if not path.exists():
            print(f"{cell.name} {cell.variant}", flush=True)
            fit(compose_fit([*cell.words(), *more]))
        if cell.variant == "both":
            shutil.copy(path, make_folder(SHIPPED) / f"{cell.name}.json")


if __name__ == "__main__":
    main(sys.argv[1:])
