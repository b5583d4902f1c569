"""What is fitted and what it is compared with, as data."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pndm.learned import SHIPPED

NETWORKS = {"digits": "digits", "fashion_mnist": "fashion"}
"""The datasets, and what the names of their networks begin with."""

SCHEDULES = ("linear", "cosine")
EVALUATIONS = (3, 4, 5, 6, 8, 10)
FRESH = (1, 2)
"""Seed sets that neither a fit (see `pndm.learned`) nor the choice of grids has seen."""

TABLE_SEED = 0
"""The main table's seed set, which chooses the grids of fixed methods; no fit has seen it."""

EVALUATION_SEEDS = (*FRESH, TABLE_SEED)
"""The seed sets that plans are evaluated on."""

GRIDS = ("leading", "quadratic", "uniform_lambda")
"""The grids that a fixed method is tried on."""

FITS = Path("outputs/learned")
"""The folder of all fits."""

START = ("solver=ipndm", "solver.order=3", "grid=leading")
"""Where every fit starts."""

FIXED = {
    "DDIM": "solver=ddim",
    "iPNDM-3": "solver=ipndm solver.order=3",
    "DEIS-3": "solver=deis solver.order=3",
    "DPM++ 2M": "solver=dpmpp_2m",
    "UniPC-2": "solver=unipc solver.order=2",
    "exact 2 in λ": "solver=multistep solver.weights=lambda solver.order=2",
}
"""Fixed methods: those that are well known, and the best of all at 5 and 10 evaluations."""

VARIANTS = {
    "times": "learn=times,clock",
    "weights": "learn=weights",
    "both": "learn=times,weights,clock",
    "both, radius 0.03": "learn=times,weights,clock radius=0.03",
}
"""What is learned. `both` is what ships with the package."""

SETTINGS = {
    "digits": {"huber": "0"},
    "fashion_mnist": {
        **{"images": "512", "validation": "128", "batch_size": "128", "iterations": "200"},
        "huber": "0",
    },
}
"""Settings of the fits that differ from conf/fit.yaml, by dataset."""

CHOSEN = {
    ("digits", "linear", 5, "both"): {"huber": "0.01", "moments": "4", "images": "512"},
    ("digits", "cosine", 5, "both"): {"huber": "0.01", "iterations": "500"},
}
"""Settings that were chosen by FID on a seed set for this alone (`experiments.learned.tries`)."""

FINE = {"DDIM@50": ("ddim", 50), "DDIM@100": ("ddim", 100), "DDIM@1000": ("ddim", 1000)}
FINE |= {"F-PNDM@50": ("plms", 50)}
"""Methods of many steps, on the leading grid of the main table: solver and steps."""


class Fit(NamedTuple):
    """One plan: a variant for the network of a dataset and schedule, at some evaluations."""

    dataset: str
    schedule: str
    nfe: int
    variant: str = "both"

    @property
    def name(self) -> str:
        """The name of its network and plan: digits_linear-5."""
        return f"{NETWORKS[self.dataset]}_{self.schedule}-{self.nfe}"

    @property
    def output(self) -> Path:
        """The folder of its fit."""
        suffix = "" if self.variant == "both" else "-" + self.variant.replace(", ", "-")
        return FITS / (self.name + suffix.replace(" ", "_"))

    @property
    def plan(self) -> Path | None:
        """The file of its plan: of the fit, else the shipped one; None if there is none."""
        shipped = [SHIPPED / f"{self.name}.json"] if self.variant == "both" else []
        paths = (self.output / "plan.json", *shipped)
        return next((path for path in paths if path.exists()), None)

    def words(self) -> list[str]:
        """The arguments of `python -m pndm.fit`."""
        settings = SETTINGS[self.dataset] | CHOSEN.get(self, {})
        return [
            *(f"dataset={self.dataset}", f"schedule={self.schedule}", f"steps={self.nfe}"),
            *(*START, f"output={self.output}"),
            *(f"{name}={value}" for name, value in settings.items()),
            *VARIANTS[self.variant].split(),
        ]


def fits() -> Iterator[Fit]:
    """All plans: those that ship, then those that show what each part contributes."""
    kinds = [(nfe, "both") for nfe in (5, 8, 3, 4, 6, 10)]
    kinds += [(5, variant) for variant in VARIANTS if variant != "both"]
    for dataset in NETWORKS:
        for nfe, variant in kinds:
            for schedule in SCHEDULES:
                yield Fit(dataset, schedule, nfe, variant)
