"""The families of networks and the weights that are known by name."""

from pndm.models.unet import Architecture

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

ARCHITECTURES = {
    "digits_linear": _DIGITS,
    "digits_cosine": _DIGITS,
    "ddpm_cifar10": Architecture(image_size=32),
    "ddim_celeba": Architecture(image_size=64, channel_mult=(1, 2, 2, 2, 4)),
    "ddpm_lsun_bedroom": Architecture(
        image_size=256, channel_mult=(1, 1, 2, 2, 4, 4), dropout=0.0
    ),
    "ddpm_lsun_church": Architecture(image_size=256, channel_mult=(1, 1, 2, 2, 4, 4), dropout=0.0),
}
"""Every architecture by name; weights are published for all but those trained here."""
