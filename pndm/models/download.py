"""Fetching registered weights."""

from pathlib import Path
from urllib.parse import urlsplit

from pndm._download import Remote, download
from pndm._errors import InputError, one_line
from pndm._files import read_bytes
from pndm.models import files
from pndm.models.registry import WEIGHTS, CheckpointError, Weights


def fetch(weights: Weights, progress: bool = True) -> Path:
    """Return the path of the weights, downloaded if missing; an existing file is verified.

    CheckpointError with the address and the path if they cannot be had (see
    `pndm._download.download`).
    """
    if not weights.url:
        files.verify(read_bytes(weights.require()), weights, str(weights.path))
        return weights.path
    try:
        return download(remote(weights), progress)
    except InputError as error:
        raise CheckpointError(one_line(error)) from None


def remote(weights: Weights) -> Remote:
    """The publisher's file of some weights."""
    return Remote(
        weights.name,
        weights.url,
        weights.path,
        size=None if weights.megabytes is None else weights.megabytes * 10**6,
        checksum=None if weights.md5 is None else f"md5:{weights.md5}",
        accept=files.detect_file_type,
        again=f"python -m pndm.models fetch {weights.name}",
        others="".join(f", or use model={w.name} ({host(w)})" for w in equivalents(weights)),
    )


def equivalents(weights: Weights) -> list[Weights]:
    """Weights of the same training elsewhere: network, data, schedule, averaged or not."""

    def training(w: Weights) -> tuple[object, ...]:
        return w.architecture, w.dataset, w.schedule, w.timesteps, w.ema is False

    return [
        other
        for other in WEIGHTS.values()
        if other.url not in ("", weights.url) and training(other) == training(weights)
    ]


def host(weights: Weights) -> str:
    """The publisher's host."""
    return urlsplit(weights.url).netloc
