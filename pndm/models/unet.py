"""The U-Net of Ho et al. 2020, the one network behind every family of weights.

Module names are those of the public DDPM checkpoints (`down.0.block.1.conv2`, `mid.attn_1`, …),
so their `state_dict` files load as they are; the other families are configurations of the same
network whose keys `pndm.models.checkpoints` renames.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """What distinguishes one family of U-Nets from another; never guessed from tensor shapes.

    `attention` lists the resolutions (in pixels) at which every block is followed by
    self-attention.
    """

    image_size: int
    in_channels: int = 3
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    dropout: float = 0.1
    norm_groups: int = 32
    norm_eps: float = 1e-6


def time_embedding(t: Tensor, channels: int) -> Tensor:
    """sin‖cos of t·10000^(−i/(half−1)), [B] -> [B, channels]; angles in float32, as trained.

    Source: Vaswani et al. 2017 §3.5, in the variant of the DDPM code (half−1, sine first).
    """
    half = channels // 2
    rates = torch.arange(half, dtype=torch.float32, device=t.device) * (
        -math.log(10000) / (half - 1)
    )
    angles = t.float()[:, None] * rates.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """The two dense layers between the sinusoids and the blocks, [B] -> [B, 4·channels]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.dense = nn.ModuleList(
            [nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, 4 * channels)]
        )

    def forward(self, t: Tensor) -> Tensor:
        first, second = self.dense
        sinusoids = time_embedding(t, self.channels).to(first.weight.dtype)
        return second(F.silu(first(sinusoids)))


class ResidualBlock(nn.Module):
    """norm, SiLU, conv; add the projected time; norm, SiLU, dropout, conv; plus the input."""

    def __init__(self, in_channels: int, out_channels: int, arch: Architecture) -> None:
        super().__init__()
        self.norm1 = normalization(in_channels, arch)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.temb_proj = nn.Linear(4 * arch.channels, out_channels)
        self.norm2 = normalization(out_channels, arch)
        self.dropout = nn.Dropout(arch.dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)
        else:
            self.nin_shortcut = nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """Self-attention over the pixels of a feature map, with 1×1 convolutions, plus the input."""

    def __init__(self, channels: int, arch: Architecture) -> None:
        super().__init__()
        self.norm = normalization(channels, arch)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """A 3×3 convolution of stride 2, padded by one row and column at the end only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, each with its attention where there is one."""

    def __init__(self, widths: list[tuple[int, int]], attend: bool, arch: Architecture) -> None:
        super().__init__()
        self.block = nn.ModuleList([ResidualBlock(i, o, arch) for i, o in widths])
        self.attn = nn.ModuleList([Attention(o, arch) for _, o in widths if attend])

    def forward(self, j: int, x: Tensor, temb: Tensor) -> Tensor:
        x = self.block[j](x, temb)
        return self.attn[j](x) if self.attn else x


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
    """The noise e(x, t) that was mixed into x: ([B, C, H, W], [B] real times) -> [B, C, H, W].

    `t` is the network's own time (0 … 999 embedding scale), not necessarily whole.
    Source: Ho et al. 2020, appendix B.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        widths = [arch.channels * m for m in arch.channel_mult]
        resolutions = [arch.image_size >> i for i in range(len(widths))]
        last = len(widths) - 1

        self.temb = TimeEmbedding(arch.channels)
        self.conv_in = nn.Conv2d(arch.in_channels, arch.channels, 3, padding=1)

        self.down = nn.ModuleList()
        skips, current = [arch.channels], arch.channels
        for i, width in enumerate(widths):
            ins = [current] + [width] * (arch.blocks - 1)
            level = Level([(c, width) for c in ins], resolutions[i] in arch.attention, arch)
            skips += [width] * arch.blocks
            if i != last:
                level.downsample = Downsample(width)
                skips.append(width)
            self.down.append(level)
            current = width

        self.mid = Middle(current, arch)

        up = []
        for i, width in reversed(list(enumerate(widths))):
            ins = [current] + [width] * arch.blocks
            pairs = [(c + skips.pop(), width) for c in ins]
            level = Level(pairs, resolutions[i] in arch.attention, arch)
            if i != 0:
                level.upsample = Upsample(width)
            up.append(level)
            current = width
        self.up = nn.ModuleList(reversed(up))

        self.norm_out = normalization(current, arch)
        self.conv_out = nn.Conv2d(current, arch.in_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        temb = self.temb(t)
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            for j in range(len(level.block)):
                h = level(j, h, temb)
                skips.append(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
                skips.append(h)

        h = self.mid(h, temb)

        for level in reversed(self.up):
            for j in range(len(level.block)):
                h = level(j, torch.cat([h, skips.pop()], dim=1), temb)
            if hasattr(level, "upsample"):
                h = level.upsample(h)

        return self.conv_out(F.silu(self.norm_out(h)))


def normalization(channels: int, arch: Architecture) -> nn.GroupNorm:
    """GroupNorm with the family's groups and epsilon."""
    return nn.GroupNorm(arch.norm_groups, channels, eps=arch.norm_eps)
