"""The network of openai/improved-diffusion as its CIFAR-10 weights have it, under its names.

Parts lie in lists of lists (`output_blocks.3.1.qkv.weight`). Attention has heads and computes q,
k and v by one map, head after head. Norms and the softmax run in float32 whatever the network's
precision, unless `exact`, which is how 64-bit comparisons see the rest.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from references.functions import convolution, dense, doubled, group_norm, same_convolution, silu
from references.parameters import Parameters


def iddpm(
    p: Parameters,
    x: Tensor,
    t: Tensor,
    *,
    channels: int = 128,
    mult: tuple[int, ...] = (1, 2, 2, 2),
    blocks: int = 3,
    attend: tuple[int, ...] = (2, 4),
    heads: int = 4,
    groups: int = 32,
    exact: bool = True,
) -> Tensor:
    """e and the variance's interpolation [B, 6, H, W]; `attend` lists factors of reduction.

    t [B] is the rescaled time, 0 … 999.75.
    """

    def block(at: str, h: Tensor, outputs: int) -> Tensor:
        side = h
        h = silu(group_norm(p, f"{at}.in_layers.0", h, groups, 1e-5))
        h = same_convolution(p, f"{at}.in_layers.2", h, outputs)
        both = dense(p, f"{at}.emb_layers.1", silu(emb), 2 * outputs)[:, :, None, None]
        scale, shift = both[:, :outputs], both[:, outputs:]
        h = group_norm(p, f"{at}.out_layers.0", h, groups, 1e-5) * (1 + scale) + shift
        h = same_convolution(p, f"{at}.out_layers.3", silu(h), outputs)
        if side.shape[1] != outputs:
            side = F.conv2d(side, *p.affine(f"{at}.skip_connection", outputs, side.shape[1], 1, 1))
        return side + h

    def attended(at: str, h: Tensor) -> Tensor:
        batch, width, *image = h.shape
        flat = h.reshape(batch, width, -1)
        qkv = F.conv1d(
            group_norm(p, f"{at}.norm", flat, groups, 1e-5),
            *p.affine(f"{at}.qkv", 3 * width, width, 1),
        )
        mixed = []
        for head in qkv.chunk(heads, 1):
            q, k, v = head.chunk(3, 1)
            logits = torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(width // heads)
            logits = logits if exact else logits.float()
            mixed.append(torch.einsum("bnm,bcm->bcn", logits.softmax(2).to(x.dtype), v))
        out = F.conv1d(torch.cat(mixed, 1), *p.affine(f"{at}.proj_out", width, width, 1))
        return (flat + out).reshape(batch, width, *image)

    half = channels // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, device=t.device).float() / half)
    angles = t.float()[:, None] * rates
    emb = torch.cat([torch.cos(angles), torch.sin(angles)], 1).to(x.dtype)
    emb = dense(p, "time_embed.0", emb, 4 * channels)
    emb = dense(p, "time_embed.2", silu(emb), 4 * channels)

    h = same_convolution(p, "input_blocks.0.0", x, channels)
    kept, reduction, index = [h], 1, 1
    for level, m in enumerate(mult):
        for _ in range(blocks):
            h = block(f"input_blocks.{index}.0", h, m * channels)
            h = attended(f"input_blocks.{index}.1", h) if reduction in attend else h
            kept.append(h)
            index += 1
        if level < len(mult) - 1:
            padded = F.pad(h, (1, 1, 1, 1))
            h = convolution(p, f"input_blocks.{index}.0.op", padded, h.shape[1], stride=2)
            kept.append(h)
            index += 1
            reduction *= 2
    h = block("middle_block.0", h, h.shape[1])
    h = attended("middle_block.1", h)
    h = block("middle_block.2", h, h.shape[1])
    index = 0
    for level, m in reversed(list(enumerate(mult))):
        for i in range(blocks + 1):
            at = f"output_blocks.{index}"
            h = block(f"{at}.0", torch.cat([h, kept.pop()], 1), m * channels)
            place = 1
            if reduction in attend:
                h = attended(f"{at}.1", h)
                place = 2
            if level > 0 and i == blocks:
                h = same_convolution(p, f"{at}.{place}.conv", doubled(h), h.shape[1])
                reduction //= 2
            index += 1
    return same_convolution(p, "out.2", silu(group_norm(p, "out.0", h, groups, 1e-5)), 6)
