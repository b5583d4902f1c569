"""LSUN's databases: any number of sets and processes, and damaged files."""

import io
import multiprocessing
import os

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from pndm.data import databases, datasets

lmdb = pytest.importorskip("lmdb")
NAME = "church_outdoor_train_lmdb"


@pytest.fixture
def root(tmp_path):
    write(tmp_path / NAME)
    yield tmp_path
    for _, environment in databases._environments.values():
        environment.close()
    databases._environments.clear()


def write(folder, count=6, junk=0):
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 24) as environment:
        with environment.begin(write=True) as transaction:
            for i in range(count):
                buffer = io.BytesIO()
                Image.fromarray(np.full((260, 256, 3), i, np.uint8)).save(
                    buffer, "WEBP", lossless=True
                )
                transaction.put(b"%06d" % i, buffer.getvalue() + bytes(junk))


def values(data, workers=0):
    return [
        int(x) for batch in DataLoader(data, 3, num_workers=workers) for x in batch[:, 0, 0, 0]
    ]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers(root, workers):
    data = datasets.lsun_church(root=root)
    assert values(data, workers) == list(range(6))
    assert int(data[2][0, 0, 0]) == 2  # which opens it here, before the next workers begin
    assert values(data, workers) == list(range(6))


@pytest.mark.slow
def test_workers_that_are_spawned(root):
    data = datasets.lsun_church(root=root)
    data[0]
    loader = DataLoader(data, 6, num_workers=1, multiprocessing_context="spawn")
    assert next(iter(loader)).shape == (6, 3, 256, 256)


def test_several_sets_at_once(root):
    parts = [datasets.lsun_church(part, root) for part in ("all", "train", "holdout", "all")]
    assert [len(part) for part in parts] == [6, 5, 1, 6]
    (root / "link").symlink_to(root, target_is_directory=True)
    parts.append(datasets.lsun_church(root=root / "link"))
    assert all(len(values(part, workers)) == len(part) for part in parts for workers in (0, 1))


def test_a_child_leaves_its_parent_the_database(root):
    data = datasets.lsun_church(root=root)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=data.__getitem__, args=(i,)) for i in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert values(data) == list(range(6))


def test_a_folder_within_one_of_its_name(root):
    os.rename(root / NAME, root / "x")
    os.mkdir(root / NAME)
    os.rename(root / "x", root / NAME / NAME)
    assert len(datasets.lsun_church(root=root)) == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"<html>quota</html>" * 1000,
        lambda content: content[:5000],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-4096],
        lambda content: bytes(8192) + content[8192:],
    ],
    ids=["empty", "web page", "two pages", "half", "a page less", "no header"],
)
def test_damaged_files_are_one_line(tmp_path, damage):
    write(tmp_path / NAME, junk=9000)
    file = tmp_path / NAME / "data.mdb"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        datasets.BadImage, match=rf"{NAME} cannot be read .*get it again"
    ) as caught:
        datasets.lsun_church(root=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_database_of_nothing(tmp_path):
    write(tmp_path / NAME, count=0)
    with pytest.raises(datasets.BadImage, match="holds no images"):
        datasets.lsun_church(root=tmp_path)


def test_a_value_that_is_no_image(tmp_path):
    write(tmp_path / NAME)
    with lmdb.open(str(tmp_path / NAME), map_size=1 << 24) as environment:
        with environment.begin(write=True) as transaction:
            transaction.put(b"000002", b"nonsense")
    data = datasets.lsun_church(root=tmp_path)
    for workers in (0, 1):
        with pytest.raises(datasets.BadImage, match="b'000002' is not a readable image"):
            values(data, workers)
