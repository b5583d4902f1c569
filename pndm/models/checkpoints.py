"""Loading weights: from any public checkpoint format into the one U-Net, strictly.

A file's format is detected from its content. Pickles are only read with `weights_only=True`: a
file that needs more than tensors is rejected.
"""

import io
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

from pndm._files import make_folder, read_bytes, read_json, sha256, write_bytes, write_json
from pndm.models import cards, files, key_maps, locations, packings
from pndm.models.architectures import ARCHITECTURES, Architecture
from pndm.models.registry import WEIGHTS, CheckpointError, Format
from pndm.models.unet import UNet

State = dict[str, Tensor]


class Checkpoint(NamedTuple):
    """A state_dict with its original keys, its format, and whether it is an average."""

    state: State
    format: Format
    ema: bool | None


def load(
    weights: str | Path,
    architecture: str | Architecture | None = None,
    format: str = "auto",
    ema: bool = True,
) -> UNet:
    """Load the network of some weights, in eval mode: (x [B, C, H, W], t [B]) -> e [B, C, H, W].

    `weights` is a name in the registry, a file, a folder of diffusers, or `hf://OWNER/NAME` on
    the Hugging Face hub. Files do not contain their hyper-parameters, so all except registered
    ones and those with a card next to them need an `architecture`, by name or value. A given
    `format` is checked. If a file holds both the last weights and their moving average,
    `ema=False` selects the last weights. The network's `provenance` is a dict for the record of a
    run. CheckpointError, in one line, if anything is wrong.
    """
    entry = WEIGHTS.get(str(weights))
    path = entry.require() if entry else locations.locate(str(weights), ema)
    about, trained_on = cards.read(path), cards.trained_on(path)
    if ema and folder_ema(path) is False:
        raise CheckpointError(
            f"{path} holds last weights, not their average: load the folder or file of that, "
            "whose name says ema, or pass ema=False"
        )
    if locations.is_index(path):
        checkpoint = join(path, ema)
    else:
        content = read_bytes(path)
        if about.get("sha256", sha256(path)) != sha256(path):
            raise CheckpointError(
                f"{path} is not the file that its card describes: get both again"
            )
        if entry:
            cure = f"; delete it and run python -m pndm.models fetch {entry.name}"
            files.verify(content, entry, str(path), cure)
            about = {"name": entry.name, "architecture": entry.architecture, "ema": entry.ema}
            trained_on = {"schedule": entry.schedule, "timesteps": entry.timesteps}
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
        "name": about.get("name") or locations.name_of(str(weights), path),
        "architecture": named,
        "format": checkpoint.format,
        "ema": about.get("ema", folder_ema(path)) if checkpoint.ema is None else checkpoint.ema,
        **trained_on,
        "file": path.name,
        "sha256": locations.weights_sha256(path),
    }
    return unet.eval().requires_grad_(False)


def save(unet: UNet, path: Path) -> None:
    """Write the weights with our keys as safetensors, and a card with a hash next to them."""
    make_folder(path.parent)
    state = {name: tensor.contiguous() for name, tensor in unet.state_dict().items()}
    write_bytes(path, safetensors.torch.save(state))
    source = dict(unet.provenance)
    about = {
        "name": path.stem,
        "architecture": source.pop("architecture"),
        "ema": source.pop("ema"),
        **{key: source.pop(key) for key in cards.TRAINED_ON if key in source},
        "sha256": sha256(path),
        "source": source,
    }
    write_json(path.with_suffix(".json"), about)


def folder_ema(path: Path) -> bool | None:
    """Whether a file of diffusers is a moving average, by its folder or name; None if unknown."""
    if not path.name.startswith(cards.STEM):
        return None
    here = path.parent
    if ".non_ema." in path.name or (here.name == "unet" and (here.parent / "unet_ema").is_dir()):
        return False
    return True if ".ema." in path.name or here.name == "unet_ema" else None


def refuse_last_weights(content: bytes, path: Path) -> None:
    """Raise CheckpointError for a published file without averaging: loaded by name only."""
    known = {w.md5: w.name for w in WEIGHTS.values() if w.md5 and w.ema is False}
    name = known.get(files.md5(content))
    if name:
        raise CheckpointError(
            f"{path} holds {name}, weights without averaging, which sample much worse: "
            f"load them by that name, or pass ema=False"
        )


def parse(content: bytes, name: str, ema: bool = True) -> Checkpoint:
    """Parse the state_dict in a file of any known format; the average if there are two."""
    return _checkpoint(_read(content, name, ema), content, name, ema)


def join(index: Path, ema: bool = True) -> Checkpoint:
    """Join the parts that an index lists into one state_dict."""
    packed: dict[Any, Any] = {}
    for path in locations.parts(index):
        content = read_bytes(path)
        part = _read(content, str(path), ema)
        if not isinstance(part, dict):
            raise CheckpointError(f"{path} holds a {type(part).__name__}, not a state_dict")
        packed |= part
    return _checkpoint(packed, content, str(index), ema)


def _checkpoint(packed: Any, content: bytes, name: str, ema: bool) -> Checkpoint:
    """The state_dict in the unpacked content of a file, all of it tensors."""
    state, packing, average = packings.unpack(packed, ema, name)
    others = [k for k, v in state.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if not state or others:
        keys = ", ".join(map(str, others[:4])) or "nothing"
        raise CheckpointError(f"{name} holds no state_dict of tensors alone, but {keys}")
    detected = key_maps.detect_format(state) or "ddpm"
    if files.detect_file_type(content, name) == "safetensors" and detected == "ddpm":
        packing = "pndm"
    return Checkpoint(state, packing or detected, average)


def _read(content: bytes, name: str, ema: bool) -> Any:
    """Read a file of torch.save, safetensors or a zipped diffusers folder; CheckpointError."""
    kind = files.detect_file_type(content, name)
    try:
        if kind == "zip" and (member := _member(content, name, ema)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return _tensors(archive.read(member), f"{name}:{member}")
        if kind == "zip":
            _check_sums(content, name)
        return _tensors(content, name)
    except (safetensors.SafetensorError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CheckpointError(f"{name} is truncated or damaged ({error}): get it again") from None


def fit(state: State, arch: Architecture, name: str) -> UNet:
    """Return the network of an architecture with exactly these weights."""
    with torch.device("meta"):
        unet = UNet(arch)
    unsupported = [key for key, tensor in state.items() if not _plain(tensor)]
    if unsupported:
        raise CheckpointError(
            f"{name} does not fit: {len(unsupported)} are not dense floating-point tensors "
            f"({unsupported[0]}, …)"
        )
    state = {key: tensor.float() for key, tensor in state.items()}  # where 1e300 is infinite
    state, expected = key_maps.rename_keys(state, unet), unet.state_dict()
    common = [key for key in expected if key in state]
    faults = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "misshapen": [
            f"{key} {list(state[key].shape)} for {list(expected[key].shape)}"
            for key in common
            if state[key].shape != expected[key].shape
        ],
        "not finite": [key for key in common if not state[key].isfinite().all()],
    }
    messages = [
        f"{len(keys)} {fault} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for fault, keys in faults.items()
        if keys
    ]
    if messages:
        raise CheckpointError(f"{name} does not fit: {'; '.join(messages)}")
    state = {key: tensor.contiguous() for key, tensor in state.items()}
    unet.load_state_dict(state, assign=True)
    return unet


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense and floating-point: not sparse, nested, quantized or meta."""
    whole = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_meta)
    return whole and tensor.is_floating_point()


def check_settings(path: Path, arch: Architecture) -> None:
    """Raise CheckpointError if diffusers' config.json next to the weights contradicts `arch`.

    Shapes cannot show this: they are the same in all of these networks.
    """
    config_path = path.with_name("config.json")
    if not path.name.startswith(cards.STEM) or not config_path.is_file():
        return
    config = read_json(config_path)
    if config is None:
        raise CheckpointError(f"{config_path} is not a config of diffusers: fix or remove it")
    widths = [arch.channels * m for m in arch.channel_mult]
    sizes = [arch.image_size // arch.patch >> i for i in range(len(widths))]
    attending = {
        width for width, size in zip(widths, sizes, strict=True) if size in arch.attention
    }
    heads = {width // arch.heads for width in attending | {widths[-1]}}  # the middle attends too
    head_sizes = [*([None] if arch.heads == 1 else []), *(heads if len(heads) == 1 else ())]
    expected: dict[str, tuple[Any, ...]] = {
        "sample_size": (arch.image_size, [arch.image_size] * 2),
        "flip_sin_to_cos": (arch.embedding == "cos-sin",),
        "freq_shift": (int(arch.embedding == "sin-cos"),),
        "norm_eps": (arch.norm_eps,),
        "norm_num_groups": (arch.norm_groups,),
        "attention_head_dim": tuple(head_sizes) or ("several",),
        "downsample_padding": (int(arch.down_padding == (1, 1, 1, 1)),),
        "center_input_sample": (False,),
    }
    for key, values in expected.items():
        if config.get(key, values[0]) not in values:
            raise CheckpointError(
                f"{config_path} says {key}={config[key]}, the architecture has {values[0]}: "
                "choose another"
            )


def _check_sums(content: bytes, name: str) -> None:
    """Raise CheckpointError if a member of an archive does not match its CRC-32."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        damaged = archive.testzip()
    if damaged:
        raise CheckpointError(f"{name} is truncated or damaged (in {damaged}): get it again")


def _architecture(architecture: str | Architecture | None, path: Path) -> Architecture:
    if isinstance(architecture, Architecture):
        return architecture
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    wrong = (
        f"there is no architecture {architecture}" if architecture else "pass architecture=NAME"
    )
    raise CheckpointError(f"{path}: {wrong}, one of {', '.join(ARCHITECTURES)}")


def _member(content: bytes, path: str, ema: bool) -> str | None:
    """The weights in a zipped diffusers folder; None for a file of torch.save."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inside = archive.namelist()
    if any(name.endswith("data.pkl") for name in inside):
        return None
    member = locations.member_of(inside, ema)
    if member is None:
        raise CheckpointError(f"{path} is an archive without {locations.wanted()}")
    return member


def _tensors(content: bytes, name: str) -> Any:
    if files.detect_file_type(content, name) == "safetensors":
        return safetensors.torch.load(content)
    return _unpickle(io.BytesIO(content), name)


def _unpickle(file: BinaryIO, name: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is then raised as an error
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        if needed:
            raise CheckpointError(
                f"{name} needs {needed[1]} to be read and was not opened, since such a pickle can "
                "run any code: if you trust it, save only its tensors, as safetensors"
            ) from None
        reason = "it needs more than tensors, or its bytes have changed"
    except Exception as error:  # torch's readers raise many types for a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise CheckpointError(f"{name} is truncated or damaged ({reason}): get it again") from None
