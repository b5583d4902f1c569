"""Paths of weights: files, diffusers folders and archives, sharded files, the hub.

Does not import torch, so that configurations are validated without delay.
"""

import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pndm._download import CONNECT, NotThere, Remote, Unavailable, download, mirror
from pndm._errors import InputError, file_errors, one_line
from pndm._files import cache_dir, expand_user, read_json, sha256
from pndm.models.cards import STEM
from pndm.models.registry import HUB, WEIGHTS, CheckpointError, find

INDEX = ".index"
"""The part of a file name that marks an index of sharded weights."""

OFFLINE = "PNDM_OFFLINE"
"""Set, by `fetch=off`, where nothing may be downloaded."""

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""OWNER/NAME of a repository on the hub."""

PART = re.compile(r"-\d{5}-of-\d{5}\.")
"""The part of a file name that marks one shard of weights."""


def members(ema: bool = True) -> list[str]:
    """The possible paths of weights in a diffusers folder, in order of preference.

    Full precision before half. Training scripts save the average in `unet_ema`, publishers the
    last weights as the variant `non_ema`.
    """
    folders = ("", "unet_ema/", "unet/") if ema else ("", "unet/")
    variants = (".ema", "", ".fp32", ".fp16", ".bf16")
    if not ema:
        variants = (".non_ema", "", ".fp32", ".fp16", ".bf16")
    names = []
    for variant in variants:
        for suffix in (".safetensors", ".bin"):
            names += [
                f"{STEM}{variant}{suffix}",
                f"{STEM}{variant}{suffix}{INDEX}.json",
                f"{STEM}{suffix}{INDEX}{variant}.json",
            ]
    return list(dict.fromkeys(folder + name for folder in folders for name in names))


def locate(weights: str, ema: bool = True) -> Path:
    """Resolve a path or hub address to a file: weights, or an index of their parts."""
    if weights.startswith(HUB):
        return _from_hub(weights.removeprefix(HUB), ema)
    path = expand_user(weights)
    with file_errors():
        if path.is_dir():
            for member in members(ema):
                if (path / member).is_file():
                    return path / member
            raise CheckpointError(f"{path} is a folder without {wanted()}{_others(path)}")
        is_file = path.is_file()
    if not is_file:
        if not path.suffix and path.name == weights:
            find(weights)
        raise CheckpointError(f"there is no file {path}")
    if PART.search(path.name):
        raise CheckpointError(f"{path} is one part of weights: load its folder {path.parent}")
    return path


def wanted() -> str:
    """The two preferred file names, for messages."""
    return " or ".join(f"{STEM}{suffix}" for suffix in (".safetensors", ".bin"))


def name_of(weights: str, path: Path) -> str:
    """The name of weights without a card: their folder or repository, else their file."""
    if weights.startswith(HUB):
        return weights.rpartition("/")[2]
    folder = expand_user(weights)
    return folder.resolve().name if folder.is_dir() else path.stem


def parts(path: Path) -> list[Path]:
    """The files of some weights: one, or those listed by an index; CheckpointError if missing."""
    if not is_index(path):
        return [path]
    files = [path.with_name(name) for name in _listed(path)]
    with file_errors():
        missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise CheckpointError(
            f"{path} lists {len(files)} parts, of which {len(missing)} are missing "
            f"({', '.join(missing[:3])}): get them too"
        )
    return files


def is_index(path: Path) -> bool:
    """Whether a file is an index of sharded weights."""
    return path.suffix == ".json" and INDEX in path.name


def weights_sha256(path: Path) -> str:
    """The SHA-256 of a weights file; for an index, of the concatenated hashes of its files."""
    if not is_index(path):
        return sha256(path)
    return hashlib.sha256("".join(map(sha256, parts(path))).encode()).hexdigest()


def member_of(names: Collection[str], ema: bool) -> str | None:
    """The preferred weights file among an archive's names; None if there is none."""
    for member in sorted(members(ema), key=lambda member: "/" not in member):  # bare names last
        for name in names:
            is_average = "/unet_ema/" in f"/{name}"
            if INDEX in member or (is_average and not ema):
                continue
            if f"/{name}".endswith(f"/{member}"):
                return name
    return None


def _others(path: Path) -> str:
    """Other files in a folder that may be weights, for messages."""
    kinds = {".safetensors", ".bin", ".ckpt", ".pt", ".pth"}
    files = sorted(file.name for file in path.iterdir() if file.suffix in kinds)
    return f": name one of its files ({', '.join(files[:4])})" if files else ""


def _from_hub(repository: str, ema: bool) -> Path:
    if not REPOSITORY.fullmatch(repository):
        raise CheckpointError(f"{HUB}{repository}: weights on the hub are {HUB}OWNER/NAME")
    for entry in WEIGHTS.values():
        if ema and entry.ema is False and f"/{repository}/" in entry.url:
            raise CheckpointError(f"{repository} holds no average: ask for {entry.name} by name")
    if mirror() is not None:
        return _from_mirror(repository, ema)
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise CheckpointError(f'{HUB} needs pip install "pndm[hub]"') from None
    cached_only, first = not _answers(), None
    for member in published(ema):
        try:
            path = Path(hf_hub_download(repository, member, local_files_only=cached_only))
            for name in _listed(path):
                hf_hub_download(repository, member.replace(path.name, name))
            return path
        except errors.LocalEntryNotFoundError:  # no network: another may be in the cache
            cached_only, first = True, first or member
        except errors.EntryNotFoundError:
            continue
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else one_line(error)
            raise CheckpointError(f"{HUB}{repository} is not available: {reason}") from None
    if first is not None:
        raise CheckpointError(
            f"cannot reach the hub for {repository}, and it is not in its cache: "
            f"get {first} of https://huggingface.co/{repository} and load that file"
        )
    raise CheckpointError(f"{HUB}{repository} holds no {wanted()}")


def published(ema: bool) -> list[str]:
    """The possible paths of weights on the hub: of publishers, not of training scripts."""
    others = (".ema.", "32.", "bf16.")  # each costs a request
    return [
        member
        for member in members(ema)
        if not (member.startswith("unet_ema/") or any(part in member for part in others))
    ]


def _answers() -> bool:
    """Whether the hub answers soon; its own library would ask it five times."""
    import requests
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(constants.ENDPOINT, timeout=CONNECT)
    except requests.RequestException:
        return False
    return True


def _from_mirror(repository: str, ema: bool) -> Path:
    """The weights of a repository as PNDM_MIRROR has them."""

    def get(member: str) -> Path:
        address = f"https://huggingface.co/{repository}/resolve/main/{member}"
        path = cache_dir() / "hub" / repository / member
        if OFFLINE in os.environ and not path.exists():
            raise Unavailable(f"fetch=off, and there is no {path}")
        return download(Remote(repository, address, path))

    first: Unavailable | None = None
    for member in published(ema):
        try:
            path = get(member)
            for name in _listed(path):
                get(member.replace(path.name, name))
            return path
        except NotThere:
            continue
        except Unavailable as error:  # another may be here
            first = first or error
        except InputError as error:
            raise CheckpointError(one_line(error)) from None
    raise CheckpointError(one_line(first) if first else f"{HUB}{repository} holds no {wanted()}")


def _listed(path: Path) -> list[str]:
    """The parts that an index lists, whether they exist or not; CheckpointError if it is none."""
    if not is_index(path):
        return []
    places = (read_json(path) or {}).get("weight_map")
    names: list[Any] = list(places.values()) if isinstance(places, dict) else [places]
    if not all(isinstance(name, str) and "" != name == Path(name).name for name in names):
        raise CheckpointError(f"{path} is not an index of weights: get it again")
    return sorted(set(names))
