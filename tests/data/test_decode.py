"""Image files of every kind: converted to the right 8-bit RGB, or rejected in one line."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from pndm.data import datasets, decode

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
WIDE = RAMP.astype(np.uint16) * 257
GREY = Image.fromarray(RAMP)
COLOUR = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8))


def png(rows, colour_type):
    """A PNG of 16 bits a channel, which Pillow does not write for all kinds: rows [H, W, C]."""
    height, width = rows.shape[:2]

    def chunk(kind, content):
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    signature = b"\x89PNG\r\n\x1a\n"
    data = chunk(b"IDAT", zlib.compress(lines))
    return signature + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def tiff(rows):
    """A TIFF of 16 bits in three colours, which Pillow does not write: rows [16, 16, 3]."""
    tags = [(256, 16), (257, 16), (258, 0), (259, 1), (262, 2), (273, 0), (277, 3), (278, 16)]
    tags.append((279, rows.size * 2))
    end = 8 + 2 + 12 * len(tags) + 4
    counts, values = {258: 3}, dict(tags) | {258: end, 273: end + 6}
    entries = [
        struct.pack("<HHII", tag, 3 + (tag != 258), counts.get(tag, 1), values[tag])
        for tag, _ in tags
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4)
    return head + struct.pack("<HHH", 16, 16, 16) + rows.astype("<u2").tobytes()


def netpbm(kind, levels, largest):
    return f"{kind} 16 16 {largest}\n".encode() + levels.astype(">u2").tobytes()


def opened(path):
    """The pixels, and the size read from the header."""
    with decode.open_image(path, path.name) as image:
        size = decode.size(image, path.name)
        pixels = np.asarray(decode.rgb(image, path.name))
    assert pixels.dtype == np.uint8 and pixels.shape == (size[1], size[0], 3)
    return pixels


def refused(path, match):
    with pytest.raises(datasets.BadImage, match=match) as caught:
        opened(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message


def with_alpha(image, alpha):
    return Image.merge(f"{image.mode}A", [*image.split(), Image.new("L", image.size, alpha)])


RIGHT = {
    "16.png": lambda p: Image.fromarray(WIDE).save(p),
    "16.tif": lambda p: Image.fromarray(WIDE).save(p),
    "16 big endian.tif": lambda p: Image.fromarray(WIDE.astype(">u2")).save(p),
    "16 deflated.tif": lambda p: Image.fromarray(WIDE).save(p, compression="tiff_deflate"),
    "16.pgm": lambda p: p.write_bytes(netpbm("P5", WIDE, 65535)),
    "10.pgm": lambda p: p.write_bytes(netpbm("P5", (RAMP * (1023 / 255)).round(), 1023)),
    "16 rgb.ppm": lambda p: p.write_bytes(netpbm("P6", np.stack([WIDE] * 3, 2), 65535)),
    "8.png": GREY.save,
    "8.webp": lambda p: GREY.convert("RGB").save(p, lossless=True),
    "palette.png": lambda p: GREY.convert("P").save(p),
    "still.gif": GREY.save,
    "opaque.png": lambda p: with_alpha(GREY, 255).save(p),
    "opaque palette.png": lambda p: GREY.convert("P").save(p, transparency=b"\xff" * 256),
    "opaque.webp": lambda p: with_alpha(GREY.convert("RGB"), 255).save(p, lossless=True),
    "ink.tif": lambda p: GREY.convert("RGB").convert("CMYK").save(p),
    "ink.jpg": lambda p: GREY.convert("RGB").convert("CMYK").save(p, quality=100),
    "8.bmp": GREY.save,
    "8.tga": GREY.save,
    "8.jp2": lambda p: GREY.save(p, irreversible=False),
}


@pytest.mark.parametrize("name", RIGHT)
def test_256_levels_stay_256_levels(tmp_path, name):
    RIGHT[name](tmp_path / name)
    pixels = opened(tmp_path / name).astype(int)
    assert np.abs(pixels - RAMP[..., None]).max() <= (1 if name == "ink.jpg" else 0)


def test_16_bits_are_rounded(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "all.png")
    assert np.array_equal(opened(tmp_path / "all.png")[..., 0], np.rint(levels / 257))


WRONG = {
    "float.tif": (
        lambda p: Image.fromarray(RAMP / np.float32(255)).save(p),
        "levels of unknown range",
    ),
    "32.tif": (
        lambda p: Image.fromarray(WIDE.astype(np.int32)).save(p),
        "levels of unknown range",
    ),
    "see-through.png": (lambda p: with_alpha(GREY, 9).save(p), "transparent"),
    "key.png": (lambda p: GREY.save(p, transparency=7), "transparent"),
    "palette key.png": (lambda p: GREY.convert("P").save(p, transparency=7), "transparent"),
    "see-through.webp": (lambda p: with_alpha(GREY.convert("RGB"), 9).save(p), "transparent"),
    "16 key.png": (lambda p: Image.fromarray(WIDE).save(p, transparency=7), "transparent"),
    "16 rgb.png": (lambda p: p.write_bytes(png(np.stack([WIDE] * 3, 2), 2)), "16 bits in colour"),
    "16 alpha.png": (
        lambda p: p.write_bytes(png(np.stack([WIDE, WIDE * 0 - 1], 2), 4)),
        "16 bits in colour",
    ),
    "16 rgba.png": (
        lambda p: p.write_bytes(png(np.stack([WIDE] * 3 + [WIDE * 0 - 1], 2), 6)),
        "16 bits in colour",
    ),
    "16 rgb.tif": (lambda p: p.write_bytes(tiff(np.stack([WIDE] * 3, 2))), "16 bits in colour"),
    "nothing.png": (lambda p: p.touch(), "not a readable image"),
    "page.png": (lambda p: p.write_text("<html>quota</html>"), "not a readable image"),
    "archive.png": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(99)), "not a readable image"),
}
for suffix in ("gif", "webp", "png", "tif"):
    frames = [GREY.rotate(90), GREY.rotate(180)]
    WRONG[f"moving.{suffix}"] = (
        lambda p, frames=frames: GREY.save(p, save_all=True, append_images=frames),
        "3 frames",
    )


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_right_is_refused(tmp_path, name):
    write, match = WRONG[name]
    write(tmp_path / name)
    refused(tmp_path / name, match)


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("levels", [RAMP, WIDE], ids=["8", "16"])
def test_tiffs_whose_white_is_zero(tmp_path, levels, photometric):
    path = tmp_path / "scan.tif"
    Image.fromarray(levels).save(path)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<HHIH", 262, 3, 1, 1))
    content[at + 8] = photometric
    path.write_bytes(content)
    if photometric == 0 and levels is WIDE:
        refused(path, "inverted")
    else:
        assert np.array_equal(opened(path)[..., 0], RAMP if photometric else 255 - RAMP)


def test_12_bits_in_a_tiff_of_16(tmp_path):
    path = tmp_path / "scan.tif"
    Image.fromarray(WIDE // 16).save(path)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<HHIH", 258, 3, 1, 16))
    content[at + 8] = 12
    path.write_bytes(content)
    with pytest.raises(datasets.BadImage):
        opened(path)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_upright(tmp_path, suffix, orientation):
    path, exif = tmp_path / f"photo.{suffix}", Image.Exif()
    exif[decode.ORIENTATION] = orientation
    COLOUR.save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(opened(path), expected)
    assert expected.shape[:2] == ((10, 6) if 5 <= orientation <= 8 else (6, 10))


@pytest.mark.filterwarnings("ignore")
def test_damaged_metadata_do_no_harm(tmp_path):
    path = tmp_path / "photo.jpg"
    COLOUR.save(path)
    before = opened(path)
    COLOUR.save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f\x01")
    assert np.array_equal(opened(path), before)


def test_the_pictures_of_phones_with_a_preview(tmp_path):
    """An MPO is called .jpg; its first frame is the picture."""
    path = tmp_path / "phone.jpg"
    preview = COLOUR.resize((5, 3))
    COLOUR.save(path, format="MPO", save_all=True, append_images=[preview], quality=95)
    assert opened(path).shape == (6, 10, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, seed):
    """Any error of Pillow's readers for unexpected bytes."""
    random = np.random.default_rng(seed)
    for name in ("16.png", "16.tif", "16.pgm", "still.gif", "opaque.webp", "ink.jpg", "8.tga"):
        RIGHT[name](tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for _ in range(25):
            content = bytearray(whole)
            for place in random.integers(0, min(len(content), 150), 3):
                content[place] = random.integers(256)
            (tmp_path / name).write_bytes(content[: random.integers(1, len(content) + 200)])
            try:
                opened(tmp_path / name)
            except datasets.BadImage as error:
                assert name in str(error) and "\n" not in str(error)
