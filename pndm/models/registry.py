"""The weights that are known by name."""

from pndm.models.architectures import ARCHITECTURES as ARCHITECTURES
