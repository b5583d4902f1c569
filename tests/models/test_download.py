"""Downloads from a local server, which can also disconnect, misreport and be unavailable."""

import hashlib
import io
import json
import re
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch

import pndm
from pndm._files import cache_dir
from pndm.models import __main__ as cli
from pndm.models import registry
from pndm.models.architectures import ARCHITECTURES
from pndm.models.download import fetch
from pndm.models.registry import WEIGHTS, CheckpointError
from pndm.models.unet import UNet


def checkpoint() -> bytes:
    """A raw state_dict of the digits network, about 1.3 MB."""
    torch.manual_seed(0)
    file = io.BytesIO()
    torch.save(UNet(ARCHITECTURES["digits_linear"]).state_dict(), file)
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Serve `server.content`, from the requested byte, with the behaviour set on `server`."""

    def do_GET(self):
        server, content = self.server, self.server.content
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and server.ranges else 0
        server.starts.append(start)
        if server.status != 200:
            return self.send_error(server.status)
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + server.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.starts = checkpoint(), []
        server.status, server.limit, server.ranges, server.length = 200, 1 << 30, True, True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def weights(server, monkeypatch, tmp_path):
    """An entry of the registry whose file the server has."""
    monkeypatch.setenv("PNDM_HOME", str(tmp_path))
    entry = replace(
        WEIGHTS["ddpm_cifar10"],
        name="small",
        architecture="digits_linear",
        url=f"http://127.0.0.1:{server.server_port}/model.ckpt?dl=1",
        file="somebody/model.ckpt",
        md5=hashlib.md5(server.content).hexdigest(),
    )
    monkeypatch.setitem(registry.WEIGHTS, "small", entry)
    return entry


def refused(weights, match: str) -> str:
    with pytest.raises(CheckpointError, match=match) as caught:
        fetch(weights, progress=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leftovers(weights) -> list[str]:
    """Every file in the cache."""
    result = (path for path in cache_dir().rglob("*") if path.is_file())
    return sorted(path.name for path in result if path.suffix != ".lock")


def test_fetch_and_load(server, weights):
    path = fetch(weights, progress=False)
    assert path == weights.path and path.read_bytes() == server.content
    assert leftovers(weights) == ["model.ckpt"]
    unet = pndm.models.load("small")
    assert unet.provenance["name"] == "small" and unet.provenance["ema"] is True
    fetch(weights, progress=False)
    assert server.starts == [0]  # what is there is not fetched again


def test_two_that_fetch_at_once_share_one_download(server, weights):
    threads = [threading.Thread(target=fetch, args=(weights, False)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert weights.path.read_bytes() == server.content
    assert server.starts == [0]


def test_a_download_that_broke_off_goes_on(server, weights):
    server.limit = 500_000
    refused(weights, "broke off after 500000 of .* fetch small again")
    assert leftovers(weights) == [".model.ckpt.partial"] and not weights.present
    refused(weights, "broke off after 1000000 of")
    server.limit = 1 << 30
    assert fetch(weights, progress=False).read_bytes() == server.content
    assert server.starts == [0, 500_000, 1_000_000]
    assert leftovers(weights) == ["model.ckpt"]


def test_a_server_without_ranges_starts_again(server, weights):
    server.limit = 500_000
    refused(weights, "broke off")
    server.limit, server.ranges = 1 << 30, False
    assert fetch(weights, progress=False).read_bytes() == server.content
    assert server.starts == [0, 0]


@pytest.mark.parametrize("surplus", [b"", b"more"])
def test_a_partial_file_that_is_whole_or_too_long(server, weights, surplus):
    partial = weights.path.with_name(".model.ckpt.partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(server.content + surplus)
    assert fetch(weights, progress=False).read_bytes() == server.content


def test_a_server_that_tells_no_length(server, weights):
    server.length = False
    assert fetch(weights, progress=False).read_bytes() == server.content


def test_a_web_page_with_status_200(server, weights):
    whole, server.limit = server.content, 500_000
    refused(weights, "broke off")
    server.content, server.ranges = b"<!DOCTYPE html><title>Quota exceeded</title>", False
    assert weights.url in refused(weights, "web page, not weights")
    assert leftovers(weights) == [".model.ckpt.partial"]  # half a download is not lost to it
    server.content, server.ranges, server.limit = whole, True, 1 << 30
    assert fetch(weights, progress=False).read_bytes() == whole


def test_a_web_page_leaves_nothing(server, weights):
    server.content = b"<html>" + b" " * 1000
    refused(weights, "web page")
    assert leftovers(weights) == []


def test_a_wrong_hash_leaves_nothing(server, weights):
    server.content = server.content[:-1] + b"!"
    assert weights.md5 in refused(weights, "MD5 is")
    assert leftovers(weights) == []


def test_a_damaged_file_in_the_cache(server, weights):
    weights.path.parent.mkdir(parents=True)
    weights.path.write_bytes(server.content[:-5])
    assert str(weights.path) in refused(weights, "delete it and run .* fetch small")


def test_an_error_of_the_server(server, weights):
    server.status = 404
    assert str(weights.path) in refused(weights, "answers 404: get http.* with a browser")


def test_offline(weights):
    away = replace(weights, url="https://heibox.uni-heidelberg.de/f/2e4f01e2d9ee49bab1d5/?dl=1")
    message = refused(away, "cannot fetch")
    assert away.url in message and str(away.path) in message
    assert leftovers(away) == []


class Drive:
    """A stub of `gdown` with one folder."""

    def __init__(self, content: bytes) -> None:
        self.content, self.asked = content, []

    def download_folder(self, url, skip_download, quiet):
        assert skip_download and quiet
        names = ("celeba/other.ckpt", "cifar10/model.ckpt")
        return [SimpleNamespace(path=name, id=f"id of {name}") for name in names]

    def download(self, id, output, quiet, resume, timeout):
        self.asked.append(id)
        with open(output, "wb") as file:
            file.write(self.content)


DRIVE = "https://drive.google.com"


def test_google_drive(server, weights, monkeypatch):
    drive = Drive(server.content)
    monkeypatch.setitem(sys.modules, "gdown", drive)
    fetch(replace(weights, url=f"{DRIVE}/file/d/KEY"), progress=False)
    weights.path.unlink()
    folder = replace(weights, url=f"{DRIVE}/drive/folders/KEY")
    fetch(folder, progress=False)
    assert drive.asked == ["KEY", "id of cifar10/model.ckpt"]
    weights.path.unlink()
    refused(replace(folder, file="somebody/absent.ckpt"), "lists no absent.ckpt: get")
    drive.content = b"<!DOCTYPE html>Quota"
    refused(folder, "web page")
    assert leftovers(weights) == []
    monkeypatch.setattr(drive, "download", lambda **_: 1 / 0)
    refused(folder, "cannot fetch .*division by zero")


def test_the_command_line(server, weights, capsys, tmp_path):
    assert cli.main(["fetch", "small"]) == 0
    assert capsys.readouterr().out.strip() == str(weights.path)
    assert cli.main(["convert", "small", "--output", str(tmp_path / "new")]) == 0
    written = tmp_path / "new" / "small.safetensors"
    assert capsys.readouterr().out.strip() == str(written)
    unet, again = pndm.models.load("small"), pndm.models.load(written)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1.5, 700.0])
    assert torch.equal(unet(x, t), again(x, t))
    card = json.loads(written.with_suffix(".json").read_text())
    assert card["sha256"] == hashlib.sha256(written.read_bytes()).hexdigest()
    assert card["architecture"] == "digits_linear" and card["ema"] is True
    assert cli.main(["list"]) == 0
    capsys.readouterr()
    for command in (["fetch", "smal"], ["convert", str(tmp_path / "absent.ckpt")]):
        assert cli.main(command) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
