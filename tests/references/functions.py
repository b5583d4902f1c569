"""Arithmetic of the reference networks, each step spelt out."""

import torch
import torch.nn.functional as F
from torch import Tensor

from references.parameters import Parameters


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def group_norm(p: Parameters, name: str, x: Tensor, groups: int, eps: float) -> Tensor:
    """Mean 0 and variance 1 in each group of channels, then a scale and a shift per channel."""
    channels = x.shape[1]
    grouped = x.reshape(len(x), groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    normed = centred / (centred.square().mean(2, keepdim=True) + eps).sqrt()
    broadcast = (1, channels) + (1,) * (x.ndim - 2)
    scale, shift = p(f"{name}.weight", channels), p(f"{name}.bias", channels)
    return normed.reshape(x.shape) * scale.reshape(broadcast) + shift.reshape(broadcast)


def convolution(p: Parameters, name: str, x: Tensor, outputs: int, stride: int = 1) -> Tensor:
    """3×3 over an image already padded as wanted."""
    weight, bias = p.affine(name, outputs, x.shape[1], 3, 3)
    return F.conv2d(x, weight, bias, stride=stride)


def same_convolution(p: Parameters, name: str, x: Tensor, outputs: int) -> Tensor:
    return convolution(p, name, F.pad(x, (1, 1, 1, 1)), outputs)


def dense(p: Parameters, name: str, x: Tensor, outputs: int) -> Tensor:
    weight, bias = p.affine(name, outputs, x.shape[1])
    return torch.einsum("bi,oi->bo", x, weight) + bias


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def halved(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(qᵀk/√C)·v over positions, each [B, C, N]."""
    weights = torch.einsum("bcn,bcm->bnm", q, k) / q.shape[1] ** 0.5
    return torch.einsum("bnm,bcm->bcn", weights.softmax(2), v)
