"""CelebA: the file layouts of its authors and of Kaggle, and the face crop."""

import re
from pathlib import Path

from PIL import Image

from pndm._errors import InputError
from pndm.data.databases import MissingData

LISTINGS = (
    *("list_eval_partition.txt", "list_eval_partition.csv"),
    *("Eval/list_eval_partition.txt", "Anno/list_eval_partition.txt"),
)
"""The authors' listing (name and split per line), and Kaggle's (CSV with a header)."""

FOLDERS = (
    *("img_align_celeba", "img_align_celeba/img_align_celeba"),
    *("img_align_celeba_png", "img_align_celeba_png/img_align_celeba_png"),
    *("Img/img_align_celeba", "Img/img_align_celeba_png"),
)
"""Folders of the images, nested if an archive was unpacked in a folder of its own name.

The authors' drive has the folders Anno, Eval and Img.
"""


def training_files(folder: Path) -> list[Path]:
    """Return the files of CelebA's training split in the order of its listing.

    MissingData for missing files; InputError for an invalid listing.
    """
    listing = next((folder / name for name in LISTINGS if (folder / name).is_file()), None)
    folders = [folder / name for name in FOLDERS if (folder / name).is_dir()]
    if listing is None or not folders:
        raise MissingData(
            f"celeba is missing: fetch img_align_celeba.zip and list_eval_partition.txt from "
            f"https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into {folder} and unpack the zip"
        )
    names = training_names(listing)
    best: tuple[list[Path], list[str]] | None = None
    for image_folder in folders:
        files = {
            path.stem: path for path in image_folder.iterdir() if not path.name.startswith(".")
        }
        missing = [name for name in names if Path(name).stem not in files]
        if not missing:
            return [files[Path(name).stem] for name in names]
        if best is None or len(missing) < len(best[1]):
            best = [image_folder], missing
    assert best is not None
    raise MissingData(
        f"celeba is incomplete: {len(best[1])} of the {len(names)} training images in {listing} "
        f"are not in {best[0][0]} ({best[1][0]}, …): unpack img_align_celeba.zip there again"
    )


def training_names(listing: Path) -> list[str]:
    """Return the names with split 0 in a listing; InputError if the listing is invalid."""
    content = listing.read_bytes()
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = content.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    names = []
    for number, line in enumerate(text.splitlines(), 1):
        cells = [cell.strip("\"'") for cell in re.split(r"[\s,;]+", line.strip()) if cell]
        if not cells or (number == 1 and cells[-1] == "partition"):
            continue
        if len(cells) != 2 or cells[1] not in ("0", "1", "2"):
            raise InputError(
                f"{listing}, line {number}: {line.strip()[:40]!r} is not NAME SPLIT with a split "
                "of 0, 1 or 2: get the file again"
            )
        if cells[1] == "0":
            names.append(cells[0])
    if not names:
        raise InputError(f"{listing} lists no training images (split 0): get the file again")
    return names


def crop_face(image: Image.Image) -> Image.Image:
    """Crop rows 57…184 and columns 25…152 of a 178×218 portrait; resize to 64×64, bilinear."""
    if image.size != (178, 218):
        raise OSError(f"{image.width}×{image.height} pixels, aligned CelebA has 178×218")
    return image.crop((25, 57, 153, 185)).resize((64, 64), Image.Resampling.BILINEAR)
