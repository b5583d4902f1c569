"""The image files below a directory, without hidden and system files."""

import os
from pathlib import Path

from pndm._errors import FileError, one_line
from pndm.data.decode import BadImage

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".tga", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm"),
}
"""Suffixes of image files, in lower or upper case."""

UNREADABLE = {".heic", ".heif", ".jxl", ".exr", ".hdr", ".psd", ".dng", ".cr2", ".nef", ".arw"}
"""Suffixes of image formats that cannot be read, which raise an error."""

SYSTEM_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
"""Folders created by operating systems; folders whose names begin with a dot count too."""


def image_files(root: Path) -> list[Path]:
    """Return the image files below a directory in the order of their paths, following links.

    Hidden files and folders are skipped, and a folder with several links to it is read once.
    FileError for a folder that cannot be read; BadImage for a broken link and for formats that
    cannot be read.
    """
    files, visited = [], set()
    for place, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        folder = Path(place)
        if (identity := os.path.realpath(folder)) in visited:
            folders.clear()
            continue
        visited.add(identity)
        visible = [name for name in folders if not _is_hidden(name)]
        folders[:] = sorted(visible, key=lambda name: ((folder / name).is_symlink(), name))
        files += [
            folder / name for name in names if not _is_hidden(name) and _is_image(folder / name)
        ]
    return sorted(files)


def _refuse(error: OSError) -> None:
    raise FileError(f"a folder cannot be read: {one_line(error)}") from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def _is_image(path: Path) -> bool:
    """Whether a file has an image suffix; BadImage if its format cannot be read."""
    suffix = path.suffix.lower()
    if suffix in UNREADABLE:
        raise BadImage(f"{path} has a format that cannot be read: save it as PNG")
    if suffix not in SUFFIXES:
        return False
    if path.is_symlink() and not path.exists():
        raise BadImage(f"{path} is a broken link: fix or remove it")
    return path.is_file()
