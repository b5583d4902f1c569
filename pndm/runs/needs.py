"""What runs need from outside this repository: one list, from which everything else follows."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from pndm.config.schema import Run
from pndm.data import download as data_download
from pndm.data.datasets import data_root
from pndm.evaluation.features import MissingReference, inception_file, inception_remote
from pndm.evaluation.reference import features_path, reference_path
from pndm.models.download import remote
from pndm.models.registry import find

Kind = Literal["weights", "Inception", "images", "reference", "features"]


@dataclass(frozen=True)
class Need:
    """One thing that a run needs: what it is of, where it comes from, and where it goes.

    `size` is what is downloaded, in bytes, None for what is computed here; `present` says whether
    it is at `path` already. `root` is the folder of a dataset of one's own.
    """

    kind: Kind
    name: str
    source: str
    path: Path
    present: bool
    size: int | None = None
    licence: str = ""
    root: Path | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else f", {format_bytes(self.size)}"
        return f"{self.what} ({self.source}{size}, to {self.path})"

    @property
    def what(self) -> str:
        """In a few words."""
        of = {"images": "of ", "reference": "of ", "features": "of images of "}
        return f"{self.kind} {of.get(self.kind, '')}{self.name}".strip()


def needs(run: Run) -> list[Need]:
    """All that a run needs and that does not come with the package, in the order of fetching."""
    return [*weights(run), *([] if run.fid == "off" else evaluation(run))]


def weights(run: Run) -> list[Need]:
    """The weights, where they are of the registry and not of the package.

    Those of one's own are there or refused, those of the hub are the hub's own cache's.
    """
    if run.model.checkpoint is not None or not find(run.model.name).url:
        return []
    entry = find(run.model.name)
    size = remote(entry).size
    return [Need("weights", entry.name, entry.url, entry.path, entry.present, size)]


def evaluation(run: Run) -> list[Need]:
    """What the FID is measured with: extractor, reference, and the images to compute it from."""
    data = run.dataset
    if (data.name, data.extractor) == ("digits", "digits"):
        return []
    found = []
    if data.extractor == "inception":
        file = inception_remote()
        try:
            path, present = inception_file(), True
        except MissingReference:
            path, present = file.path, False
        found.append(Need("Inception", "", file.url, path, present, file.size))
    root = Path(data.root) if data.root else None
    statistics = reference_path(data.name, data.extractor, root)
    computed: list[tuple[Kind, Path]] = [("reference", statistics)]
    if "auto" in (run.kid, run.prc):
        computed.append(("features", features_path(data.name, data.extractor, root)))
    if not all(path.exists() for _, path in computed):
        found.append(images(data.name, root))
    for kind, path in computed:
        there = path.exists()
        found.append(Need(kind, data.name, "computed here", path, there, root=root))
    return found


def images(dataset: str, root: Path | None = None) -> Need:
    """The images of a dataset. Where a root is given, they are expected there."""
    licence, pieces = data_download.LICENCES.get(dataset, ""), data_download.pieces(dataset)
    if root is not None or not pieces:
        place = root or data_root() / dataset
        here = root is not None or dataset == "digits" or place.is_dir()
        return Need("images", dataset, "your own", place, here, None, licence, root)
    missing = [piece for piece in pieces if not piece.present]
    bytes_missing = data_download.missing_bytes(dataset)
    source = (missing or pieces)[0].remote.url
    return Need("images", dataset, source, data_root(), not missing, bytes_missing, licence)


def all_missing(runs: Iterable[Run]) -> list[Need]:
    """What is not there of all that some runs need, each once, weights first."""
    return list(first_to_miss(runs))


def first_to_miss(runs: Iterable[Run]) -> dict[Need, Run]:
    """What `all_missing` lists, and of each the first run that needs it."""
    found: dict[Need, Run] = {}
    for run in runs:
        for need in needs(run):
            if not need.present:
                found.setdefault(need, run)
    return dict(sorted(found.items(), key=lambda item: item[0].kind != "weights"))


def show(missing: Iterable[Need]) -> None:
    """Print what is missing as a table with sizes, sources and places."""
    table, total = Table(), 0
    for title in ("missing", "size", "from", "to"):
        table.add_column(title, overflow="fold")
    for need in missing:
        source = f"{need.source} [{need.licence}]" if need.licence else need.source
        size = "" if need.size is None else format_bytes(need.size)
        table.add_row(need.what, size, source.replace("[", r"\["), str(need.path))
        total += need.size or 0
    Console().print(table)
    if total:
        print(f"to download: {format_bytes(total)}", flush=True)


def format_bytes(count: int) -> str:
    """A number of bytes as people say it."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
