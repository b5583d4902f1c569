"""Decoding image files to 8-bit RGB, exactly, or rejecting them with an error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from pndm._errors import InputError, one_line

ORIENTATION = 0x0112
BITS = 0x0102
PHOTOMETRIC = 0x0106
"""EXIF and TIFF tags."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that corrects each EXIF orientation; from 5 on, height and width swap."""

SIXTEEN_BITS = {("I", "PNG"), ("I", "PPM")}
"""32-bit modes and formats for which Pillow scales the levels to 0…65535."""


DEEP = re.compile(r";16[BLN]")
"""The mark of 16 bits a channel in Pillow's names of what is in a file: RGB;16B, LA;16B, …"""


class BadImage(InputError):
    """A file that is not a readable image, or of the wrong size; the message names it."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker prefixes its errors with their traceback; only the last line is
        # the message.
        last = message.strip().splitlines()[-1]
        super().__init__(last.removeprefix(f"{__name__}.{type(self).__name__}: "))


@contextmanager
def open_image(file: Any, name: object) -> Iterator[Image.Image]:
    """Open an image file; any error in the block becomes a BadImage that names the file.

    Pillow's readers raise many types of errors for damaged files.
    """
    try:
        with Image.open(file) as image:
            yield image
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        raise BadImage(f"{name} is not a readable image ({one_line(error)}): replace it") from None


def rgb(image: Image.Image, name: object) -> Image.Image:
    """Convert an opened image to upright 8-bit RGB, 16-bit grey levels rounded.

    BadImage for several frames, transparent pixels, 16 bits in colour or alpha, and levels
    without a known range.
    """
    require_one_picture(image, name)
    transposition = UPRIGHT.get(_orientation(image))
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min(initial=255) < 255:
            raise BadImage(
                f"{name} has transparent pixels: place it on a background of one colour"
            )
    image = image.convert("RGB")
    return image if transposition is None else image.transpose(transposition)


def size(image: Image.Image, name: object) -> tuple[int, int]:
    """Width and height of an opened image after orientation, from its header.

    BadImage for what `rgb` rejects, as far as the header shows it.
    """
    require_one_picture(image, name)
    width, height = image.size
    return (height, width) if _orientation(image) > 4 else (width, height)


def require_one_picture(image: Image.Image, name: object) -> None:
    """Raise BadImage for an image of several frames, or of levels that are not 8 or 16 bits.

    MPO is a camera's JPEG, whose other frames are previews. Of 16 bits in colour or alpha Pillow
    reads the upper 8 alone.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise BadImage(f"{name} has {frames} frames: save each as its own file")
    kind = (image.mode, image.format)
    tags = getattr(image, "tag_v2", {})
    levels = (
        not image.mode.startswith("I") or image.mode.startswith("I;16") or kind in SIXTEEN_BITS
    )
    if image.mode == "F" or not levels or not set(tags.get(BITS, ())) <= {1, 2, 4, 8, 16}:
        raise BadImage(f"{name} has levels of unknown range: save it with 8 bits")
    stored = [str(tile[3]) for tile in getattr(image, "tile", ())]
    if not image.mode.startswith("I") and any(map(DEEP.search, stored)):
        raise BadImage(f"{name} has 16 bits in colour or alpha: save it with 8 bits")
    if image.mode.startswith("I") and ("transparency" in image.info or tags.get(PHOTOMETRIC) == 0):
        raise BadImage(f"{name} has inverted or transparent 16-bit levels: save it with 8 bits")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey levels 0…65535 as 0…255, rounded."""
    levels = np.asarray(image.convert("I")).astype(np.int64)
    return Image.fromarray(((levels.clip(0, 65535) + 128) // 257).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 if there is none that can be read.

    Pillow rotates TIFFs itself, and would decode a whole PNG to look for one after the pixels.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        number = image.getexif().get(ORIENTATION, 1)
    except Exception:  # from damaged metadata; the pixels are still valid
        return 1
    return number if number in UPRIGHT else 1
