"""Key maps: the parameter names and shapes of other codes for the same network.

Each code numbers the parts in order of execution and has its own names inside a part. Here parts
have the names of `UNet`; a table maps the module paths of other codes to ours.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from pndm.models.registry import Format
from pndm.models.unet import Attention, Downsample, Level, ResidualBlock, UNet, Upsample

Part = tuple[str, nn.Module]
State = dict[str, Tensor]
# The names of a part's submodules in other codes; a part without entry has no submodules.
MODULE_NAMES: dict[str, dict[type[nn.Module], dict[str, str]]] = {
    "score_sde": {
        ResidualBlock: {
            "GroupNorm_0": "norm1",
            "Conv_0": "conv1",
            "Dense_0": "temb_proj",
            "GroupNorm_1": "norm2",
            "Conv_1": "conv2",
            "NIN_0": "nin_shortcut",  # of DDPM's blocks
            "Conv_2": "nin_shortcut",  # of BigGAN's
        },
        Attention: {
            "GroupNorm_0": "norm",
            "NIN_0": "q",
            "NIN_1": "k",
            "NIN_2": "v",
            "NIN_3": "proj_out",
        },
        Downsample: {"Conv_0": "conv"},
        Upsample: {"Conv_0": "conv"},
    },
    "iddpm": {
        ResidualBlock: {
            "in_layers.0": "norm1",
            "in_layers.2": "conv1",
            "emb_layers.1": "temb_proj",
            "out_layers.0": "norm2",
            "out_layers.3": "conv2",
            "skip_connection": "nin_shortcut",
        },
        Attention: {"norm": "norm", "q": "q", "k": "k", "v": "v", "proj_out": "proj_out"},
        Downsample: {"op": "conv"},
        Upsample: {"conv": "conv"},
    },
    "diffusers": {
        ResidualBlock: {
            "norm1": "norm1",
            "conv1": "conv1",
            "time_emb_proj": "temb_proj",
            "norm2": "norm2",
            "conv2": "conv2",
            "conv_shortcut": "nin_shortcut",
        },
        Attention: {
            "group_norm": "norm",
            **{"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
            **{"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"},  # until 2023
        },
        Downsample: {"conv": "conv"},
        Upsample: {"conv": "conv"},
    },
}
# A key that every file of a code has, and that no file of another has.
SIGNATURE_KEYS: dict[Format, str] = {
    "ddpm": "temb.dense.0.weight",
    "score_sde": "all_modules.0.weight",
    "iddpm": "time_embed.0.weight",
    "diffusers": "time_embedding.linear_1.weight",
}


def detect_format(state: State) -> Format | None:
    """Return the code whose keys a state uses; None for another kind of network."""
    return next((code for code, sign in SIGNATURE_KEYS.items() if sign in state), None)


def rename_keys(state: State, unet: UNet) -> State:
    """Return the state with the keys and shapes of `unet`; unknown keys remain."""
    code = detect_format(state)
    if code in (None, "ddpm"):
        return state
    if code == "iddpm":
        state = split_qkv(state, unet.arch.heads)
    table = {
        f"{path}.{child}" if child else path: f"{name}.{own_child}" if own_child else name
        for path, (name, part) in NUMBERINGS[code](list(parts(unet)))
        for child, own_child in MODULE_NAMES[code].get(type(part), {"": ""}).items()
    }
    shapes = {key: value.shape for key, value in unet.state_dict().items()}
    renamed = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if key == "sigmas":  # score-SDE's table of noise levels, not a weight
            continue
        if leaf == "W":  # score-SDE's NIN, x·W + b over the channels
            leaf, tensor = "weight", tensor.mT if tensor.ndim > 1 else tensor
        elif leaf == "b":
            leaf = "bias"
        name = f"{table[module]}.{leaf}" if module in table else key
        missing_axes = len(shapes.get(name, ())) - tensor.ndim
        if missing_axes > 0:  # a 1×1 convolution stored as a linear map or a 1-d convolution
            tensor = tensor.reshape(*tensor.shape, *[1] * missing_axes)
        renamed[name] = tensor
    return renamed


def split_qkv(state: State, heads: int) -> State:
    """Split [heads·3·(C/heads), …] into three of [C, …]: iDDPM fuses q, k, v head by head."""
    split: State = {}
    for key, tensor in state.items():
        size = len(tensor) if tensor.ndim else 0
        if ".qkv." not in key or not size or size % (3 * heads):
            split[key] = tensor
            continue
        for name, part in zip("qkv", tensor.unflatten(0, (heads, 3, -1)).unbind(1), strict=True):
            split[key.replace(".qkv.", f".{name}.")] = part.flatten(0, 1)
    return split


def parts(unet: UNet) -> Iterator[Part]:
    """The parts of the network and their names, in order of execution."""
    yield from ((f"temb.dense.{k}", layer) for k, layer in enumerate(unet.temb.dense))
    yield "conv_in", unet.conv_in
    for i, level in enumerate(unet.down):
        yield from _parts_of_level(f"down.{i}", level)
    yield from ((f"mid.{name}", part) for name, part in unet.mid.named_children())
    for i, level in reversed(list(enumerate(unet.up))):
        yield from _parts_of_level(f"up.{i}", level)
    yield "norm_out", unet.norm_out
    yield "conv_out", unet.conv_out


def _parts_of_level(name: str, level: Level) -> Iterator[Part]:
    for j, block in enumerate(level.block):
        yield f"{name}.block.{j}", block
        if j >= level.plain:
            yield f"{name}.attn.{j - level.plain}", level.attn[j - level.plain]
    for kind, child in (("downsample", level.downsample), ("upsample", level.upsample)):
        if child is not None:
            yield f"{name}.{kind}", child


def _score_sde(parts: list[Part]) -> Iterator[tuple[str, Part]]:
    """One list of all parts."""
    return ((f"all_modules.{k}", part) for k, part in enumerate(parts))


def _iddpm(parts: list[Part]) -> Iterator[tuple[str, Part]]:
    """Lists of groups; a convolution, a residual block or a downsampling opens a group."""
    fixed = {
        "temb.dense.0": "time_embed.0",
        "temb.dense.1": "time_embed.2",
        "mid.block_1": "middle_block.0",
        "mid.attn_1": "middle_block.1",
        "mid.block_2": "middle_block.2",
        "norm_out": "out.0",
        "conv_out": "out.2",
    }
    groups, index = {"input_blocks": -1, "output_blocks": -1}, 0
    for name, part in parts:
        if name in fixed:
            yield fixed[name], (name, part)
            continue
        stack = "output_blocks" if name.startswith("up.") else "input_blocks"
        opens = isinstance(part, nn.Conv2d | ResidualBlock | Downsample)
        groups[stack], index = (groups[stack] + 1, 0) if opens else (groups[stack], index + 1)
        yield f"{stack}.{groups[stack]}.{index}", (name, part)


def _diffusers(parts: list[Part]) -> Iterator[tuple[str, Part]]:
    """Our order with other names; up_blocks are numbered as executed, ours by level."""
    fixed = {
        "temb.dense.0": "time_embedding.linear_1",
        "temb.dense.1": "time_embedding.linear_2",
        "conv_in": "conv_in",
        "mid.block_1": "mid_block.resnets.0",
        "mid.attn_1": "mid_block.attentions.0",
        "mid.block_2": "mid_block.resnets.1",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
    }
    kinds = {"block": "resnets", "attn": "attentions"}
    kinds |= {"downsample": "downsamplers", "upsample": "upsamplers"}
    last = max(int(name.split(".")[1]) for name, _ in parts if name.startswith("up."))
    for name, part in parts:
        if name in fixed:
            yield fixed[name], (name, part)
            continue
        side, level, kind, *place = name.split(".")
        block = int(level) if side == "down" else last - int(level)
        yield ".".join([f"{side}_blocks.{block}", kinds[kind], *(place or ["0"])]), (name, part)


NUMBERINGS = {"score_sde": _score_sde, "iddpm": _iddpm, "diffusers": _diffusers}
"""For each code, the function that yields every part with its path in that code."""
