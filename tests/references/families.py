"""Every family of networks in a small size, and how far two outputs are apart."""

from dataclasses import replace

import torch

from pndm.models.architectures import ARCHITECTURES, Architecture
from references import small

# As many levels, blocks and attentions as the real ones, where they have them.
DDPM = {
    "ddpm_cifar10": replace(
        ARCHITECTURES["ddpm_cifar10"], image_size=16, channels=16, norm_groups=4, attention=(8,)
    ),
    "ddim_celeba": replace(
        ARCHITECTURES["ddim_celeba"], image_size=32, channels=16, norm_groups=4, attention=(8,)
    ),
    "ddpm_lsun_bedroom": replace(
        ARCHITECTURES["ddpm_lsun_bedroom"],
        image_size=64,
        channels=16,
        norm_groups=4,
        attention=(4,),
    ),
}
SMALL = DDPM | small.ARCHITECTURE


def diffusers_unet(arch: Architecture) -> torch.nn.Module:
    """diffusers' network for one of the DDPM families, as its hub configurations set it up."""
    from diffusers import UNet2DModel

    widths = [arch.channels * m for m in arch.channel_mult]
    attends = [arch.image_size >> i in arch.attention for i in range(len(widths))]
    return UNet2DModel(
        sample_size=arch.image_size,
        layers_per_block=arch.blocks,
        block_out_channels=widths,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        norm_num_groups=arch.norm_groups,
        attention_head_dim=None,
    ).eval()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two tensors, relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
