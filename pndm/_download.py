"""Downloads: verified, resumed, whole or not there, one for all processes that ask at once.

Every publisher is reached from here. Where PNDM_MIRROR=URL is set, `URL/<host>/<path>` is asked in
the place of `https://<host>/<path>`; it may be a folder, `file:///…`. The usual proxy variables
(HTTPS_PROXY, NO_PROXY, …) are those of `requests`.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tqdm import tqdm

from pndm._errors import FileError, InputError, file_errors, one_line
from pndm._files import cache_dir, file_lock, make_folder, sha256, write_atomic

CONNECT, READ = 8, 60
"""Seconds until a server has to answer, and between two of its bytes."""

CHUNK = 1 << 18
DRIVE = "https://drive.google.com/"
MIRROR = "PNDM_MIRROR"


class DownloadError(InputError):
    """A publisher answers with another file, or with none; the message says what to do."""


class Unavailable(DownloadError):
    """A publisher does not answer with a file: no network, an error, a quota page."""


class NotThere(Unavailable):
    """A server that answers has no such file."""


def refuse_web_page(head: bytes, name: str) -> None:
    """DownloadError for the first bytes of a web page, which hosts send with status 200."""
    if not head:
        raise Unavailable(f"{name} is empty: get it again")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise Unavailable(
            f"{name} is a web page, not a file (a quota or login page of the host?): "
            "try later, or get the file with a browser"
        )


@dataclass(frozen=True)
class Remote:
    """A file of a publisher, and its place on this machine.

    `checksum` is "md5:…" or "sha256:…" as published, `size` its bytes, where they are known;
    `size` is exact only where `checksum` is known too. `accept` gets the first bytes and a name,
    and raises where they begin another kind of file. `again` is the command that fetches the file,
    `others` says where else the same content is.
    """

    name: str
    url: str
    path: Path
    size: int | None = None
    checksum: str | None = None
    accept: Callable[[bytes, str], object] = refuse_web_page
    again: str = "the same command"
    others: str = ""

    @property
    def page(self) -> str:
        """The address for a manual download."""
        return f"{self.path.name} from {self.url}" if "/folders/" in self.url else self.url

    @property
    def by_hand(self) -> str:
        """Instructions for a manual download."""
        later = f"; {self.again} tries again" if self.again.startswith("python") else ""
        return f"get {self.page} with a browser and put it at {self.path}{self.others}{later}"


def download(remote: Remote, progress: bool = True) -> Path:
    """Return the path of a file, downloaded if it is missing; an existing file is verified.

    The download goes to a hidden file next to the target, which the next call continues if it is
    interrupted; it is renamed when its first bytes, its size and its checksum are right. Of two
    processes that ask for the same file at once the second waits for the first. DownloadError
    with the address and the path; FileError where the disk is full or not writable.
    """
    path = remote.path
    place = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:8]
    with file_lock(cache_dir() / "locks" / f"{path.name}-{place}", wait=True):
        if path.is_file():
            verify(remote, path)
        else:
            _download_missing(remote, progress)
    return path


def verify(remote: Remote, path: Path) -> None:
    """DownloadError where an existing file is not the published one, or has changed since."""
    cure = f"delete it and run {remote.again} to fetch it again"
    with path.open("rb") as file:
        head = file.read(64)
    try:
        remote.accept(head, str(path))
    except InputError as error:
        raise DownloadError(f"{one_line(error)}; {cure}") from None
    known = remote.checksum or _noted(path)
    if known is not None and (actual := _checksum(path, known)) != known:
        raise DownloadError(f"{path} is not {remote.name}: {_unlike(actual, known)}; {cure}")


def _download_missing(remote: Remote, progress: bool) -> None:
    path = remote.path
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.partial")
    _require_space(remote, partial)
    try:
        with file_errors():
            _receive_any(remote, partial, progress)
    except FileError:  # no half file on a disk that is full
        partial.unlink(missing_ok=True)
        raise
    with partial.open("rb") as file:
        head = file.read(64)
        os.fsync(file.fileno())
    try:
        _accept(remote, head)
        known = remote.checksum
        if known is not None and (actual := _checksum(partial, known)) != known:
            raise DownloadError(
                f"{remote.page} is not {remote.name}: {_unlike(actual, known)}: {remote.by_hand}"
            )
    except InputError:
        partial.unlink()
        raise
    if remote.checksum is None:
        noted = f"sha256:{sha256(partial)}\n"
        write_atomic(_note(path), lambda file: file.write_text(noted))
    os.replace(partial, path)


def _accept(remote: Remote, head: bytes) -> None:
    """DownloadError for first bytes of another kind of file, with the way by hand."""
    try:
        remote.accept(head, remote.page)
    except InputError as error:
        kind = Unavailable if isinstance(error, Unavailable) else DownloadError
        where = f"it goes to {remote.path}{remote.others}"
        raise kind(f"{one_line(error)}; {where}") from None


def _require_space(remote: Remote, partial: Path) -> None:
    """FileError where the file is larger than the free space."""
    there = partial.stat().st_size if partial.exists() else 0
    free = shutil.disk_usage(partial.parent).free
    if remote.size is not None and remote.size - there > free:
        raise FileError(
            f"{remote.name} takes {remote.size / 1e6:,.0f} MB, and {partial.parent} has "
            f"{free / 1e6:,.0f} MB left: make room, or set PNDM_HOME to another disk"
        )


# Checksums


def _note(path: Path) -> Path:
    """The file that keeps the checksum of a download that has no published one."""
    return path.with_name(f".{path.name}.sha256")


def _noted(path: Path) -> str | None:
    note = _note(path)
    return note.read_text().strip() if note.is_file() else None


def _checksum(path: Path, known: str) -> str:
    """The checksum of a file, of the same kind as a known one."""
    kind = known.partition(":")[0]
    if kind == "sha256":
        return f"sha256:{sha256(path)}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False))
    return f"{kind}:{digest.hexdigest()}"


def _unlike(actual: str, known: str) -> str:
    kind = {"md5": "MD5", "sha256": "SHA-256"}[known.partition(":")[0]]
    return f"its {kind} is {actual.partition(':')[2]}, not {known.partition(':')[2]}"


# Publishers


def mirror() -> str | None:
    """The address in PNDM_MIRROR without its last slash; InputError if it is none."""
    url = os.environ.get(MIRROR, "")
    parts = urlsplit(url)
    where = parts.path if parts.scheme == "file" else parts.hostname
    if url and (parts.scheme not in ("http", "https", "file") or not where):
        raise InputError(f"{MIRROR}={url} is no address: give https://HOST/PATH or file:///FOLDER")
    return url.rstrip("/") or None


def mirrored(url: str) -> str:
    """The address to ask in the place of a publisher's."""
    base = mirror()
    return f"{base}/{url.partition('://')[2]}" if base else url


def _receive_any(remote: Remote, partial: Path, progress: bool) -> None:
    """Fetch from the first address that has the file."""
    if remote.url.startswith(DRIVE) and mirror() is None:
        return _from_drive(remote, partial, progress)
    first: Unavailable | None = None
    for url in map(mirrored, _addresses(remote)):
        receive = _from_folder if url.startswith("file:") else _from_web
        try:
            return receive(url, remote, partial, progress)
        except NotThere as error:
            first = first or error
    raise first or Unavailable(f"{remote.url} is no address")


def _addresses(remote: Remote) -> Iterator[str]:
    """The publisher's addresses of a file; on Google Drive, which a mirror may copy, several."""
    if not remote.url.startswith(DRIVE):
        yield remote.url
    elif "/folders/" in remote.url:
        yield f"{remote.url}/{remote.path.name}"
    else:
        key = remote.url.rpartition("/")[2]
        yield remote.url
        yield f"{DRIVE}uc?id={key}"
        yield f"{DRIVE}uc?export=download&id={key}"
        yield f"https://drive.usercontent.google.com/download?id={key}&export=download&confirm=t"


def _from_web(url: str, remote: Remote, partial: Path, progress: bool) -> None:
    """Download over HTTP, appending to `partial`."""
    import requests
    import urllib3

    offset = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "pndm", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={offset}-"} if offset else {}
    total = None
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT, READ)) as answer:
            if answer.status_code == 416 and offset:  # no more bytes: complete, or another file
                if answer.headers.get("Content-Range") == f"bytes */{offset}":
                    return
                partial.unlink()
                return _from_web(url, remote, partial, progress)
            if not answer.ok:
                kind = NotThere if answer.status_code in (404, 410) else Unavailable
                raise kind(f"{url} answers {answer.status_code}: {remote.by_hand}")
            total = _total(answer)
            _append(answer, remote, partial, total, progress)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        if total is None or not partial.exists():
            reason = one_line(getattr(error.args[0], "reason", error) if error.args else error)
            reason = reason.rpartition("): ")[2]  # without the connection's own name
            raise Unavailable(f"cannot fetch {url} ({reason}): {remote.by_hand}") from None
    size = partial.stat().st_size
    if total is not None and size > total:
        partial.unlink()
    if total is not None and size != total:
        raise Unavailable(
            f"{url} broke off after {size} of {total} bytes: run {remote.again} again to resume"
        )


def _total(answer: Any) -> int | None:
    """The size of the whole file, if the server says it."""
    rest = answer.headers.get("Content-Length")
    return None if rest is None else _start(answer) + int(rest)


def _start(answer: Any) -> int:
    """The first byte of the file that the server sends."""
    part = answer.headers.get("Content-Range", "").removeprefix("bytes ")
    return int(part.partition("-")[0]) if answer.status_code == 206 else 0


def _append(answer: Any, remote: Remote, partial: Path, total: int | None, progress: bool) -> None:
    """Append a server's answer to `partial`, or begin it anew."""
    start = _start(answer)
    answer.raw.enforce_content_length = False  # else the last bytes before a break are lost
    chunk = answer.raw.read(CHUNK)
    if not start:  # before a web page overwrites half a download
        _accept(remote, chunk[:64])
    with (
        partial.open("ab" if start else "wb") as file,
        _bar(remote, total, start, progress) as bar,
    ):
        while chunk:
            bar.update(file.write(chunk))
            chunk = answer.raw.read(CHUNK)


def _bar(remote: Remote, total: int | None, start: int, progress: bool) -> tqdm:
    settings: dict[str, Any] = {"unit": "B", "unit_scale": True, "disable": not progress}
    return tqdm(desc=remote.name, total=total, initial=start, **settings)


def _from_folder(url: str, remote: Remote, partial: Path, progress: bool) -> None:
    """Copy from a folder that mirrors the publishers."""
    source = Path(url2pathname(urlsplit(url).path))
    if source.is_dir():  # an address that ends in a slash
        files = [path for path in source.iterdir() if path.is_file()]
        source = files[0] if len(files) == 1 else source / "missing"
    if not source.is_file():
        raise NotThere(f"{MIRROR} has no {urlsplit(url).path}: {remote.by_hand}")
    with (
        source.open("rb") as file,
        partial.open("wb") as copy,
        _bar(remote, source.stat().st_size, 0, progress) as bar,
    ):
        while chunk := file.read(CHUNK):
            bar.update(copy.write(chunk))


def _from_drive(remote: Remote, partial: Path, progress: bool) -> None:
    """Download from Google Drive with `gdown`, which handles its confirmation pages."""
    gdown = import_module("gdown")
    try:
        key = _file_id(gdown, remote)
        partial.unlink(missing_ok=True)  # gdown takes what is there for whole; its parts are apart
        settings = {"quiet": not progress, "resume": True, "timeout": (CONNECT, READ)}
        gdown.download(id=key, output=str(partial), **settings)
    except DownloadError:
        raise
    except Exception as error:  # gdown raises its own errors and those of what it builds on
        reason = one_line(error)[:200]
        raise Unavailable(f"cannot fetch {remote.url} ({reason}): {remote.by_hand}") from None
    if not partial.exists():
        raise Unavailable(f"{remote.url} sent nothing: {remote.by_hand}")


def _file_id(gdown: Any, remote: Remote) -> str:
    """The Drive ID of a file, looked up in the folder listing if the address is a folder."""
    if "/folders/" not in remote.url:
        return remote.url.rpartition("/")[2]
    listing = gdown.download_folder(url=remote.url, skip_download=True, quiet=True) or []
    for entry in listing:
        if Path(entry.path).name == remote.path.name:
            return entry.id
    raise Unavailable(f"{remote.url} lists no {remote.path.name}: {remote.by_hand}")
