"""Image folders with hidden files, links and system folders."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from pndm._errors import PndmError
from pndm.data import datasets
from pndm.data.folders import image_files


def image(path, value=0, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path, format="PNG")
    return path


def names(root):
    return [path.relative_to(root).as_posix() for path in image_files(root)]


@pytest.fixture
def two(tmp_path):
    image(tmp_path / "data/0.png")
    image(tmp_path / "data/1.png", 1)
    return tmp_path / "data"


HIDDEN = (
    *(".DS_Store", "._0.png", "Thumbs.db", "desktop.ini", ".0.png.swp", ".hidden.png"),
    *(".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/data/._0.png", "__MACOSX/data/0.png"),
    *(".Trash-1000/files/0.png", "@eaDir/0.png", "$RECYCLE.BIN/0.png", ".git/0.png"),
    *("lost+found/0.png", ".cache/huggingface/0.png", "below/._1.PNG", "below/.x/1.png"),
    *("labels.csv", "README.md", "0.png.part", "1.jpg~", "metadata.jsonl", "0.txt", "png"),
)


@pytest.mark.parametrize("name", HIDDEN)
def test_what_others_leave_is_no_image(two, name):
    (two / name).parent.mkdir(parents=True, exist_ok=True)
    (two / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert names(two) == ["0.png", "1.png"]
    assert len(datasets.folder(root=two)) == 2


def test_a_folder_in_a_hidden_place_is_read(tmp_path):
    root = tmp_path / ".cache/@eaDir/data"
    image(root / "0.png"), image(root / "a/1.png")
    assert names(root) == ["0.png", "a/1.png"]


SUFFIXES = (*IMG_EXTENSIONS, ".jfif", ".jpe", ".gif", ".pbm", ".pnm", ".avif", ".jp2", ".dib")


def test_suffixes_in_any_case(tmp_path):
    for i, suffix in enumerate(SUFFIXES):
        image(tmp_path / f"{i:02}a{suffix}")
        image(tmp_path / f"{i:02}b{suffix.upper()}")
    image(tmp_path / "zz.JpEg")
    assert len(names(tmp_path)) == 2 * len(SUFFIXES) + 1
    assert len(datasets.folder(root=tmp_path)) == 2 * len(SUFFIXES) + 1


@pytest.mark.parametrize("suffix", [".heic", ".HEIC", ".jxl", ".exr", ".dng"])
def test_images_that_cannot_be_read_are_not_passed_over(two, suffix):
    (two / f"photo{suffix}").touch()
    with pytest.raises(datasets.BadImage, match=rf"photo{suffix} .*save it as PNG"):
        datasets.folder(root=two)


def test_links_are_followed_and_each_folder_is_read_once(two, tmp_path):
    image(tmp_path / "elsewhere/deep/2.png", 2)
    image(tmp_path / "blobs/0123abcd", 3)
    (two / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (two / "3.png").symlink_to(tmp_path / "blobs/0123abcd")
    assert names(two) == ["0.png", "1.png", "3.png", "link/deep/2.png"]
    # circles, and a second way to the same folder
    (two / "circle").symlink_to(two, target_is_directory=True)
    (tmp_path / "elsewhere/back").symlink_to(two, target_is_directory=True)
    (two / "again").symlink_to(two / "link/deep", target_is_directory=True)
    result = names(two)
    assert len(result) == 4 and {Path(name).name for name in result} == {
        f"{i}.png" for i in range(4)
    }
    (two / "self").symlink_to(two / "self")
    assert len(names(two)) == 4
    root = tmp_path / "root"
    root.symlink_to(two, target_is_directory=True)
    assert len(datasets.folder(root=root)) == 4


def test_a_real_folder_goes_before_a_link_to_it(tmp_path):
    image(tmp_path / "z/0.png")
    (tmp_path / "a").symlink_to(tmp_path / "z", target_is_directory=True)
    assert names(tmp_path) == ["z/0.png"]


def test_a_link_to_nothing_is_named(two):
    (two / "gone.png").symlink_to(two / "nowhere.png")
    with pytest.raises(datasets.BadImage, match=r"gone\.png is a broken link"):
        datasets.folder(root=two)


def test_folders_and_pipes_that_are_called_like_images(two):
    image(two / "album.png/2.png")
    os.mkfifo(two / "pipe.png")
    assert names(two) == ["0.png", "1.png", "album.png/2.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_folder_that_cannot_be_read_is_named(two):
    image(two / "secret/2.png")
    (two / "secret").chmod(0)
    try:
        with pytest.raises(PndmError, match="secret"):
            datasets.folder(root=two)
    finally:
        (two / "secret").chmod(0o700)


def test_names_of_other_alphabets_and_with_blanks(tmp_path):
    for name in ("Ünïcode ß.png", "图像 1.png", "a%20b#c=d.png", "\u0065\u0301.png"):
        image(tmp_path / name)
    assert len(datasets.folder(root=tmp_path)) == 4


def test_sizes_are_compared_as_images_are_seen(tmp_path):
    for i, orientation in enumerate((1, 6)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = np.zeros((4, 6, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg", exif=exif)
    with pytest.raises(datasets.BadImage, match=r"1\.jpg has 4×6 pixels, 0\.jpg has 6×4"):
        datasets.folder(root=tmp_path)
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "0.jpg")
    data = datasets.folder(root=tmp_path)
    assert data[0].shape == data[1].shape == (3, 6, 4)


def test_a_home_folder(two, monkeypatch):
    monkeypatch.setenv("HOME", str(two.parent))
    assert len(datasets.folder(root="~/data")) == 2
