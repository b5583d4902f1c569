"""Loading weights: from any of the public files into the one U-Net, strictly or not at all.

A file is recognised by its content. Pickles are read with `weights_only=True` and in no other
way: what needs more than tensors to be read is refused.
"""

import io
import json
import pickle
import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pndm._files import make_folder, read_bytes, sha256, write_atomic, write_json
from pndm.models import files, key_maps
from pndm.models.architectures import ARCHITECTURES, Architecture
from pndm.models.registry import HUB, WEIGHTS, CheckpointError, Format, find
from pndm.models.unet import UNet

State = dict[str, Tensor]

MEMBERS = tuple(
    folder + file
    for folder in ("", "unet/")
    for file in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
)
"""Where the weights lie in a folder of diffusers, the preferred places first."""


class Checkpoint(NamedTuple):
    """A state_dict under its own names, whose file it was in, and whether it is an average."""

    state: State
    format: Format
    ema: bool | None


def load(
    weights: str | Path,
    architecture: str | Architecture | None = None,
    format: str = "auto",
    ema: bool = True,
) -> UNet:
    """The network with these weights, in eval mode: (x [B, C, H, W], t [B]) -> e [B, C, H, W].

    `weights` is a name in the registry, a file, a folder of diffusers, or `hf://OWNER/NAME` on
    the Hugging Face hub. Files do not tell their hyper-parameters, so all but registered ones
    and those with a card beside them need an `architecture`, by name or value. A stated
    `format` is checked. Where a file holds the last weights beside their moving average,
    `ema=False` asks for those. The network's `provenance` is a dict for the record of a run.
    CheckpointError, in one line, if anything is wrong.
    """
    entry = WEIGHTS.get(str(weights))
    path = entry.require() if entry else locate(str(weights))
    about, content = card(path), read_bytes(path)
    if about.get("sha256", sha256(path)) != sha256(path):
        raise CheckpointError(f"{path} is not the file that its card describes: get both again")
    if entry:
        cure = f"; delete it and run python -m pndm.models fetch {entry.name}"
        files.verify(content, entry, str(path), cure)
        about = {"name": entry.name, "architecture": entry.architecture, "ema": entry.ema}
        format = entry.format if format == "auto" else format
    elif ema:
        refuse_last_weights(content, path)
    checkpoint = parse(content, str(path), ema)
    if format not in ("auto", checkpoint.format):
        raise CheckpointError(f"{path} is of the format {checkpoint.format}, not {format}")
    architecture = architecture or about.get("architecture")
    named = architecture if isinstance(architecture, str) else None
    arch = _architecture(architecture, path)
    check_settings(path, arch)
    unet = fit(checkpoint.state, arch, f"{path} as {named or 'the architecture given'}")
    unet.provenance = {
        "name": about.get("name", path.stem),
        "architecture": named,
        "format": checkpoint.format,
        "ema": about.get("ema") if checkpoint.ema is None else checkpoint.ema,
        "file": path.name,
        "sha256": sha256(path),
    }
    return unet.eval().requires_grad_(False)


def save(unet: UNet, path: Path) -> None:
    """Write the weights under our names as safetensors, and beside them a card with a hash."""
    make_folder(path.parent)
    state = {name: tensor.contiguous() for name, tensor in unet.state_dict().items()}
    write_atomic(path, lambda partial: safetensors.torch.save_file(state, partial))
    source = dict(unet.provenance)
    about = {
        "name": path.stem,
        "architecture": source.pop("architecture"),
        "ema": source.pop("ema"),
        "sha256": sha256(path),
        "source": source,
    }
    write_json(path.with_suffix(".json"), about)


def locate(weights: str) -> Path:
    """The file that a path or an address on the hub means."""
    if weights.startswith(HUB):
        return _from_hub(weights.removeprefix(HUB))
    path = Path(weights).expanduser()
    if path.is_dir():
        for member in MEMBERS:
            if (path / member).is_file():
                return path / member
        raise CheckpointError(f"{path} is a folder without {' or '.join(MEMBERS[:2])}")
    if not path.is_file():
        if not path.suffix and path.name == weights:
            find(weights)
        raise CheckpointError(f"there is no file {path}")
    return path


def card(path: Path) -> dict[str, Any]:
    """The card beside a file, as `save` and training write it; empty where there is none."""
    beside = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not beside.is_file():
        return {}
    try:
        about = json.loads(beside.read_text())
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise CheckpointError(f"{beside} is no card of weights: mend or remove it")
    if about.get("ema") is not None:
        about["ema"] = bool(about["ema"])  # training writes the rate of the average
    return about


def refuse_last_weights(content: bytes, path: Path) -> None:
    """CheckpointError for a published file without averaging: such are loaded by name only."""
    known = {w.md5: w.name for w in WEIGHTS.values() if w.md5 and w.ema is False}
    name = known.get(files.md5(content))
    if name:
        raise CheckpointError(
            f"{path} holds {name}, weights without averaging, which sample much worse: "
            f"load them by that name, or say ema=False"
        )


def parse(content: bytes, name: str, ema: bool = True) -> Checkpoint:
    """The state_dict in a file of any known format; the averaged one where there are two."""
    kind = files.detect_file_type(content, name)
    try:
        if kind == "zip" and (member := _member(content, name)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                packed = _tensors(archive.read(member), f"{name}:{member}")
        else:
            if kind == "zip":
                _check_sums(content, name)
            packed = _tensors(content, name)
    except (safetensors.SafetensorError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CheckpointError(f"{name} is truncated or damaged ({error}): get it again") from None
    state, packing, average = _unpack(packed, ema, name)
    others = [k for k, v in state.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if not state or others:
        keys = ", ".join(map(str, others[:4])) or "nothing"
        raise CheckpointError(f"{name} holds no state_dict of tensors alone, but {keys}")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    naming = key_maps.detect_format(state) or "ddpm"
    if kind == "safetensors" and naming == "ddpm":
        packing = "pndm"
    return Checkpoint(state, packing or naming, average)


def fit(state: State, arch: Architecture, name: str) -> UNet:
    """The network of an architecture with these weights, all of them and no others."""
    with torch.device("meta"):
        unet = UNet(arch)
    rare = [key for key, tensor in state.items() if not _plain(tensor)]
    if rare:
        raise CheckpointError(
            f"{name} does not fit: {len(rare)} are no dense floating-point tensors ({rare[0]}, …)"
        )
    state, wanted = key_maps.rename_keys(state, unet), unet.state_dict()
    both = [key for key in wanted if key in state]
    faults = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "misshapen": [
            f"{key} {list(state[key].shape)} for {list(wanted[key].shape)}"
            for key in both
            if state[key].shape != wanted[key].shape
        ],
        "not finite": [key for key in both if not state[key].isfinite().all()],
    }
    listed = [
        f"{len(keys)} {fault} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for fault, keys in faults.items()
        if keys
    ]
    if listed:
        raise CheckpointError(f"{name} does not fit: {'; '.join(listed)}")
    state = {key: tensor.float().contiguous() for key, tensor in state.items()}
    unet.load_state_dict(state, assign=True)
    return unet


def _plain(tensor: Tensor) -> bool:
    """Whether it is made of real numbers that are all there: not sparse, quantized or empty."""
    whole = tensor.layout == torch.strided and not tensor.is_meta
    return whole and tensor.is_floating_point()


def check_settings(path: Path, arch: Architecture) -> None:
    """CheckpointError where the config.json of diffusers beside the weights says otherwise.

    It tells what no tensor does: all of these networks have the same shapes.
    """
    beside = path.with_name("config.json")
    if path.name not in {Path(member).name for member in MEMBERS} or not beside.is_file():
        return
    try:
        said = dict(json.loads(beside.read_text()))
    except (TypeError, ValueError):
        raise CheckpointError(f"{beside} is no config of diffusers: mend or remove it") from None
    widths = [arch.channels * m for m in arch.channel_mult]
    wanted: dict[str, tuple[Any, ...]] = {
        "sample_size": (arch.image_size, [arch.image_size] * 2),
        "flip_sin_to_cos": (arch.embedding == "cos-sin",),
        "freq_shift": (int(arch.embedding == "sin-cos"),),
        "norm_eps": (arch.norm_eps,),
        "norm_num_groups": (arch.norm_groups,),
        "attention_head_dim": (None, *(width // arch.heads for width in widths)),
        "center_input_sample": (False,),
    }
    for key, values in wanted.items():
        if said.get(key, values[0]) not in values:
            raise CheckpointError(
                f"{beside} says {key}={said[key]}, the architecture has {values[0]}: take another"
            )


def _check_sums(content: bytes, name: str) -> None:
    """CheckpointError where a member of an archive does not match its CRC-32."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        damaged = archive.testzip()
    if damaged:
        raise CheckpointError(f"{name} is truncated or damaged (in {damaged}): get it again")


def _architecture(architecture: str | Architecture | None, path: Path) -> Architecture:
    if isinstance(architecture, Architecture):
        return architecture
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    wrong = f"there is no architecture {architecture}" if architecture else "say architecture=NAME"
    raise CheckpointError(f"{path}: {wrong}, one of {', '.join(ARCHITECTURES)}")


def _from_hub(repository: str) -> Path:
    for entry in WEIGHTS.values():
        if entry.ema is False and f"/{repository}/" in entry.url:
            raise CheckpointError(f"{repository} holds no average: ask for {entry.name} by name")
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError:
        raise CheckpointError(f'{HUB} needs pip install "pndm[hub]"') from None
    for member in MEMBERS:
        try:
            return Path(hf_hub_download(repository, member))
        except errors.LocalEntryNotFoundError:
            raise CheckpointError(
                f"cannot reach the hub for {repository}, and it is not in its cache: "
                f"get {member} of https://huggingface.co/{repository} and load that file"
            ) from None
        except errors.EntryNotFoundError:
            continue
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{HUB}{repository} cannot be had: {reason}") from None
    raise CheckpointError(f"{HUB}{repository} holds none of {', '.join(MEMBERS)}")


def _member(content: bytes, path: str) -> str | None:
    """The weights in an archive of a diffusers folder; None for what torch.save wrote."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inside = archive.namelist()
    if any(name.endswith("data.pkl") for name in inside):
        return None
    for member in MEMBERS:
        for name in inside:
            if f"/{name}".endswith(f"/{member}"):
                return name
    raise CheckpointError(f"{path} is an archive without {' or '.join(MEMBERS[:2])}")


def _tensors(content: bytes, name: str) -> Any:
    if files.detect_file_type(content, name) == "safetensors":
        return safetensors.torch.load(content)
    return _unpickle(io.BytesIO(content), name)


def _unpickle(file: BinaryIO, name: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # about what then is an error
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        if needed:
            raise CheckpointError(
                f"{name} needs {needed[1]} to be read and was not opened, for such a pickle can "
                "run any code: where you trust it, save its tensors alone as safetensors"
            ) from None
        reason = "it needs more than tensors to be read, or its bytes are not those written"
    except Exception as error:  # torch raises whatever its readers meet in a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise CheckpointError(f"{name} is truncated or damaged ({reason}): get it again") from None


def _unpack(content: Any, ema: bool, path: str) -> tuple[dict, Format | None, bool | None]:
    """The state_dict in what a file holds, what the packing says of its format, and of averages.

    ermongroup: [model, optimizer, epoch, step, average]; score-SDE: {model, ema: {shadow_params:
    [in the order of the model's parameters]}, …}; this package's training: {model, ema, …}.
    """
    packing: Format | None
    average: Any
    match content:
        case [dict() as last, *_, dict() as average]:
            packing = "ermongroup"
        case [dict() as last, *_]:
            packing, average = "ermongroup", None
        case {"model": dict() as last, "ema": {"shadow_params": list() as shadows}}:
            packing = "score_sde"
            keys = [key for key in last if key.removeprefix("module.") != "sigmas"]
            if len(keys) != len(shadows):
                raise CheckpointError(
                    f"{path} holds {len(shadows)} averages for {len(keys)} parameters: damaged?"
                )
            average = dict(zip(keys, shadows, strict=True))
        case {"model": dict() as last}:
            packing, average = None, content.get("ema")
        case dict():
            return content, None, None
        case _:
            raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state_dict")
    if not ema:
        return last, packing, False
    if not isinstance(average, dict):
        raise CheckpointError(
            f"{path} holds no moving average, only last weights: load those with ema=False, or "
            "make a file of them by python -m pndm.models convert FILE --last"
        )
    return average, packing, True
