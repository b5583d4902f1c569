"""Image files of a run: a grid of the first samples, and optionally all samples."""

import zipfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from pndm._files import make_folder, write_atomic
from pndm.data import images
from pndm.runs.job import Job

GRID_IMAGES = 100
"""Images in the grid of samples."""

TABLE_IMAGES = 64
"""Images in W&B's table of images by seed."""


def write_pictures(job: Job) -> None:
    """Write samples.png, and every image if `save_images` is set."""
    cfg, folder = job.cfg, job.folder
    tiles = torch.from_numpy(np.stack([*islice(pixels(job), GRID_IMAGES)]))
    write_atomic(folder / "samples.png", lambda path: images.save_grid(tiles, path))
    if cfg.save_images == "npz":
        write_atomic(folder / "images.npz", lambda path: write_npz(job, path))
    if cfg.save_images == "png":
        make_folder(folder / "images")
        for i, image in enumerate(pixels(job)):
            path = folder / "images" / f"{i:06d}.png"
            write_atomic(path, partial(images.save_png, torch.from_numpy(image)))


def pixels(job: Job) -> Iterator[np.ndarray]:
    """Yield the images in seed order, uint8 [C, H, W], one shard in memory at a time."""
    for shard in range(len(job.shards)):
        yield from job.image_shard(shard)["images"]


def write_npz(job: Job, path: Path) -> None:
    """Write `images`, uint8 [samples, H, W, C], image by image."""
    stream = (image.transpose(1, 2, 0) for image in pixels(job))
    first = next(stream)
    shape = (job.cfg.samples, *first.shape)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with (
        zipfile.ZipFile(path, "w") as archive,
        archive.open("images.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        file.write(first.tobytes())
        for image in stream:
            file.write(image.tobytes())
