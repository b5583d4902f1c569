"""The image files below a directory: all that a person put there, and nothing else."""

import os
from pathlib import Path

from pndm._errors import FileError, one_line
from pndm.data.decode import BadImage

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".tga", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm"),
}
"""What image files may be called, in small or capital letters."""

UNREADABLE = {".heic", ".heif", ".jxl", ".exr", ".hdr", ".psd", ".dng", ".cr2", ".nef", ".arw"}
"""What images that cannot be read are called: they are not passed over in silence."""

LEFT_BEHIND = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
"""Folders that systems leave in others; so are all whose names begin with a dot."""


def image_files(root: Path) -> list[Path]:
    """The image files below a directory in the order of their paths, links followed.

    Hidden files and folders are passed over, and a folder that several links lead to is read
    once. FileError for a folder that cannot be read; BadImage for a link to nothing and for
    formats that are not read.
    """
    files, visited = [], set()
    for place, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        here = Path(place)
        if (identity := os.path.realpath(here)) in visited:
            folders.clear()
            continue
        visited.add(identity)
        seen = [name for name in folders if not _is_hidden(name)]
        folders[:] = sorted(seen, key=lambda name: ((here / name).is_symlink(), name))
        files += [here / name for name in names if not _is_hidden(name) and _is_image(here / name)]
    return sorted(files)


def _refuse(error: OSError) -> None:
    raise FileError(f"a folder cannot be read: {one_line(error)}") from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def _is_image(path: Path) -> bool:
    """Whether a file is called as images are; BadImage for one that cannot be read."""
    suffix = path.suffix.lower()
    if suffix in UNREADABLE:
        raise BadImage(f"{path} is of a format that is not read: save it as PNG")
    if suffix not in SUFFIXES:
        return False
    if path.is_symlink() and not path.exists():
        raise BadImage(f"{path} is a link to nothing: mend or remove it")
    return path.is_file()
