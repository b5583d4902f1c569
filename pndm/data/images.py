"""Images as network states (floats in [−1, 1]) and in files (uint8), and grids of images."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def to_uint8(x: Tensor) -> Tensor:
    """Convert floats in [−1, 1] (clamped) to 0…255, round((x+1)·127.5), not truncated."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """Convert 0…255 to float32 in [−1, 1], x = v/127.5 − 1; the inverse of `to_uint8`."""
    return images.to(torch.float32) / 127.5 - 1


def grid(images: Tensor, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """Tile uint8 [N, C, H, W] (C = 1 or 3) row by row into one picture, two pixels apart.

    Small images are enlarged by an integer factor (`scale`) to be visible.
    """
    count, _, height, width = images.shape
    columns = columns or min(count, max(1, round(count**0.5)))
    rows = -(-count // columns)
    scale = scale or max(1, 48 // height)
    tiles = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    height, width = height * scale, width * scale
    size = (3, rows * (height + 2) + 2, columns * (width + 2) + 2)
    canvas = torch.full(size, 255, dtype=torch.uint8, device="cpu")
    for i, tile in enumerate(tiles):
        top, left = 2 + (i // columns) * (height + 2), 2 + (i % columns) * (width + 2)
        canvas[:, top : top + height, left : left + width] = tile.cpu()
    return Image.fromarray(canvas.permute(1, 2, 0).numpy())


def save_grid(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write `grid(images)` as a PNG."""
    grid(images, columns).save(path, format="PNG")


def save_png(image: Tensor, path: Path) -> None:
    """Write one uint8 [C, H, W] image (C = 1 or 3), pixel for pixel."""
    pixels = image.permute(1, 2, 0).squeeze(2) if len(image) == 1 else image.permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(path, format="PNG")
