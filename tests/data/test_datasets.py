"""Preprocessing of the datasets, and their errors for missing and invalid files."""

import gzip
import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pndm.data import datasets


@pytest.fixture(autouse=True)
def no_files(tmp_path, monkeypatch):
    monkeypatch.delenv("PNDM_DATA", raising=False)
    monkeypatch.setenv("PNDM_HOME", str(tmp_path / "home"))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def fill(folder, sizes, suffix="png"):
    folder.mkdir()
    for i, size in enumerate(sizes):
        picture(*size, seed=i).save(folder / f"{i}.{suffix}")
    return folder


def test_digits_and_their_labels():
    images, labels = datasets.digits().images, datasets.digit_labels()
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.uint8
    assert images.unique().tolist() == [round(level * 255 / 16) for level in range(17)]
    assert labels.bincount().min() > 170
    parts = [datasets.digits(part) for part in ("train", "holdout")]
    assert [len(part) for part in parts] == [1617, 180]
    for part in ("train", "holdout"):
        rows = datasets.indices(1797, part)
        assert torch.equal(datasets.digits(part).images, images[rows])
        assert torch.equal(datasets.digit_labels(part), labels[rows])
    both = torch.cat([datasets.indices(1797, part) for part in ("train", "holdout")])
    assert torch.equal(both.sort().values, torch.arange(1797))
    with pytest.raises(ValueError, match="no part 'test'"):
        datasets.digits("test")


def test_the_face_is_rows_57_to_184_and_columns_25_to_152():
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[57:185, 25:153] = 255
    assert np.array(datasets.crop_face(Image.fromarray(pixels))).min() == 255
    for row, column in ((57, 25), (57, 152), (184, 25), (184, 152)):
        marked = pixels.copy()
        marked[row, column] = 0
        assert np.array(datasets.crop_face(Image.fromarray(marked))).min() < 255
    assert datasets.crop_face(Image.fromarray(pixels)).size == (64, 64)


def test_face_and_scene_are_torchvisions():
    from torchvision.transforms import functional

    image = picture(178, 218)
    reference = functional.resize(functional.crop(image, 57, 25, 128, 128), 64)
    assert np.array_equal(datasets.crop_face(image), reference)
    wide = picture(400, 300)
    resized = functional.resize(wide, 256)
    assert resized.size == (341, 256)
    assert np.array_equal(datasets.resize_and_crop(wide), functional.center_crop(resized, 256))


def test_celeba_reads_the_training_images_of_the_listing(tmp_path):
    images = tmp_path / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    for i in range(4):
        picture(178, 218, i).save(images / f"{i}.png")
    listing = "".join(f"{i}.png {split}\n" for i, split in enumerate((0, 1, 0, 2)))
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text(listing)
    data = datasets.celeba(root=tmp_path)
    assert [key.name for key in data.keys] == ["0.png", "2.png"]
    expected = np.array(datasets.crop_face(picture(178, 218, 2)))
    assert np.array_equal(data[1].permute(1, 2, 0), expected)
    picture(178, 217).save(images / "0.png")
    with pytest.raises(datasets.BadImage, match=r"0\.png .*178×217"):
        data[0]


def test_cifar10_is_channels_first(monkeypatch, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)

    class Stub:
        def __init__(self, root, train, download):
            assert root == tmp_path and train and not download
            self.data = pixels

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Stub)
    data = datasets.DATASETS["cifar10"](root=tmp_path)
    assert np.array_equal(data[3], pixels[3].transpose(2, 0, 1))
    assert len(datasets.DATASETS["cifar10"]("holdout", tmp_path)) == 2


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    """An array as an IDX file holds it."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def clothes(tmp_path, monkeypatch):
    """A folder of 20 training and 6 test images with their labels, and no folder of Debian's."""
    monkeypatch.setattr(datasets, "DEBIAN", tmp_path / "debian")
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 20), ("t10k", 6)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}-images-idx3-ubyte"] = images
        arrays[f"{part}-labels-idx1-ubyte"] = random.integers(0, 10, count, dtype=np.uint8)
    root = tmp_path / "clothes"
    root.mkdir()
    for name, array in arrays.items():
        (root / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return root, arrays


def test_clothes_and_their_labels(clothes):
    root, arrays = clothes
    for part, name in (("all", "train"), ("test", "t10k")):
        images = datasets.DATASETS["fashion_mnist"](part, root).images
        assert images.shape[1:] == (1, 28, 28) and images.dtype == torch.uint8
        assert np.array_equal(images[:, 0], arrays[f"{name}-images-idx3-ubyte"])
        labels = datasets.fashion_labels(part, root)
        assert np.array_equal(labels, arrays[f"{name}-labels-idx1-ubyte"])
        assert labels.dtype == torch.int64
    for part in ("train", "holdout"):
        rows = datasets.indices(20, part)
        whole = datasets.fashion_mnist(root=root).images
        assert torch.equal(datasets.fashion_mnist(part, root).images, whole[rows])
        labels = datasets.fashion_labels(root=root)
        assert torch.equal(datasets.fashion_labels(part, root), labels[rows])


def test_clothes_are_looked_for_in_three_places(clothes, tmp_path, monkeypatch):
    root, arrays = clothes
    with pytest.raises(datasets.MissingData, match="dataset-fashion-mnist, or fetch train-images"):
        datasets.fashion_mnist()
    monkeypatch.setattr(datasets, "DEBIAN", root)
    assert len(datasets.fashion_mnist()) == 20
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 28, 28), np.uint8)))
    monkeypatch.setenv("PNDM_DATA", str(tmp_path / "data"))
    assert len(datasets.fashion_mnist()) == 3
    with pytest.raises(datasets.MissingData, match="elsewhere"):
        datasets.fashion_mnist(root=tmp_path / "elsewhere")


IMAGES = np.zeros((2, 28, 28), np.uint8)
BAD = {
    "cut short": (gzip.compress(idx(IMAGES))[:-9], "is damaged"),
    "not packed": (idx(IMAGES), "is damaged"),
    "damaged inside": (gzip.compress(idx(IMAGES))[:20] + bytes(30), "is damaged"),
    "fewer images": (gzip.compress(idx(IMAGES)[:-1]), "1567 bytes for 1568"),
    "more images": (gzip.compress(idx(IMAGES) + b"0"), "1569 bytes for 1568"),
    "another type": (gzip.compress(idx(IMAGES, kind=9)), "no IDX file of bytes"),
    "no IDX": (gzip.compress(b"<html>"), "no IDX file of bytes"),
    "nothing": (gzip.compress(b""), "no IDX file of bytes"),
    "three bytes": (gzip.compress(b"\0\0\x08"), "no IDX file of bytes"),
    "no images": (gzip.compress(idx(IMAGES[:0])), "is empty"),
    "labels": (gzip.compress(idx(np.zeros(2, np.uint8))), "does not hold images of 28×28"),
    "other sizes": (gzip.compress(idx(IMAGES[:, :8, :8])), "does not hold images of 28×28"),
    "a cut head": (gzip.compress(idx(IMAGES)[:9]), "does not hold images of 28×28"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_idx_files_are_told_in_one_line(clothes, what):
    root, _ = clothes
    content, said = BAD[what]
    path = root / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(datasets.BadImage, match=said) as raised:
        datasets.fashion_mnist(root=root)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_images_in_the_place_of_labels_are_refused(clothes):
    root, _ = clothes
    (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
    with pytest.raises(datasets.BadImage, match="does not hold labels"):
        datasets.fashion_labels(root=root)


def test_lsun_decodes_the_values_of_its_database(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    picture(300, 280).save(buffer, "PNG")
    content = {b"a": buffer.getvalue(), b"b": b"nonsense"}

    class Stub:
        def __init__(self, folder):
            assert folder == tmp_path / "church_outdoor_train_lmdb"

        def keys(self):
            return list(content)

        def __call__(self, key):
            return io.BytesIO(content[key])

    monkeypatch.setattr(datasets, "Lmdb", Stub)
    (tmp_path / "church_outdoor_train_lmdb").mkdir()
    (tmp_path / "church_outdoor_train_lmdb" / "data.mdb").touch()
    data = datasets.lsun_church(root=tmp_path)
    assert np.array_equal(data[0].permute(1, 2, 0), datasets.resize_and_crop(picture(300, 280)))
    with pytest.raises(datasets.BadImage, match="b'b'"):
        data[1]


def test_lmdb_reads_a_real_database(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        for key in (b"b", b"a"):
            transaction.put(key, key * 3)
    store = datasets.Lmdb(tmp_path)
    assert store.keys() == [b"a", b"b"] and store(b"b").read() == b"bbb"


@pytest.mark.parametrize("name", ["cifar10", "celeba", "lsun_bedroom", "lsun_church", "folder"])
def test_missing_files_are_named_in_one_line(name, tmp_path):
    with pytest.raises(datasets.MissingData) as caught:
        datasets.DATASETS[name]()
    message = str(caught.value)
    assert str(tmp_path / "home" / "data") in message and "\n" not in message


def test_the_data_folder_can_be_chosen(monkeypatch, tmp_path):
    assert datasets.data_root() == tmp_path / "home" / "data"
    monkeypatch.setenv("PNDM_DATA", str(tmp_path / "elsewhere"))
    assert datasets.data_root() == tmp_path / "elsewhere"
    with pytest.raises(
        ValueError,
        match="no dataset 'digit', did you mean digits.; there are digits, fashion_mnist, cifar10",
    ):
        datasets.source("digit")


def test_folder_takes_its_images_in_the_order_of_their_paths(tmp_path):
    root = fill(tmp_path / "a", [(5, 4)] * 3)
    fill(root / "below", [(5, 4)] * 2, "jpg")
    (root / "notes.txt").write_text("no image")
    data = datasets.folder(root=root)
    assert [key.name for key in data.keys] == ["0.png", "1.png", "2.png", "0.jpg", "1.jpg"]
    assert data[1].shape == (3, 4, 5)
    assert np.array_equal(data[1].permute(1, 2, 0), picture(5, 4, 1))


@pytest.mark.parametrize("sizes", [[], [(4, 4)]])
def test_a_folder_needs_two_images(tmp_path, sizes):
    with pytest.raises(
        datasets.BadImage, match=f"{len(sizes)} images, but a dataset needs at least two"
    ):
        datasets.folder(root=fill(tmp_path / "few", sizes))


def test_a_folder_of_mixed_sizes_names_the_odd_one(tmp_path):
    root = fill(tmp_path / "mixed", [(4, 4), (4, 4), (4, 5), (4, 4)])
    with pytest.raises(datasets.BadImage, match=r"2\.png has 4×5 pixels, 0\.png has 4×4"):
        datasets.folder(root=root)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_jpeg_is_named_in_one_line(tmp_path, workers):
    root = fill(tmp_path / "corrupt", [(64, 64)] * 5, "jpg")
    whole = (root / "3.jpg").read_bytes()
    (root / "3.jpg").write_bytes(whole[: len(whole) // 2])
    loader = DataLoader(datasets.folder(root=root), batch_size=2, num_workers=workers)
    with pytest.raises(datasets.BadImage, match=r"3\.jpg is not a readable image") as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    (root / "3.jpg").write_bytes(b"<html>")
    with pytest.raises(datasets.BadImage, match=r"3\.jpg is not a readable image"):
        datasets.folder(root=root)
