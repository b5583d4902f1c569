"""Everything that this project can download: addresses, sizes, checksums, as the registry has it.

    python -m experiments.downloads

writes docs/downloads.md. Nothing is downloaded.
"""

from pathlib import Path

import pandas as pd

from experiments.pages import markdown
from pndm._download import Remote
from pndm._errors import prepare_console
from pndm.data.download import LICENCES, PUBLISHED
from pndm.evaluation.features import inception_remote
from pndm.models.download import remote
from pndm.models.registry import WEIGHTS

PAGE = Path(__file__).parents[1] / "docs" / "downloads.md"

AVERAGE = {True: "yes", False: "no", None: "not said"}
"""Whether a file holds the moving average of the training, as published results do."""

PAPER = {
    "ddpm_cifar10": "linear: DDIM, S-PNDM, F-PNDM, FON",
    "iddpm_cifar10_released": "cosine, as the authors' code reads it",
    "ddim_celeba": "CelebA",
    "ddpm_lsun_bedroom": "LSUN bedroom",
    "ddpm_lsun_church": "LSUN church",
    "pf_cifar10": "PF",
    "pf_deep_cifar10": "PF, deep",
}
"""What the paper used weights for. The hub's cifar10 weights are not the EMA."""


def weights() -> pd.DataFrame:
    """One row for each registered file of weights."""
    rows = []
    for entry in WEIGHTS.values():
        if entry.url:
            row = {"weights": f"`{entry.name}`", "schedule": f"{entry.schedule} {entry.timesteps}"}
            row |= {"EMA": AVERAGE[entry.ema], "in the paper": PAPER.get(entry.name, "")}
            rows.append(row | file(remote(entry)))
    return pd.DataFrame(rows)


def images() -> pd.DataFrame:
    """One row for each file of a dataset, and one for Inception."""
    rows = [{"dataset": "any (FID)", "licence": "Apache-2.0"} | file(inception_remote())]
    for name, pieces in PUBLISHED.items():
        for piece in pieces(Path("data")):
            row = {"dataset": f"`{name}`", "licence": LICENCES[name]}
            rows.append(row | file(piece.remote))
    return pd.DataFrame(rows)


def file(remote: Remote) -> dict[str, str]:
    """Size, address and checksum; the size of a file without a checksum is an estimate."""
    estimated = "" if remote.checksum else "≈ "
    inside = f"`{remote.path.name}` in " if "/folders/" in remote.url else ""
    kind, _, digest = (remote.checksum or "").partition(":")
    return {
        "MB": f"{estimated}{(remote.size or 0) / 1e6:,.1f}",
        "from": f"{inside}<{remote.url}>",
        "checksum": f"{kind} `{digest[:8]}…`" if digest else "",
    }


def page() -> str:
    """The page in Markdown."""
    parts = [
        "# What can be downloaded",
        "Written by `python -m experiments.downloads` from the registry. A run fetches by itself "
        "what it needs (`fetch=auto`), and says beforehand what that is; more than 5 GB only by "
        "the command `python -m pndm.data fetch NAME`. A file without a published checksum is "
        "checked by its first bytes, and held to the checksum that it had when it came. Sizes "
        "with ≈ follow from the number of parameters, or are rounded.",
        "`PNDM_MIRROR=URL` asks `URL/<host>/<path>` in the place of `https://<host>/<path>`; it "
        "may be a folder, `file:///…`. A file in a folder of Google Drive is asked for as "
        "`URL/drive.google.com/drive/folders/<key>/<file>`.",
        "## Weights",
        "By name: `model=NAME`, `python -m pndm.models fetch NAME`. The digits and fashion "
        "networks come with the package.",
        markdown(weights()),
        "## Images, and Inception",
        "Images are needed once, for the reference statistics of a dataset, and for training.",
        markdown(images()),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the page."""
    prepare_console()
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
