"""What runs need, and how they get it, from a mirror in the layouts of the publishers."""

import gzip
import hashlib
import io
import json
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from commands import Fork
from mirror import QUOTA, serving
from PIL import Image
from references.parameters import Parameters
from references.small import REAL

from pndm import _download
from pndm._download import DownloadError, Remote, Unavailable, download
from pndm._errors import FileError, InputError
from pndm.config.compose import CONF, compose_runs
from pndm.data import download as data_download
from pndm.models.architectures import ARCHITECTURES
from pndm.models.download import fetch as fetch_weights
from pndm.models.registry import WEIGHTS, CheckpointError
from pndm.models.unet import UNet
from pndm.runs.needs import all_missing, needs
from pndm.runs.prepare import prepare

ROOT = CONF.parent
HEIBOX = "heibox.uni-heidelberg.de/f/2e4f01e2d9ee49bab1d5/?dl=1"
OPENAI = "openaipublic.blob.core.windows.net/diffusion/march-2021/cifar10_uncond_50M_500K.pt"
INCEPTION = (
    "github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
CIFAR = "www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """An empty server in the place of all publishers, an empty PNDM_HOME, empty caches."""
    monkeypatch.setenv("PNDM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PNDM_DATA", raising=False)
    with serving({}) as server:
        monkeypatch.setenv("PNDM_MIRROR", server.address)
        yield server


def refused(action, match, kind=InputError):
    with pytest.raises(kind, match=match) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(folder):
    """The files below a folder, but for locks."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


def md5(content):
    return hashlib.md5(content).hexdigest()


# One list of needs


def test_needs_of_the_default_are_none(mirror):
    (run,) = compose_runs([])
    assert needs(run) == []


def test_needs_of_cifar10(mirror, tmp_path):
    (run,) = compose_runs(["dataset=cifar10", "schedule=cosine"])
    home = tmp_path / "home"
    found = {need.kind: need for need in needs(run)}
    assert list(found) == ["weights", "Inception", "images", "reference"]
    assert found["weights"].source.endswith("cifar10_uncond_50M_500K.pt")
    assert found["images"].size == 170498071 and found["images"].path == home / "data"
    assert found["Inception"].size == 95628359
    assert not any(need.present for need in found.values())
    off = replace(run, fid="off")
    assert [need.kind for need in needs(off)] == ["weights"]
    kept = replace(run, kid="auto")
    assert [need.kind for need in needs(kept)][-1] == "features"
    (home / "references").mkdir(parents=True)
    found["reference"].path.touch()
    assert {need.kind for need in all_missing([run])} == {"weights", "Inception"}


def test_needs_of_fashion_come_with_the_package(mirror):
    runs = compose_runs(["dataset=fashion_mnist"])
    assert {need.kind for need in needs(runs[0])} <= {"reference"}
    assert all_missing(runs) == []


def test_each_need_once_in_a_sweep(mirror):
    runs = compose_runs(["dataset=cifar10", "schedule=linear,cosine", "steps=5,10"], True)
    missing = all_missing(runs)
    assert len(missing) == len(set(missing))
    assert sorted(need.name for need in missing if need.kind == "weights") == [
        "ddpm_cifar10",
        "iddpm_cifar10",
    ]


# Downloads


def remote(tmp_path, content, **settings):
    url = "https://example.org/a/file.bin"
    settings = {"checksum": f"md5:{md5(content)}", "size": len(content)} | settings
    return Remote("file", url, tmp_path / "there" / "file.bin", **settings)


def test_a_mirror_has_the_publishers_paths(mirror, tmp_path):
    mirror.files["example.org/a/file.bin"] = b"content"
    path = download(remote(tmp_path, b"content"), progress=False)
    assert path.read_bytes() == b"content"
    download(remote(tmp_path, b"content"), progress=False)
    assert mirror.asked == ["example.org/a/file.bin"]
    assert files(path.parent) == ["file.bin"]


def test_a_mirror_that_is_a_folder(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("PNDM_MIRROR", (tmp_path / "mirror").as_uri())
    wanted = remote(tmp_path, b"content")
    refused(lambda: download(wanted, False), "PNDM_MIRROR has no .*/example.org/a/file.bin: get")
    source = tmp_path / "mirror" / "example.org" / "a" / "file.bin"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"content")
    assert download(wanted, False).read_bytes() == b"content"


@pytest.mark.parametrize("address", ["mirror", "ftp://example.org", "http://", "/a/folder"])
def test_a_mirror_that_is_no_address(mirror, monkeypatch, address):
    monkeypatch.setenv("PNDM_MIRROR", address)
    refused(lambda: prepare(compose_runs([])), f"PNDM_MIRROR={address} is no address")


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (None, "answers 404: get https://example.org/a/file.bin .* and put it at"),
        (QUOTA, "is a web page"),
        (b"", "empty"),
        (b"another", "its MD5 is .*, not"),
    ],
)
def test_a_publisher_that_fails(mirror, tmp_path, answer, match):
    if answer is not None:
        mirror.files["example.org/a/file.bin"] = answer
    wanted = remote(tmp_path, b"content")
    assert "https://example.org" in refused(lambda: download(wanted, False), match, DownloadError)
    assert files(tmp_path / "there") == []


def test_no_network(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("PNDM_MIRROR", "http://127.0.0.1:9")
    wanted = remote(tmp_path, b"content")
    refused(lambda: download(wanted, False), "cannot fetch .*refused.*: get", Unavailable)
    assert _download.CONNECT < 10


def test_what_has_no_published_checksum_is_held_to_the_first_one(mirror, tmp_path):
    mirror.files["example.org/a/file.bin"] = b"content"
    wanted = remote(tmp_path, b"content", checksum=None)
    path = download(wanted, False)
    download(wanted, False)
    path.write_bytes(b"changed")
    refused(lambda: download(wanted, False), "is not file: its SHA-256 is .*; delete it and run")


def test_too_large_for_the_disk(mirror, tmp_path):
    wanted = remote(tmp_path, b"content", size=10**18)
    refused(lambda: download(wanted, False), "takes 1,000,000,000,000 MB, and", FileError)
    assert mirror.asked == [] and files(tmp_path / "there") == []


def test_a_full_disk(mirror, tmp_path, monkeypatch):
    mirror.files["example.org/a/file.bin"] = b"content"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_download, "_append", full)
    refused(lambda: download(remote(tmp_path, b"content"), False), "No space left", FileError)
    assert files(tmp_path / "there") == []


def test_a_home_that_cannot_be_written(mirror, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PNDM_HOME", str(tmp_path / "file"))
    refused(lambda: prepare(compose_runs(["dataset=cifar10"])), "set PNDM_HOME to", FileError)


def test_weights_elsewhere_are_named(mirror):
    message = refused(
        lambda: fetch_weights(WEIGHTS["ddpm_lsun_church"], False), "answers 404", CheckpointError
    )
    assert "model=ddpm_lsun_church_hub (huggingface.co)" in message
    other = refused(
        lambda: fetch_weights(WEIGHTS["ddpm_cifar10"], False), "answers 404", CheckpointError
    )
    assert "ddpm_cifar10_pruning" in other and "nonema" not in other


KILLED = """
import sys
from pathlib import Path
from pndm._download import Remote, download
url = "https://example.org/a/file.bin"
download(Remote("file", url, Path(sys.argv[1]) / "file.bin", checksum=sys.argv[2]), False)
"""


def start_download(folder, checksum):
    return subprocess.Popen([sys.executable, "-c", KILLED, str(folder), checksum])


@pytest.mark.slow
def test_a_download_killed_at_random_moments(mirror, tmp_path):
    """kill -9 ten times, then to the end: whole, verified, and not begun anew each time."""
    content = np.random.default_rng(0).bytes(3 << 20)
    mirror.files["example.org/a/file.bin"] = content
    mirror.chunk, mirror.pause = 1 << 15, lambda: time.sleep(0.02)
    folder, checksum = tmp_path / "there", f"md5:{md5(content)}"
    moments = np.random.default_rng(1).uniform(0.05, 0.4, 10)
    for moment in moments:
        asked = len(mirror.asked)
        process = start_download(folder, checksum)
        while len(mirror.asked) == asked and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert files(folder) in ([], [".file.bin.partial"], ["file.bin"])
    mirror.pause = lambda: None
    assert start_download(folder, checksum).wait() == 0
    assert (folder / "file.bin").read_bytes() == content
    assert files(folder) == ["file.bin"]


@pytest.mark.slow
def test_two_processes_share_a_download(mirror, tmp_path):
    content = np.random.default_rng(0).bytes(1 << 20)
    mirror.files["example.org/a/file.bin"] = content
    mirror.chunk, mirror.pause = 1 << 15, lambda: time.sleep(0.02)
    processes = [start_download(tmp_path / "there", f"md5:{md5(content)}") for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert mirror.asked == ["example.org/a/file.bin"]


# Datasets, in the layouts of their publishers


def cifar_archive(monkeypatch, images=4):
    """A small archive of torchvision's layout, whose checksums torchvision then has."""
    from torchvision.datasets import CIFAR10

    draw, lists, archive = np.random.default_rng(0), [], io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:

        def add(name, value):
            content = pickle.dumps(value)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            return [name, md5(content)]

        for i in range(1, 6):
            data = draw.integers(0, 256, (images, 3072), dtype=np.uint8)
            lists.append(add(f"data_batch_{i}", {"data": data, "labels": [0] * images}))
        test = add("test_batch", {"data": data, "labels": [0] * images})
        meta = add("batches.meta", {"label_names": ["a"] * 10})
    patched = {
        "tgz_md5": md5(archive.getvalue()),
        "train_list": lists,
        "test_list": [test],
        "meta": {"filename": meta[0], "key": "label_names", "md5": meta[1]},
    }
    for name, value in patched.items():
        monkeypatch.setattr(CIFAR10, name, value)
    return archive.getvalue(), patched


def test_cifar10(mirror, monkeypatch, tmp_path):
    mirror.files[CIFAR], _ = cifar_archive(monkeypatch)
    data_download.fetch("cifar10", progress=False)
    from pndm.data import datasets

    assert len(datasets.cifar10()) == 20
    root = tmp_path / "home" / "data"
    assert [path.name for path in root.iterdir() if path.name[0] != "."] == ["cifar-10-batches-py"]
    data_download.fetch("cifar10", progress=False)
    assert mirror.asked == [CIFAR]
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()  # half unpacked, by somebody
    refused(datasets.cifar10, "cifar10 is missing or damaged", Exception)


def test_an_archive_that_is_here_is_only_unpacked(mirror, monkeypatch, tmp_path):
    content, _ = cifar_archive(monkeypatch)
    root = tmp_path / "home" / "data"
    root.mkdir(parents=True)
    (root / "cifar-10-python.tar.gz").write_bytes(content)
    data_download.fetch("cifar10", progress=False)
    assert mirror.asked == [] and (root / "cifar-10-python.tar.gz").exists()
    assert (root / "cifar-10-batches-py").is_dir()


def test_fashion(mirror, monkeypatch, tmp_path):
    from torchvision.datasets import FashionMNIST

    from pndm.data import datasets

    monkeypatch.setattr(datasets, "DEBIAN", tmp_path / "none")
    monkeypatch.setattr(data_download, "DEBIAN", tmp_path / "none")
    resources = []
    for part, count in (("train", 12), ("t10k", 5)):
        images = b"\0\0\x08\x03" + b"".join(n.to_bytes(4) for n in (count, 28, 28))
        labels = b"\0\0\x08\x01" + count.to_bytes(4)
        for name, content in (
            ("images-idx3", images + bytes(784 * count)),
            ("labels-idx1", labels + bytes(count)),
        ):
            file = f"{part}-{name}-ubyte.gz"
            packed = gzip.compress(content)
            host = "fashion-mnist.s3-website.eu-central-1.amazonaws.com"
            mirror.files[f"{host}/{file}"] = packed
            resources.append((file, md5(packed)))
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    data_download.fetch("fashion_mnist", progress=False)
    assert len(datasets.fashion_mnist()) == 12 and len(datasets.fashion_mnist("test")) == 5
    assert len(mirror.asked) == 4


def celeba_files(monkeypatch):
    """CelebA's zip and listing as torchvision names them: eight portraits, six of training."""
    from torchvision.datasets import CelebA

    draw, archive = np.random.default_rng(0), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for i in range(1, 9):
            image, pixels = io.BytesIO(), draw.integers(0, 256, (218, 178, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(image, "JPEG")
            file.writestr(f"img_align_celeba/{i:06}.jpg", image.getvalue())
    listing = "".join(f"{i:06}.jpg {int(i > 6)}\n" for i in range(1, 9)).encode()
    content = {"img_align_celeba.zip": archive.getvalue(), "list_eval_partition.txt": listing}
    monkeypatch.setattr(
        CelebA, "file_list", [(f"KEY-{name}", md5(value), name) for name, value in content.items()]
    )
    return content


@pytest.mark.parametrize("form", ["file/d/KEY-{}", "uc?id=KEY-{}"])
def test_celeba_on_google_drive(mirror, monkeypatch, form):
    from pndm.data import datasets

    for name, content in celeba_files(monkeypatch).items():
        mirror.files[f"drive.google.com/{form.format(name)}"] = content
    data_download.fetch("celeba", progress=False)
    assert len(datasets.celeba()) == 6 and datasets.celeba()[0].shape == (3, 64, 64)


def test_a_quota_page_of_google_drive(mirror, monkeypatch, tmp_path):
    for name in celeba_files(monkeypatch):
        mirror.files[f"drive.google.com/file/d/KEY-{name}"] = QUOTA
    refused(lambda: data_download.fetch("celeba", False), "web page, not a file .a quota")
    assert files(tmp_path / "home" / "data") == []


def church_zip(tmp_path):
    """LSUN's zip: a folder with a database of three JPEGs."""
    lmdb = pytest.importorskip("lmdb")
    folder, archive = tmp_path / "church_outdoor_train_lmdb", io.BytesIO()
    with lmdb.open(str(folder), map_size=1 << 22) as database, database.begin(write=True) as write:
        for i in range(3):
            image = io.BytesIO()
            pixels = np.random.default_rng(i).integers(0, 256, (256, 300, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(image, "JPEG")
            write.put(f"{i}".encode(), image.getvalue())
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, f"{folder.name}/{path.name}")
    shutil.rmtree(folder)
    return archive.getvalue()


def test_lsun(mirror, tmp_path):
    from pndm.data import datasets

    mirror.files["dl.yf.io/lsun/scenes/church_outdoor_train_lmdb.zip"] = church_zip(tmp_path)
    data_download.fetch("lsun_church", progress=False)
    assert len(datasets.lsun_church()) == 3
    assert datasets.lsun_church()[0].shape == (3, 256, 256)


def test_bedrooms_are_not_fetched_unasked(mirror):
    message = refused(lambda: data_download.fetch_unasked("lsun_bedroom"), "are 45.9 GB")
    assert message.endswith("python -m pndm.data fetch lsun_bedroom")
    assert mirror.asked == []


def test_an_archive_cut_short(mirror, tmp_path):
    whole = church_zip(tmp_path)
    mirror.files["dl.yf.io/lsun/scenes/church_outdoor_train_lmdb.zip"] = whole[: len(whole) // 2]
    refused(lambda: data_download.fetch("lsun_church", False), "cannot be unpacked.*delete it")
    names = {name.split("/")[0] for name in files(tmp_path / "home" / "data")}
    assert "church_outdoor_train_lmdb" not in names


# Before a run


def test_fetch_off_names_all_that_is_missing(mirror):
    runs = compose_runs(["dataset=cifar10", "schedule=cosine", "fetch=off"])
    message = refused(lambda: prepare(runs), "fetch=off, and this is missing")
    for word in ("iddpm_cifar10", "Inception", "images of cifar10", "reference", "170.5 MB"):
        assert word in message
    assert mirror.asked == []


def test_fetch_is_auto_only_or_off():
    refused(lambda: compose_runs(["fetch=maybe"]), "fetch=maybe does not exist")


def test_fetch_does_not_name_a_run():
    from pndm.runs.identity import image_key

    keys = {image_key(compose_runs([f"fetch={m}"])[0], "x") for m in ("auto", "only", "off")}
    assert len(keys) == 1


def digits_as_cifar(tmp_path):
    """Own weights in the place of CIFAR-10's, so that only the FID's needs are missing."""
    path = tmp_path / "own.ckpt"
    arch = replace(ARCHITECTURES["ddpm_cifar10"], channels=32)
    torch.save(UNet(arch).state_dict(), path)
    return [f"model.checkpoint={path}", "model.architecture=ddpm_cifar10"]


def test_without_a_reference_a_run_says_why(mirror, tmp_path, capsys):
    runs = compose_runs(["dataset=cifar10", *digits_as_cifar(tmp_path)])
    (reason,) = prepare(runs)
    assert "answers 404" in reason and "weights-inception" in reason
    assert f"without an FID: {reason}" in capsys.readouterr().out
    assert len(mirror.asked) == 1  # the images are of no use without Inception


def test_the_main_table_does_not_begin_without_a_reference(mirror, tmp_path):
    from experiments.main_table import fid_by_steps

    own = digits_as_cifar(tmp_path)[:1] + ["model.architecture=digits_linear"]
    torch.save(UNet(ARCHITECTURES["digits_linear"]).state_dict(), tmp_path / "own.ckpt")
    words = ["dataset=folder", f"dataset.root={tmp_path}", *own]
    refused(
        lambda: fid_by_steps.get_ready("folder", ["linear"], 0, words),
        "answers 404.*; fid=off makes a table of images alone",
        Exception,
    )
    fid_by_steps.get_ready("folder", ["linear"], 0, [*words, "fid=off"])


def test_all_weights_are_fetched_where_inception_is_not(mirror, monkeypatch):
    monkeypatch.setitem(WEIGHTS, "ddpm_cifar10", replace(WEIGHTS["ddpm_cifar10"], md5=None))
    mirror.files |= {HEIBOX: b"PK\x03\x04", OPENAI: b"PK\x03\x04"}
    runs = compose_runs(["dataset=cifar10", "schedule=linear,cosine"], multirun=True)
    (reason,) = prepare(runs)
    assert "answers 404" in reason
    assert mirror.asked == [HEIBOX, OPENAI, INCEPTION]


def test_a_mirror_with_another_inception(mirror, tmp_path):
    mirror.files[INCEPTION] = b"PK\x03\x04 something else"
    runs = compose_runs(["dataset=cifar10", *digits_as_cifar(tmp_path)])
    refused(lambda: prepare(runs), "is not Inception: its SHA-256 is", DownloadError)
    assert files(tmp_path / "home") == []


def test_a_run_gets_its_reference(mirror, tmp_path, monkeypatch, capsys):
    from pndm.data import datasets

    def load(part="all", root=None):
        return datasets.TensorImages(datasets.digits().images[:100])

    monkeypatch.setitem(datasets.DATASETS, "folder", datasets.Source(load, "all", "none"))
    words = ["dataset=folder", f"dataset.root={tmp_path}", "dataset.extractor=digits"]
    words += ["model=digits_linear", "kid=auto", "samples=20", "batch_size=20"]
    runs = compose_runs(words)
    assert [need.what for need in all_missing(runs)] == [
        "reference of folder",
        "features of images of folder",
    ]
    assert prepare(runs, compute=False) == [] and len(all_missing(runs)) == 2
    assert prepare(runs) == [] and all_missing(runs) == []
    assert capsys.readouterr().out.count("computing the") == 1
    reference = Path(needs(runs[0])[0].path)
    before = reference.read_bytes()
    needs(runs[0])[1].path.unlink()
    assert prepare(runs) == [] and reference.read_bytes() == before
    reference.unlink()
    off = [replace(run, fetch="off") for run in runs]  # which is no word against computing
    assert prepare(off) == [] and all_missing(runs) == []


# The whole way, as a user goes it

REHEARSAL = """
import dataclasses, json, os, sys
from torchvision.datasets import CIFAR10, CelebA
from pndm.evaluation import features
from pndm.models import registry
patches = json.loads(os.environ["PATCHES"])
for name, value in patches["CIFAR10"].items():
    setattr(CIFAR10, name, value)
CelebA.file_list = patches["CelebA"]
weights = registry.WEIGHTS["ddpm_cifar10"]
registry.WEIGHTS["ddpm_cifar10"] = dataclasses.replace(weights, md5=patches["HEIBOX"])
features.INCEPTION_SHA256 = patches["Inception"]
features.LABELS["inception"] = "not FID: random weights"
"""


@cache
def inception_weights():
    """The network of Inception with random numbers."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):
            pass

    with tempfile.NamedTemporaryFile(suffix=".pth") as empty:
        torch.save({}, empty.name)
        torch.manual_seed(0)
        return saved(Random("inception-v3-compat", ["2048"], empty.name).state_dict())


@pytest.fixture
def rehearse(mirror, monkeypatch, tmp_path):
    """run.py with the mirror's checksums in the place of the publishers'."""
    content = inception_weights()
    mirror.files[INCEPTION] = content
    archive, cifar = cifar_archive(monkeypatch)
    mirror.files[CIFAR] = archive
    faces = celeba_files(monkeypatch)
    patches = {"CIFAR10": cifar, "Inception": hashlib.sha256(content).hexdigest()}
    patches["CelebA"] = [(f"KEY-{name}", md5(value), name) for name, value in faces.items()]
    for name, value in faces.items():
        mirror.files[f"drive.google.com/file/d/KEY-{name}"] = value

    def run(*words):
        patches["HEIBOX"] = md5(mirror.files.get(HEIBOX, b""))
        environment = {"PATCHES": json.dumps(patches), "COLUMNS": "200"}
        words = [*words, "progress=false"]
        process = Fork(words, tmp_path / "outputs", REHEARSAL, **environment)
        out, err = process.communicate()
        return process.returncode, out, err

    return run


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def values(key, shape):
    """Small random numbers, quickly."""
    return torch.full(shape, 0.01) if len(shape) < 2 else 0.02 * torch.randn(shape)


def openai_weights():
    """The network of OpenAI in its true shapes and under its names, with random numbers."""
    torch.manual_seed(0)
    state = Parameters(values)
    REAL["iddpm_cifar10"](state, torch.zeros(1, 3, 32, 32), torch.zeros(1))
    return saved(dict(state))


def ours(name):
    """The state_dict of an architecture, random; its keys are those of the DDPM family."""
    torch.manual_seed(0)
    return UNet(ARCHITECTURES[name]).state_dict()


@pytest.mark.slow
def test_from_nothing_to_an_fid_on_cifar10(mirror, rehearse, tmp_path):
    words = ["dataset=cifar10", "schedule=cosine", "samples=4", "steps=2"]
    status, _, err = rehearse(*words, "fetch=off")
    assert status == 1 and err.count("\n") == 1
    for name in ("iddpm_cifar10", "Inception", "images of cifar10", "reference of cifar10"):
        assert name in err
    assert mirror.asked == [] and not (tmp_path / "home").exists()

    mirror.files[OPENAI] = openai_weights()
    status, out, err = rehearse(*words)
    assert status == 0, err
    assert sorted(mirror.asked) == sorted([OPENAI, INCEPTION, CIFAR])
    assert "170.5 MB" in out and out.index("missing") < out.index("computing the reference")
    record = json.loads(Path(out.split("record: ")[1].strip()).read_text())
    assert record["status"] == "complete" and record["fid"]["value"] > 0
    assert record["fid"]["metric"] == "not FID: random weights"
    assert record["fid"]["reference"].startswith("cifar10 train, n=20")

    status, out, _ = rehearse(*words)
    assert status == 0 and "complete already" in out and "missing" not in out
    assert len(mirror.asked) == 3


@pytest.mark.slow
def test_from_nothing_on_celeba_and_its_quota(mirror, rehearse, tmp_path):
    """Google Drive's quota page, then its file: a list whose last part is the average."""
    address = "drive.google.com/file/d/1R_H-fJYXSH79wfSKs9D-fuKQVan5L-GR"
    mirror.files[address] = QUOTA
    words = ["dataset=celeba", "fetch=only"]
    status, _, err = rehearse(*words)
    assert status == 1 and "quota or login page" in err and "ddim_celeba_authors" in err
    state = {f"module.{key}": value for key, value in ours("ddim_celeba").items()}
    mirror.files[address] = saved([state, {}, 0, 0, state])
    status, out, err = rehearse(*words)
    assert status == 0, err
    assert "reference of celeba" in out and out.endswith("everything is here\n")
    asked = len(mirror.asked)
    status, out, _ = rehearse(*words)
    assert status == 0 and "missing" not in out and len(mirror.asked) == asked


@pytest.mark.slow
def test_from_nothing_on_lsun_church(mirror, rehearse, tmp_path):
    zipped = church_zip(tmp_path)
    mirror.files["dl.yf.io/lsun/scenes/church_outdoor_train_lmdb.zip"] = zipped
    name = "google/ddpm-ema-church-256/resolve/main/diffusion_pytorch_model.bin"
    words = ["dataset=lsun_church", "model=ddpm_lsun_church_hub", "fetch=only"]
    from references.families import diffusers_unet

    torch.manual_seed(0)
    unet = diffusers_unet(ARCHITECTURES["ddpm_lsun_church"])
    mirror.files[f"huggingface.co/{name}"] = saved(unet.state_dict())
    status, out, err = rehearse(*words)
    assert status == 0, err
    assert (tmp_path / "home" / "references" / "lsun_church_inception.npz").exists()


@pytest.mark.slow
def test_a_folder_of_diffusers_from_the_hub(mirror, rehearse):
    """The folder of a pipeline, sharded or not, by hf://OWNER/NAME."""
    from references.families import DDPM, diffusers_unet

    torch.manual_seed(0)
    state = diffusers_unet(ARCHITECTURES["ddpm_cifar10"]).state_dict()
    base = "huggingface.co/somebody/model/resolve/main/unet/diffusion_pytorch_model.safetensors"
    mirror.files[base] = safetensors.torch.save(state)
    words = ["dataset=cifar10", "model.checkpoint=hf://somebody/model", "fid=off", "steps=1"]
    words += ["model.architecture=ddpm_cifar10", "samples=1"]
    status, out, err = rehearse(*words)
    assert status == 0, err
    assert DDPM and "record: " in out
    asked = mirror.asked.count(base)
    assert rehearse(*words)[0] == 0 and asked == mirror.asked.count(base) == 1


@pytest.mark.slow
def test_a_sweep_fetches_each_file_once_and_first(mirror, rehearse):
    mirror.files[OPENAI] = openai_weights()
    mirror.files[HEIBOX] = saved(ours("ddpm_cifar10"))
    words = ["-m", "dataset=cifar10", "schedule=linear,cosine", "steps=1,2", "samples=1"]
    status, out, err = rehearse(*words, "fid=off")
    assert status == 0, err
    assert sorted(mirror.asked) == sorted([OPENAI, HEIBOX])
    assert out.count("\nrecord: ") == 5  # the last one again, as the last line
    assert out.index("to download: 353.0 MB") < out.index("\nrecord: ")


@pytest.mark.slow
def test_weights_of_another_network_in_the_right_place(mirror, rehearse, tmp_path):
    place = tmp_path / "home" / "weights" / "openai" / "cifar10_uncond_50M_500K.pt"
    place.parent.mkdir(parents=True)
    place.write_bytes(saved({"a": torch.zeros(3)}))
    status, _, err = rehearse("dataset=cifar10", "schedule=cosine", "fid=off", "samples=1")
    assert status == 1 and str(place) in err and err.count("\n") == 1
