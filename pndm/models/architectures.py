"""The U-Net architectures of the paper's public weights, as values.

Does not import torch, so that configurations are validated without delay.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """The hyper-parameters of one family of U-Nets; never guessed from tensor shapes.

    `attention` lists the resolutions (in pixels) whose blocks are followed by self-attention
    with `heads` heads; in the decoder every block (`block`) or the last of the level (`level`).
    Resampling is by a strided or a nearest-neighbour convolution (`conv`; `down_padding` is the
    strided one's left, right, top, bottom) or by a residual block (`block`, as in BigGAN).
    `residual_scale` multiplies every sum x + h. With `scale_shift` the time scales and shifts
    the second norm's output, else it is added before that norm. With `learned_variance` the
    network has twice the outputs, of which the second half is dropped. `embedding` is the
    order of the sinusoids: `sin-cos` with rates 10000^(−i/(half−1)), `cos-sin` with
    10000^(−i/half). The embedding sees `time_scale`·t. Squares of `patch`×`patch` pixels are
    the channels of one, so that the levels begin at image_size / patch.
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
    heads: int = 1
    decoder_attention: Literal["block", "level"] = "block"
    resample: Literal["conv", "block"] = "conv"
    down_padding: tuple[int, int, int, int] = (0, 1, 0, 1)
    residual_scale: float = 1.0
    scale_shift: bool = False
    learned_variance: bool = False
    embedding: Literal["sin-cos", "cos-sin"] = "sin-cos"
    time_scale: float = 1.0
    patch: int = 1

    @property
    def image(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.in_channels, self.image_size, self.image_size


_DIGITS = Architecture(
    image_size=8,
    in_channels=1,
    channels=16,
    channel_mult=(1, 3),
    blocks=1,
    attention=(),
    dropout=0.05,
    norm_groups=8,
)
_FASHION = Architecture(
    image_size=28,
    in_channels=1,
    channels=48,
    channel_mult=(1, 2),
    blocks=1,
    attention=(7,),
    dropout=0.0,
    norm_groups=8,
    patch=2,
)
_CIFAR10 = Architecture(image_size=32)
_LSUN = Architecture(image_size=256, channel_mult=(1, 1, 2, 2, 4, 4), dropout=0.0)

# Trained with 4000 times, of which the embedding saw t·1000/4000 (OpenAI's rescale_timesteps).
_IDDPM = Architecture(
    image_size=32,
    blocks=3,
    attention=(16, 8),
    dropout=0.3,
    norm_eps=1e-5,
    heads=4,
    down_padding=(1, 1, 1, 1),
    scale_shift=True,
    learned_variance=True,
    embedding="cos-sin",
    time_scale=1000 / 4000,
)
_PF = replace(_CIFAR10, decoder_attention="level")
_PF_DEEP = replace(_PF, blocks=8, resample="block", residual_scale=0.5**0.5)

ARCHITECTURES = {
    "digits_linear": _DIGITS,
    "digits_cosine": _DIGITS,
    "fashion_linear": _FASHION,
    "fashion_cosine": _FASHION,
    "ddpm_cifar10": _CIFAR10,
    "ddim_celeba": Architecture(image_size=64, channel_mult=(1, 2, 2, 2, 4)),
    "ddpm_lsun_bedroom": _LSUN,
    "ddpm_lsun_church": _LSUN,
    "iddpm_cifar10": _IDDPM,
    # As in the authors' code: times 0 … 999 are embedded unscaled.
    "iddpm_cifar10_released": replace(_IDDPM, time_scale=1.0),
    "pf_cifar10": _PF,
    "pf_deep_cifar10": _PF_DEEP,
}
"""Every architecture by name; its weights are in `pndm.models.registry`."""
