"""The U-Net of Ho et al. 2020, the one network behind every family of weights.

Module names are those of the public DDPM checkpoints (`down.0.block.1.conv2`, `mid.attn_1`, …),
so their `state_dict` files load as they are; the other families are configurations of the same
network, whose keys `pndm.models.key_maps` renames.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pndm.models.architectures import Architecture

Resampling = Callable[[Tensor], Tensor]

OUTER = ("temb", "conv_in", "norm_out", "conv_out")
"""The layers that stay in float32 in a network of half precision, or under autocast: the time's,
the first and the last. In bf16 they are a hundredth of the work, and up to half of the error."""


def time_embedding(t: Tensor, arch: Architecture, rates: Tensor | None = None) -> Tensor:
    """sin‖cos of t·10000^(−i/(half−1)), [B] -> [B, channels]; angles in float32, as trained.

    `cos-sin` is cos‖sin of t·10000^(−i/half) instead. `rates` are those of `embedding_rates`.
    Source: Vaswani et al. 2017 §3.5, in the variants of the DDPM and iDDPM codes.
    """
    rates = embedding_rates(arch).to(t.device) if rates is None else rates
    angles = (t.float() * arch.time_scale)[:, None] * rates
    parts = {"sin": angles.sin(), "cos": angles.cos()}
    return torch.cat([parts[name] for name in arch.embedding.split("-")], dim=1)


def embedding_rates(arch: Architecture) -> Tensor:
    """10000^(−i/(half−1)) or 10000^(−i/half), [channels/2] float32, computed on the CPU.

    Devices round exponentials differently, and t = 999 magnifies that to 1e-4 of an angle.
    """
    half = arch.channels // 2
    last = half - 1 if arch.embedding == "sin-cos" else half
    steps = torch.arange(half, dtype=torch.float32, device="cpu")
    return (steps * (-math.log(10000) / last)).exp()


def normalization(channels: int, arch: Architecture) -> nn.GroupNorm:
    """GroupNorm with the family's groups and epsilon."""
    return nn.GroupNorm(arch.norm_groups, channels, eps=arch.norm_eps)


def residual(x: Tensor, h: Tensor, arch: Architecture) -> Tensor:
    """(x + h)·residual_scale, in place of h."""
    h.add_(x)
    return h if arch.residual_scale == 1 else h.mul_(arch.residual_scale)


def silu(h: Tensor) -> Tensor:
    """SiLU in place, for an h that is not used elsewhere: a fifth less memory traffic."""
    return F.silu(h, inplace=True)


def unchanged(x: Tensor) -> Tensor:
    """No resampling."""
    return x


def halved(x: Tensor) -> Tensor:
    """The mean of each 2×2 square, [B, C, H, W] -> [B, C, H/2, W/2]."""
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Each pixel as a 2×2 square, [B, C, H, W] -> [B, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class TimeEmbedding(nn.Module):
    """Two dense layers, each with SiLU, on the sinusoids: [B] -> [B, 4·channels]."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        width = 4 * arch.channels
        layers = [nn.Linear(arch.channels, width), nn.Linear(width, width)]
        self.dense: Sequence[nn.Linear] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.rates = embedding_rates(arch)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TimeEmbedding":
        """Move or cast the parameters; the rates move with them and stay float32."""
        super()._apply(fn, recurse)
        self.rates = self.rates.to(next(self.parameters()).device)
        return self

    def forward(self, t: Tensor) -> Tensor:
        first, second = self.dense
        embedding = time_embedding(t, self.arch, self.rates.to(t.device))
        return F.silu(second(F.silu(first(embedding.to(first.weight.dtype)))))


class ResidualBlock(nn.Module):
    """norm, SiLU, conv; the projected time; norm, SiLU, dropout, conv; plus the input.

    A resampling block resamples before its first convolution and on its shortcut.
    """

    def __init__(
        self, inputs: int, outputs: int, arch: Architecture, resample: Resampling = unchanged
    ) -> None:
        super().__init__()
        self.arch, self.resample = arch, resample
        self.norm1 = normalization(inputs, arch)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.temb_proj = nn.Linear(4 * arch.channels, (1 + arch.scale_shift) * outputs)
        self.norm2 = normalization(outputs, arch)
        self.dropout = nn.Dropout(arch.dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut: nn.Module = nn.Identity()
        if inputs != outputs or resample is not unchanged:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(self.resample(silu(self.norm1(x))))
        time = self.temb_proj(temb)[:, :, None, None]
        if self.arch.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h.add_(time))
        h = self.conv2(self.dropout(silu(h)))
        return residual(self.nin_shortcut(self.resample(x)), h, self.arch)


class Attention(nn.Module):
    """Self-attention over the pixels of a feature map, with 1×1 convolutions, plus the input."""

    def __init__(self, channels: int, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.norm = normalization(channels, arch)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        # [B, C, H, W] -> [B, heads, H·W, C/heads]: a view, of unit stride where x is channels_last
        q, k, v = (
            f(h).flatten(2).unflatten(1, (self.arch.heads, -1)).transpose(2, 3)
            for f in (self.q, self.k, self.v)
        )
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)
        return residual(x, self.proj_out(h), self.arch)


class Downsample(nn.Module):
    """A 3×3 convolution of stride 2; the DDPM family pads one row and column at the end only."""

    def __init__(self, channels: int, arch: Architecture) -> None:
        super().__init__()
        self.padding = arch.down_padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3×3 convolution."""

    def __init__(self, channels: int, arch: Architecture) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        return self.conv(doubled(x))


class Level(nn.Module):
    """The blocks of one resolution, the last `attentions` of them followed by attention."""

    def __init__(self, widths: list[tuple[int, int]], attentions: int, arch: Architecture) -> None:
        super().__init__()
        self.plain = len(widths) - attentions
        self.block = nn.ModuleList([ResidualBlock(i, o, arch) for i, o in widths])
        self.attn = nn.ModuleList([Attention(o, arch) for _, o in widths[self.plain :]])
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, j: int, x: Tensor, temb: Tensor) -> Tensor:
        x = self.block[j](x, temb)
        return x if j < self.plain else self.attn[j - self.plain](x)


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int, arch: Architecture) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, arch)
        self.attn_1 = Attention(channels, arch)
        self.block_2 = ResidualBlock(channels, channels, arch)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, temb)), temb)


class UNet(nn.Module):
    """Predict the noise e(x, t) in x: ([B, C, H, W], [B] real times) -> [B, C, H, W].

    `t` is the time in the schedule of the training, not necessarily an integer. One time expanded
    to all images (stride 0, as in sampling) is embedded once. e has the dtype of the last layer.
    Source: Ho et al. 2020, appendix B.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.provenance: dict[str, Any] = {}  # of the weights; `pndm.models.load` fills it
        widths = [arch.channels * m for m in arch.channel_mult]
        attends = [
            arch.image_size // arch.patch >> i in arch.attention for i in range(len(widths))
        ]
        decoder_attentions = arch.blocks + 1 if arch.decoder_attention == "block" else 1
        last = len(widths) - 1

        self.temb = TimeEmbedding(arch)
        pixels = arch.in_channels * arch.patch**2
        self.conv_in = nn.Conv2d(pixels, arch.channels, 3, padding=1)

        down = []
        skips, current = [arch.channels], arch.channels
        for i, width in enumerate(widths):
            ins = [current] + [width] * (arch.blocks - 1)
            level = Level([(c, width) for c in ins], attends[i] * arch.blocks, arch)
            skips += [width] * arch.blocks
            if i != last:
                level.downsample = resampler(width, arch, Downsample, halved)
                skips.append(width)
            down.append(level)
            current = width

        self.down: Sequence[Level] = nn.ModuleList(down)  # type: ignore[assignment]

        self.mid = Middle(current, arch)

        up = []
        for i, width in reversed(list(enumerate(widths))):
            ins = [current] + [width] * arch.blocks
            pairs = [(c + skips.pop(), width) for c in ins]
            level = Level(pairs, attends[i] * decoder_attentions, arch)
            if i != 0:
                level.upsample = resampler(width, arch, Upsample, doubled)
            up.append(level)
            current = width
        self.up: Sequence[Level] = nn.ModuleList(reversed(up))  # type: ignore[assignment]

        self.norm_out = normalization(current, arch)
        outputs = (1 + arch.learned_variance) * pixels
        self.conv_out = nn.Conv2d(current, outputs, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.expand(len(x))
        x = x if self.arch.patch == 1 else F.pixel_unshuffle(x, self.arch.patch)
        dtype = compute_dtype(self.mid.attn_1.q)
        with own_dtype(x.device.type):
            temb = self.temb(t if t.stride(0) else t[:1]).to(dtype)
            h = self.conv_in(x.to(self.conv_in.weight.dtype)).to(dtype)
        skips = [h]
        for level in self.down:
            for j in range(len(level.block)):
                h = level(j, h, temb)
                skips.append(h)
            if level.downsample is not None:
                h = level.downsample(h, temb)
                skips.append(h)

        h = self.mid(h, temb)

        for level in reversed(self.up):
            for j in range(len(level.block)):
                h = level(j, torch.cat([h, skips.pop()], dim=1), temb)
            if level.upsample is not None:
                h = level.upsample(h, temb)

        with own_dtype(x.device.type):
            e = self.conv_out(silu(self.norm_out(h.to(self.conv_out.weight.dtype))))
        e = e if self.arch.patch == 1 else F.pixel_shuffle(e, self.arch.patch)
        return e[:, : self.arch.in_channels]


def compute_dtype(layer: nn.Conv2d) -> torch.dtype:
    """The dtype in which a layer computes: autocast's where that is on, else its weights'."""
    kind = layer.weight.device.type
    return torch.get_autocast_dtype(kind) if has_autocast(kind) else layer.weight.dtype


def own_dtype(kind: str) -> AbstractContextManager[Any]:
    """Let the layers of the block compute in the dtype of their weights, under autocast too."""
    return torch.autocast(kind, enabled=False) if has_autocast(kind) else nullcontext()


def has_autocast(kind: str) -> bool:
    """Whether autocast is on for a kind of device."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def resampler(
    width: int, arch: Architecture, layer: type[nn.Module], resample: Resampling
) -> nn.Module:
    """Return the layer that resamples between levels: a convolution or a residual block."""
    if arch.resample == "conv":
        return layer(width, arch)
    return ResidualBlock(width, width, arch, resample)
