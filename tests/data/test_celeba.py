"""CelebA in the layouts of its authors, Kaggle and torchvision."""

import shutil

import pytest
from PIL import Image

from pndm._errors import PndmError
from pndm.data import datasets
from pndm.data.celeba import training_names

SPLITS = {"000001": 0, "000002": 1, "000003": 0, "000004": 2}
ROWS = [(f"{name}.jpg", split) for name, split in SPLITS.items()]
TEXT = "".join(f"{name} {split}\n" for name, split in ROWS)
TABLE = "image_id,partition\n" + "".join(f"{name},{split}\n" for name, split in ROWS)


def portraits(folder, suffix="jpg"):
    folder.mkdir(parents=True)
    for i, name in enumerate(SPLITS):
        Image.new("RGB", (178, 218), (i, i, i)).save(folder / f"{name}.{suffix}")


LISTINGS = {
    "of the authors": ("txt", TEXT.encode()),
    "with wide blanks and CRLF": ("txt", TEXT.replace(" ", " \t ").replace("\n", "\r\n").encode()),
    "without a last newline": ("txt", TEXT.rstrip().encode()),
    "with a byte order mark": ("txt", TEXT.encode("utf-8-sig")),
    "of Kaggle": ("csv", TABLE.encode()),
    "of Kaggle from Windows": ("csv", TABLE.replace("\n", "\r\n").encode("utf-8-sig")),
    "of a spreadsheet": ("csv", TABLE.replace(",", ";").encode("utf-16")),
    "with quotes": ("csv", TABLE.replace("0000", '"0000').replace(".jpg", '.jpg"').encode()),
    "called .txt with commas": ("txt", TABLE.encode()),
}


@pytest.mark.parametrize("listing", LISTINGS.values(), ids=LISTINGS)
@pytest.mark.parametrize(
    "place", ["img_align_celeba", "img_align_celeba/img_align_celeba", "img_align_celeba_png"]
)
def test_listings_and_folders(tmp_path, listing, place):
    suffix, content = listing
    portraits(tmp_path / "celeba" / place, "png" if place.endswith("png") else "jpg")
    (tmp_path / "celeba" / place / "._000001.jpg").write_bytes(b"\0\5\x16\7")
    (tmp_path / "celeba" / f"list_eval_partition.{suffix}").write_bytes(content)
    data = datasets.celeba(root=tmp_path)
    assert [path.stem for path in data.keys] == ["000001", "000003"]
    assert data[1].shape == (3, 64, 64) and (data[1].float() - 2).abs().max() <= 1


def test_the_folders_of_the_authors_drive(tmp_path):
    portraits(tmp_path / "celeba/Img/img_align_celeba")
    (tmp_path / "celeba/Eval").mkdir()
    (tmp_path / "celeba/Eval/list_eval_partition.txt").write_text(TEXT)
    assert len(datasets.celeba(root=tmp_path)) == 2


def test_capital_suffixes(tmp_path):
    portraits(tmp_path / "celeba/img_align_celeba", "JPG")
    (tmp_path / "celeba/list_eval_partition.txt").write_text(TEXT)
    assert len(datasets.celeba(root=tmp_path)) == 2


def test_missing_images_are_counted(tmp_path):
    folder = tmp_path / "celeba/img_align_celeba"
    portraits(folder)
    (tmp_path / "celeba/list_eval_partition.txt").write_text(TEXT)
    (folder / "000003.jpg").unlink()
    with pytest.raises(datasets.MissingData, match=r"1 of the 2 training images .*000003\.jpg"):
        datasets.celeba(root=tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(datasets.MissingData, match=r"fetch img_align_celeba\.zip"):
        datasets.celeba(root=tmp_path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("<!DOCTYPE html><html>Quota exceeded</html>", "line 1: '<!DOCTYPE"),
        ("", "lists no training images"),
        ("image_id,partition\n", "lists no training images"),
        ("000001.jpg 1\n000002.jpg 2\n", "lists no training images"),
        ("000001.jpg 0\n000002.jpg\n", "line 2: '000002.jpg'"),
        ("000001.jpg 0\n000002.jpg 3\n", "line 2"),
        ("202599\n5_o_Clock_Shadow Arched_Eyebrows\n", "line 1"),
    ],
)
def test_other_files_are_no_listing(tmp_path, content, match):
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(PndmError, match=match) as caught:
        training_names(tmp_path / "list.txt")
    assert "\n" not in str(caught.value) and "list.txt" in str(caught.value)
