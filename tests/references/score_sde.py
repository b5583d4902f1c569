"""The DDPM and DDPM++ networks as in yang-song/score_sde_pytorch, under its parameter names.

All parts are numbered in order of execution (`all_modules.7.Conv_0.weight`). DDPM has the
blocks of Ho et al.; DDPM++ (NCSN++ without its FIR filters and pyramids) resamples inside BigGAN
blocks and divides every sum by √2. Both attend once per level on the way up.
"""

import math
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

from references.functions import (
    attention,
    convolution,
    dense,
    doubled,
    group_norm,
    halved,
    same_convolution,
    silu,
)
from references.parameters import Parameters


def score_sde(
    p: Parameters,
    x: Tensor,
    t: Tensor,
    *,
    biggan: bool,
    channels: int = 128,
    mult: tuple[int, ...] = (1, 2, 2, 2),
    blocks: int = 2,
    attend: tuple[int, ...] = (16,),
    groups: int = 32,
) -> Tensor:
    """e(x [B, 3, H, W], t [B]); `attend` names the heights at which attention follows."""
    numbers = count()
    size = math.sqrt(2) if biggan else 1.0

    def name() -> str:
        return f"all_modules.{next(numbers)}"

    def network_in_network(at: str, h: Tensor, outputs: int) -> Tensor:
        weight, bias = p(f"{at}.W", h.shape[1], outputs), p(f"{at}.b", outputs)
        return torch.einsum("bihw,io->bohw", h, weight) + bias[:, None, None]

    def block(h: Tensor, outputs: int | None = None, resample=None) -> Tensor:
        at, inputs = name(), h.shape[1]
        outputs = outputs or inputs
        side = h if resample is None else resample(h)
        h = silu(group_norm(p, f"{at}.GroupNorm_0", h, groups, 1e-6))
        h = h if resample is None else resample(h)
        h = same_convolution(p, f"{at}.Conv_0", h, outputs)
        h = h + dense(p, f"{at}.Dense_0", silu(emb), outputs)[:, :, None, None]
        h = silu(group_norm(p, f"{at}.GroupNorm_1", h, groups, 1e-6))
        h = same_convolution(p, f"{at}.Conv_1", h, outputs)
        if biggan and (inputs != outputs or resample is not None):
            side = F.conv2d(side, *p.affine(f"{at}.Conv_2", outputs, inputs, 1, 1))
        elif inputs != outputs:
            side = network_in_network(f"{at}.NIN_0", side, outputs)
        return (side + h) / size

    def attended(h: Tensor) -> Tensor:
        at, width = name(), h.shape[1]
        normed = group_norm(p, f"{at}.GroupNorm_0", h, groups, 1e-6)
        q, k, v = (network_in_network(f"{at}.NIN_{i}", normed, width).flatten(2) for i in range(3))
        mixed = attention(q, k, v).reshape(h.shape)
        return (h + network_in_network(f"{at}.NIN_3", mixed, width)) / size

    def smaller(h: Tensor) -> Tensor:
        if biggan:
            return block(h, resample=halved)
        return convolution(p, f"{name()}.Conv_0", F.pad(h, (0, 1, 0, 1)), h.shape[1], stride=2)

    def larger(h: Tensor) -> Tensor:
        if biggan:
            return block(h, resample=doubled)
        return same_convolution(p, f"{name()}.Conv_0", doubled(h), h.shape[1])

    half = channels // 2
    step = math.log(10000) / (half - 1)
    angles = t.float()[:, None] * torch.exp(torch.arange(half, device=t.device).float() * -step)
    emb = torch.cat([torch.sin(angles), torch.cos(angles)], 1).to(x.dtype)
    emb = dense(p, name(), emb, 4 * channels)
    emb = dense(p, name(), silu(emb), 4 * channels)

    h = same_convolution(p, name(), x, channels)
    kept = [h]
    for level, m in enumerate(mult):
        for _ in range(blocks):
            h = block(h, m * channels)
            h = attended(h) if h.shape[2] in attend else h
            kept.append(h)
        if level < len(mult) - 1:
            h = smaller(h)
            kept.append(h)
    h = block(attended(block(h)))
    for level, m in reversed(list(enumerate(mult))):
        for _ in range(blocks + 1):
            h = block(torch.cat([h, kept.pop()], 1), m * channels)
        h = attended(h) if h.shape[2] in attend else h
        if level > 0:
            h = larger(h)
    h = silu(group_norm(p, name(), h, groups, 1e-6))
    return same_convolution(p, name(), h, 3)
